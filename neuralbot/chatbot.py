"""`build_chatbot(config)` loads a model once; the Chatbot answers: `predict` is `stream` joined.

Stateless: a conversation's earlier turns are handed in as `history`. Prompts come from `conversation`, ids from an
engine, text pieces from `textstream`. No plugins, no retrieval, no server here.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from neuralbot import hardware
from neuralbot.arguments import ServingArguments
from neuralbot.conversation import Role, Turn, answer_lead, encode_prompt, ensure_chat_template
from neuralbot.engines.protocol import Sampling, token_budget
from neuralbot.error_codes import ErrorCodes
from neuralbot.errors import GenerationError, ModelError, ResourceError
from neuralbot.modeling import load_for_chat, resolve_model
from neuralbot.neural_chat import config as settings
from neuralbot.neural_chat.config import GenerationConfig, LoadingModelConfig, PipelineConfig
from neuralbot.neural_chat.utils.error_utils import recorded
from neuralbot.reply import Reply, statistics
from neuralbot.textstream import TextStream, byte_token_ids
from neuralbot.transformers import MixedPrecisionConfig

if TYPE_CHECKING:
    import torch

    from neuralbot.engines.protocol import Engine

logger = logging.getLogger(__name__)

History = Sequence[Turn | Mapping[str, Any]]
Device = Literal["cpu", "cuda"]


@recorded
def build_chatbot(config: PipelineConfig | None = None) -> Chatbot:
    """Load what `config` names and return a chatbot. None stands for PipelineConfig(), and says so.

    Raises ModelError for a model or setting that cannot be used, ResourceError for a device that is not there.
    Adaptations (a precision the processor lacks, settings without effect) are warned of once and kept in `notices`.
    """
    if config is None:
        logger.warning("build_chatbot() without a config loads the default model, %s", settings.DEFAULT_MODEL)
        config = PipelineConfig()
    loading = config.loading_config or LoadingModelConfig()
    notices = _check(config, loading)
    resolve_model(config.model_name_or_path)  # a misspelt name is found before torch loads
    device = _device(config.device)
    dtype, adapted = _dtype(config.optimization_config, device)
    notices += adapted
    for notice in notices:
        logger.warning("%s", notice)

    from neuralbot.engines.torch_engine import TorchEngine

    loaded = load_for_chat(
        config.model_name_or_path,
        dtype,
        peft_path=loading.peft_path,
        tokenizer_source=config.tokenizer_name_or_path,
        token=config.hf_access_token,
    )
    style = ensure_chat_template(loaded.tokenizer, config.task or "chat")
    if config.task and style == "tokenizer":
        notices.append(f"PipelineConfig(task={config.task!r}) has no effect: the model brings its own chat template")
        logger.warning("%s", notices[-1])
    engine = TorchEngine(loaded.model.to(device), loaded.tokenizer)
    try:
        return Chatbot(engine, ServingArguments(**loaded.serving), name=config.model_name_or_path, notices=notices)
    except (GenerationError, TypeError) as error:
        raise ModelError(f"the serving.json of {config.model_name_or_path} cannot be used: {error}") from error


class Chatbot:
    """Answers with one engine; safe to use from several threads.

    `serving` is how it answers unless a call says otherwise; `notices` is what was adapted when it was built.
    """

    def __init__(
        self, engine: Engine, serving: ServingArguments | None = None, *, name: str = "", notices: Sequence[str] = ()
    ) -> None:
        self.engine = engine
        self.serving = serving or ServingArguments()
        self.name = name
        self.notices = tuple(notices)
        self.sampling = _serving_sampling(self.serving)
        self._byte_ids = byte_token_ids(engine.tokenizer)
        self._lead = answer_lead(engine.tokenizer)
        self._said: set[str] = set()
        # Encoding with special tokens as text switches a flag inside the tokenizer: two threads would trip over it.
        self._tokenizer_lock = threading.Lock()

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
        query: str,
        origin_query: str = "",
        config: GenerationConfig | None = None,
        *,
        history: History | None = None,
        system_prompt: str | None = None,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
    ) -> str:
        """The answer to `query`; with config.return_stats the statistics follow it, as in neural_chat.

        config: counts as a whole; None means the settings stored with the run (see `generation_config`).
        origin_query: read by plugins only, of which there are none. history: earlier turns, Turn or
        {"role", "content"}. system_prompt, stop, seed: None means the run's own; "" and [] mean none.
        Raises GenerationError for values that cannot be used and for prompts that do not fit the context.
        """
        self._note_origin(query, origin_query)
        turns, sampling = self._request(query, config, history, system_prompt, stop, seed)
        reply = self.reply(turns, sampling, streaming=False)
        answer = "".join(reply)
        return answer + statistics(reply, config)

    @recorded
    def predict_stream(
        self,
        query: str,
        origin_query: str = "",
        config: GenerationConfig | None = None,
        *,
        history: History | None = None,
        system_prompt: str | None = None,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
    ) -> tuple[Iterator[str], list[str]]:
        """`(pieces, links)`, as in neural_chat: the answer in pieces while it is made, and the sources it rests on.

        Without retrieval there are no links. The arguments are those of `predict`; beams cannot be streamed.
        """
        self._note_origin(query, origin_query)
        return self.stream(query, config, history=history, system_prompt=system_prompt, stop=stop, seed=seed), []

    def stream(
        self,
        query: str,
        config: GenerationConfig | None = None,
        *,
        history: History | None = None,
        system_prompt: str | None = None,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
    ) -> Iterator[str]:
        """The pieces alone: joined they are what `predict` returns. Wrong arguments raise here, not at the first piece.

        Closing the iterator ends the generation.
        """
        turns, sampling = self._request(query, config, history, system_prompt, stop, seed)
        return _with_statistics(self.reply(turns, sampling), config)

    def reply(self, turns: Sequence[Turn], sampling: Sampling, *, streaming: bool = True) -> Reply:
        """The answer to a conversation as an iterator of pieces that knows its lengths, times and finish reason.

        Beams need streaming=False: their answer is computed here, before the first piece.
        """
        started = time.perf_counter()
        prompt = self._encode(turns)
        limit = token_budget(len(prompt), sampling.max_new_tokens, self.engine.context_length)
        if sampling.num_beams > 1 and not streaming:
            ids = iter(self.engine.generate_batch([prompt], sampling)[0])
        else:
            ids = self.engine.stream(prompt, sampling)
        pieces = TextStream(
            ids, self._decode, lead=self._lead, stop=sampling.stop, limit=limit, byte_ids=self._byte_ids
        )
        return Reply(pieces, len(prompt), started)

    def room(self, turns: Sequence[Turn]) -> int | None:
        """Tokens the context leaves for an answer to `turns`, negative if they are too long; None: no limit known."""
        context = self.engine.context_length
        return None if context is None else context - len(self._encode(turns))

    def turns(self, query: str, history: History | None = None, system_prompt: str | None = None) -> list[Turn]:
        """The conversation that `query` ends: one system turn at most, then the history, then the query."""
        if not isinstance(query, str) or not query.strip():
            raise GenerationError(f"query={query!r} cannot be answered: expected a text")
        _require_unicode("query", query)
        earlier = [_turn(turn) for turn in history or ()]
        has_system = any(turn.role == "system" for turn in earlier)
        if has_system and system_prompt is not None:
            raise GenerationError("there is a system message in history and another in system_prompt; give one of them")
        system = self.serving.system_prompt if system_prompt is None and not has_system else system_prompt
        _require_unicode("system_prompt", system or "")
        return [*([Turn("system", system)] if system else []), *earlier, Turn("user", query)]

    def _request(
        self,
        query: str,
        config: GenerationConfig | None,
        history: History | None,
        system_prompt: str | None,
        stop: str | Sequence[str] | None,
        seed: int | None,
    ) -> tuple[list[Turn], Sampling]:
        sampling = self.sampling if config is None else self._from_config(config)
        if stop is not None:
            sampling = replace(sampling, stop=(stop,) if isinstance(stop, str) else _as_tuple(stop))
        if seed is not None:
            sampling = replace(sampling, seed=seed)
        return self.turns(query, history, system_prompt), sampling

    def _from_config(self, config: GenerationConfig) -> Sampling:
        if not isinstance(config, GenerationConfig):
            raise GenerationError(
                f"config is a {type(config).__module__}.{type(config).__name__}: expected a "
                "neuralbot.neural_chat.GenerationConfig"
            )
        settings.refuse(config, settings.GENERATION_REFUSED, GenerationError)
        if config.format_version not in ("v1", "v2"):
            raise GenerationError(f"format_version={config.format_version!r} is not known: expected 'v1' or 'v2'")
        for sentence in settings.without_effect(config, settings.GENERATION_NO_EFFECT):
            self._say_once(sentence)
        return replace(
            self.sampling,
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
            repetition_penalty=config.repetition_penalty,
            max_new_tokens=config.max_new_tokens,
            do_sample=config.do_sample,
            num_beams=config.num_beams,
            bad_words_ids=_bad_words(config.bad_words_ids),
        )

    def _note_origin(self, query: str, origin_query: str) -> None:
        if origin_query and origin_query != query:
            self._say_once("origin_query has no effect: it is for plugins, and none is active")

    def _say_once(self, sentence: str) -> None:
        if sentence not in self._said:
            self._said.add(sentence)
            logger.warning("%s", sentence)

    def _encode(self, turns: Sequence[Turn]) -> list[int]:
        with self._tokenizer_lock:
            return encode_prompt(self.engine.tokenizer, turns)

    def _decode(self, ids: list[int]) -> str:
        with self._tokenizer_lock:
            text = self.engine.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)


def _check(config: PipelineConfig, loading: LoadingModelConfig) -> list[str]:
    """Refuses what cannot be honoured; returns a sentence for each setting without effect."""
    settings.refuse(config, settings.PIPELINE_REFUSED, ModelError)
    settings.refuse(loading, settings.LOADING_REFUSED, ModelError)
    enabled = [name for name, plugin in (config.plugins or {}).items() if _is_enabled(plugin)]
    if enabled:
        raise ModelError(f"the plugin {enabled[0]!r} is enabled, but plugins are not offered; disable it")
    return settings.without_effect(loading, settings.LOADING_NO_EFFECT)


def _is_enabled(plugin: Any) -> bool:
    return bool(plugin.get("enable") if isinstance(plugin, Mapping) else getattr(plugin, "enable", False))


def _device(name: str) -> Device:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return "cpu"
    if name != "cuda":
        raise ResourceError(
            f"device={name!r} is not supported: expected auto, cpu or cuda", code=ErrorCodes.ERROR_DEVICE_NOT_SUPPORTED
        )
    if not torch.cuda.is_available():
        raise ResourceError(
            "device='cuda' was asked for, but torch sees no CUDA device; use device='auto' or 'cpu'",
            code=ErrorCodes.ERROR_DEVICE_NOT_FOUND,
        )
    return "cuda"


def _dtype(config: MixedPrecisionConfig | None, device: Device) -> tuple[torch.dtype, list[str]]:
    """The precision to run in, and a sentence if it is not the one asked for."""
    import torch

    if config is None:
        config = MixedPrecisionConfig("float16" if device == "cuda" else "bfloat16")
    if not isinstance(config, MixedPrecisionConfig):
        raise ModelError(
            f"optimization_config is a {type(config).__name__}: only MixedPrecisionConfig is offered "
            "(from neuralbot.transformers)"
        )
    native = {"bfloat16": hardware.has_bf16, "float16": hardware.has_fp16}.get(config.dtype)
    if device == "cpu" and native and not native():
        return torch.float32, [f"float32 is used instead of {config.dtype}: this processor has no instructions for it"]
    dtypes = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
    return dtypes[config.dtype], []


def _serving_sampling(serving: ServingArguments) -> Sampling:
    return Sampling(
        temperature=serving.temperature,
        top_k=serving.top_k,
        top_p=serving.top_p,
        repetition_penalty=serving.repetition_penalty,
        max_new_tokens=serving.max_new_tokens,
        do_sample=serving.do_sample,
        seed=serving.seed,
        stop=_as_tuple(serving.stop),
    )


def _as_tuple(values: Any) -> Any:
    """Lists become tuples; what is neither stays as it is, for Sampling to refuse by name."""
    return tuple(values) if isinstance(values, list | tuple) else values


def _bad_words(words: Any) -> Any:
    """neural_chat's list of token ids, or transformers' list of lists of them, as Sampling wants it."""
    if not isinstance(words, list | tuple):
        return words
    return tuple((word,) if isinstance(word, int) else _as_tuple(word) for word in words) or None


def _turn(turn: Turn | Mapping[str, Any]) -> Turn:
    if isinstance(turn, Turn):
        return turn
    message: dict[str, Any] = dict(turn) if isinstance(turn, Mapping) else {}
    readable = message.get("role") in get_args(Role) and isinstance(message.get("content"), str)
    if not readable or message.get("tool_calls"):
        raise GenerationError(
            f"history holds {turn!r}: expected a Turn or {{'role': 'user', 'content': 'text'}} with the role "
            f"{', '.join(get_args(Role))}; calls of tools only in a Turn"
        )
    _require_unicode("history", message["content"])
    return Turn(message["role"], message["content"])


def _require_unicode(name: str, text: str) -> None:
    """Half a surrogate pair (from a broken file or terminal) is no text, and tokenizers crash on it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        message = f"{name} is not valid Unicode at character {error.start}: remove {text[error.start]!r}"
        raise GenerationError(message) from error


def _with_statistics(reply: Reply, config: GenerationConfig | None) -> Iterator[str]:
    try:
        yield from reply
        if text := statistics(reply, config):
            yield text
    finally:
        reply.close()
