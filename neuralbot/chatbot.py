"""`build_chatbot(config)` loads a model once; the Chatbot answers: `predict` is `predict_stream` joined.

Stateless: a conversation's earlier turns are handed in as `history`. Which engine answers is settled in `chat_engine`,
what callers may ask in `chat_request`, how ids become text in `reply`, what plugins do in `plugin_hooks`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn, Unpack

from neuralbot import chat_engine, chat_request, plugin_hooks
from neuralbot.arguments import ServingArguments
from neuralbot.chat_request import History, Message, Request, Wishes
from neuralbot.conversation import Turn
from neuralbot.engines.meter import Meter
from neuralbot.engines.protocol import Sampling
from neuralbot.engines.remote import RemoteEngine
from neuralbot.error_codes import ErrorCodes
from neuralbot.errors import GenerationError, ModelError
from neuralbot.neural_chat import config as settings
from neuralbot.neural_chat.config import GenerationConfig, PipelineConfig
from neuralbot.neural_chat.plugins import plugins as global_plugins
from neuralbot.neural_chat.utils.error_utils import recorded
from neuralbot.plugin_hooks import PluginHooks
from neuralbot.reply import EngineReplies, Reply, statistics
from neuralbot.turns import message_of

if TYPE_CHECKING:
    from neuralbot.engines.protocol import Engine

logger = logging.getLogger(__name__)

_USUAL = GenerationConfig().max_new_tokens


@recorded
def build_chatbot(config: PipelineConfig | None = None) -> Chatbot:
    """Load what `config` names and return a chatbot. None stands for PipelineConfig(), and says so.

    Raises ModelError for a model or setting that cannot be used, ResourceError for a device that is not there.
    Adaptations (a precision the processor lacks, settings without effect) are warned of once and kept in `notices`.
    """
    if config is None:
        logger.warning("build_chatbot() without a config loads the default model, %s", settings.DEFAULT_MODEL)
        config = PipelineConfig()
    plugins = plugin_hooks.instances(global_plugins if config.plugins is None else config.plugins)
    loaded = chat_engine.load(config)
    for notice in loaded.notices:
        logger.warning("%s", notice)
    name = config.model_name_or_path
    try:
        return Chatbot(loaded.engine, loaded.serving, name=name, notices=loaded.notices, plugins=PluginHooks(plugins))
    except GenerationError as error:
        raise ModelError(f"the serving.json of {name} cannot be used: {error}") from error


class Chatbot:
    """Answers with one engine; safe to use from several threads.

    `serving` is how it answers unless a call says otherwise; `notices` is what was adapted when it was built.
    """

    def __init__(
        self,
        engine: Engine | RemoteEngine,
        serving: ServingArguments | None = None,
        *,
        name: str = "",
        notices: Sequence[str] = (),
        plugins: PluginHooks | None = None,
    ) -> None:
        self.engine = engine
        self.serving = serving or ServingArguments()
        self.name = name
        self.notices = tuple(notices)
        self.sampling = chat_request.serving_sampling(self.serving)
        self.plugins = plugins or PluginHooks()
        self._local = None if isinstance(engine, RemoteEngine) else EngineReplies(engine)
        self._said: set[str] = set()

    @property
    def generation_config(self) -> GenerationConfig:
        """The chatbot's own settings as a new GenerationConfig: change some of them and hand it to `predict`."""
        own = self.serving
        return GenerationConfig(
            temperature=own.temperature,
            top_k=own.top_k,
            top_p=own.top_p,
            repetition_penalty=own.repetition_penalty,
            max_new_tokens=own.max_new_tokens,
            do_sample=own.do_sample,
        )

    @recorded
    def predict(
        self,
        query: str | Sequence[Message],
        origin_query: str = "",
        config: GenerationConfig | None = None,
        **wishes: Unpack[Wishes],
    ) -> str:
        """The answer to `query`; with config.return_stats the statistics follow it, as in neural_chat.

        query: a text, or a list of messages whose last one is the user's. origin_query: what a safety checker reads
        besides. config: counts as a whole; None means the settings stored with the run (see `generation_config`). Of
        several answers (num_return_sequences) this is the first, see `predict_all`. wishes: history, system_prompt,
        stop, seed, json_schema, regex; see `chat_request.Wishes`. Raises GenerationError for values that cannot be
        used, for prompts that do not fit the context, and for what a plugin or a server does wrong.
        """
        pieces, _ = self._answer(query, origin_query, config, wishes, streaming=False)
        return "".join(pieces)

    @recorded
    def predict_stream(
        self,
        query: str | Sequence[Message],
        origin_query: str = "",
        config: GenerationConfig | None = None,
        **wishes: Unpack[Wishes],
    ) -> tuple[Iterator[str], list[Any]]:
        """`(pieces, links)`, as in neural_chat: the answer in pieces while it is made, and the sources it rests on.

        The links come from plugins. Where a plugin changes answers, the answer comes in one piece. The arguments are
        those of `predict`; wrong ones raise here, not at the first piece. Beams cannot be streamed. Closing the
        iterator ends the generation.
        """
        return self._answer(query, origin_query, config, wishes, streaming=True)

    chat = predict
    chat_stream = predict_stream

    def stream(
        self, query: str | Sequence[Message], config: GenerationConfig | None = None, **wishes: Unpack[Wishes]
    ) -> Iterator[str]:
        """The pieces of `predict_stream` alone: joined they are what `predict` returns."""
        return self._answer(query, "", config, wishes, streaming=True)[0]

    def predict_all(
        self, query: str | Sequence[Message], config: GenerationConfig, **wishes: Unpack[Wishes]
    ) -> list[str]:
        """`config.num_return_sequences` answers: of the seed and those that follow it, or the best beams.

        The first is that of `predict`. Statistics are for one answer: config.return_stats has no effect here.
        """
        request = chat_request.read(query, **wishes)
        sampling = self._sampling(config, request)
        asked = self.plugins.before(request.query, "", self.name)
        if asked.answer is not None:
            return [asked.answer]
        turns = self._turns(replace(request, query=asked.query))
        return [self.plugins.after(request.query, answer) for answer in self._several(turns, sampling)]

    def reply(self, turns: Sequence[Turn], sampling: Sampling, *, streaming: bool = True) -> Reply:
        """The answer to a conversation as an iterator of pieces that knows its lengths, times and finish reason.

        No plugin sees it. Beams need streaming=False: their answer is computed here, before the first piece.
        """
        if self._local is not None:
            return self._local.reply(turns, sampling, streaming=streaming)
        assert isinstance(self.engine, RemoteEngine)
        meter = Meter()
        return Reply(self.engine.stream([message_of(turn, True) for turn in turns], sampling, meter), meter)

    def room(self, turns: Sequence[Turn]) -> int | None:
        """Tokens the context leaves for an answer to `turns`, negative if they are too long; None: no limit known."""
        return None if self._local is None else self._local.room(turns)

    def turns(self, query: str, history: History | None = None, system_prompt: str | None = None) -> list[Turn]:
        """The conversation that `query` ends: one system turn at most, then the history, then the query."""
        return self._turns(chat_request.read(query, history=history, system_prompt=system_prompt))

    def set_customized_system_prompts(self, system_prompts: str, model_path: str = "", task: str = "") -> None:
        """The system message of every conversation from now on.

        model_path, task: neural_chat's; a chatbot has one model and one prompt style, so they change nothing.
        """
        if not isinstance(system_prompts, str) or not system_prompts:
            raise GenerationError(f"system_prompts={system_prompts!r} cannot be used: expected a text")
        for name, value, own in (("model_path", model_path, self.name), ("task", task, "")):
            if value and value != own:
                self._say_once(f"{name}={value!r} has no effect: the system message is set for this chatbot")
        self.serving = replace(self.serving, system_prompt=system_prompts)

    def prepare_prompt(self, prompt: str, task: str = "") -> str:
        """The text that the model is asked with when `prompt` is the question."""
        if self._local is None:
            raise GenerationError("the prompts of a remote model are written by its server")
        if task:
            self._say_once(f"task={task!r} has no effect: the prompt style is chosen once, by PipelineConfig(task=...)")
        return self._local.prompt(self.turns(prompt))

    def register_plugin_instance(self, plugin_name: str, instance: Any) -> None:
        """Lets a plugin take part from now on, after those there are; see `plugin_hooks`."""
        self.plugins.instances[plugin_name] = instance

    def face_animate(self, *arguments: Any, **named: Any) -> NoReturn:
        """Refused: pictures and videos are not offered."""
        raise GenerationError("face_animate is not offered: neuralbot makes no pictures and videos")

    def _answer(
        self,
        query: str | Sequence[Message],
        origin_query: str,
        config: GenerationConfig | None,
        wishes: Wishes,
        *,
        streaming: bool,
    ) -> tuple[Iterator[str], list[Any]]:
        request = chat_request.read(query, **wishes)
        sampling = self._sampling(config, request)
        if origin_query and origin_query != query and "safety_checker" not in self.plugins.instances:
            self._say_once("origin_query has no effect: it is for the plugin safety_checker, which is not active")
        if sampling.num_return_sequences > 1:
            several = f"GenerationConfig(num_return_sequences={sampling.num_return_sequences})"
            self._say_once(f"{several}: this is the first of the answers; predict_all gives all")
        asked = self.plugins.before(request.query, origin_query, self.name)
        if asked.answer is not None:
            return (piece for piece in [asked.answer]), asked.links
        reply = self.reply(self._turns(replace(request, query=asked.query)), sampling, streaming=streaming)
        return self._pieces(reply, request.query, config), asked.links

    def _pieces(self, reply: Reply, query: str, config: GenerationConfig | None) -> Iterator[str]:
        try:
            if self.plugins.change_answers:
                yield self.plugins.after(query, "".join(reply))
            else:
                yield from reply
            if text := statistics(reply.meter, config):
                yield text
        finally:
            reply.close()

    def _turns(self, request: Request) -> list[Turn]:
        return chat_request.conversation(request, self.serving.system_prompt)

    def _several(self, turns: Sequence[Turn], sampling: Sampling) -> list[str]:
        if self._local is not None:
            return self._local.several(turns, sampling)
        seeds = (
            None if sampling.seed is None else sampling.seed + place for place in range(sampling.num_return_sequences)
        )
        return ["".join(self.reply(turns, replace(sampling, seed=seed))) for seed in seeds]

    def _sampling(self, config: GenerationConfig | None, request: Request) -> Sampling:
        sampling = self.sampling
        if config is not None:
            sampling = chat_request.with_config(sampling, config)
            self._require_room(sampling.max_new_tokens)
            for sentence in settings.without_effect(config, settings.GENERATION_NO_EFFECT):
                self._say_once(sentence)
        return chat_request.with_wishes(sampling, request)

    def _require_room(self, asked: int) -> None:
        """Raises GenerationError for a limit that only a mistake can be; that of the run, and the default, are cut."""
        context = None if isinstance(self.engine, RemoteEngine) else self.engine.context_length
        if context is not None and asked > context and asked not in (self.sampling.max_new_tokens, _USUAL):
            raise GenerationError(
                f"GenerationConfig(max_new_tokens={asked}): the model reads at most {context} tokens, prompt and "
                "answer together; lower it",
                code=ErrorCodes.WARNING_INPUT_COMPLETION_EXCEED_MAX_SEQ_LENGTH,
            )

    def _say_once(self, sentence: str) -> None:
        if sentence not in self._said:
            self._said.add(sentence)
            logger.warning("%s", sentence)
