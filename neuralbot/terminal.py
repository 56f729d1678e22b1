"""`neuralbot chat RUN`: a chat in the terminal. Answers appear while they are made; Ctrl-C stops an answer.

Reads standard input line by line, so a pipe works too: then there are no prompts and answers alone go to standard
output. Keeps the conversation until /clear; turns that no longer fit the context are dropped, oldest first, and said
so. Does not save chats.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from neuralbot.errors import GenerationError, NeuralbotError, UsageError
from neuralbot.itrex import ENGINE_HELP, ENGINES
from neuralbot.textstream import NO_CONTROLS

if TYPE_CHECKING:
    from neuralbot.chatbot import Chatbot
    from neuralbot.conversation import Turn
    from neuralbot.engines.protocol import Sampling

HELP = """\
/system TEXT   set the system message (alone: show it; /system none: remove it)
/clear         forget the conversation
/help          this list
/quit          leave (also Ctrl-D)
Ctrl-C         stop the answer that is being written; at the prompt: leave"""


def main(argv: Sequence[str]) -> int:
    """Load the model that `argv` names and chat until the input ends. Raises NeuralbotError."""
    options = _parser().parse_args(argv)
    if options.engine == "itrex":
        from neuralbot.itrex import engine

        return engine.chat(options.model, options.adapter)
    chatbot = _load(options)
    session = Session(chatbot, _sampling(chatbot, options), options.system)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # an answer may hold what the terminal's encoding does not
    if sys.stdin.isatty():
        import readline  # noqa: F401  # gives input() line editing and its history

        print(f"{options.model}: type a question, or /help")
    return _converse(session)


@dataclass
class Session:
    """One conversation: what was said, and how the next answer is made. Its text goes to standard output."""

    chatbot: Chatbot
    sampling: Sampling
    system: str | None = None  # None: the run's own; "": none
    failed: bool = False
    history: list[Turn] = field(default_factory=list)

    def handle(self, line: str) -> bool:
        """Act on one line of input; False ends the chat."""
        line = line.strip()
        if line.startswith("/"):
            return self._command(*line.partition(" ")[::2])
        if line:
            self._answer(line)
        return True

    def _command(self, name: str, text: str) -> bool:
        text = text.strip()
        if name == "/quit":
            return False
        if name == "/clear":
            self.history.clear()
            _say("the conversation is forgotten")
        elif name == "/system":
            self._set_system(text)
        else:
            if name != "/help":
                _say(f"there is no command {name}")
            _say(HELP)
        return True

    def _set_system(self, text: str) -> None:
        if text:
            self.system = "" if text == "none" else text
        shown = self.chatbot.serving.system_prompt if self.system is None else self.system
        _say(f"system message: {shown or 'none'}")

    def _answer(self, query: str) -> None:
        from neuralbot.conversation import Turn

        pieces: list[str] = []
        try:
            reply = self.chatbot.reply(self._fitting(query), self.sampling)
            for piece in reply:
                pieces.append(piece)
                print(piece.translate(NO_CONTROLS), end="", flush=True)
            print(flush=True)
            if reply.finish_reason == "length":
                _say(f"[cut off after {reply.meter.completion_tokens} tokens]")
        except KeyboardInterrupt:
            print(flush=True)
            _say("[stopped]")
        except NeuralbotError as error:
            self.failed = True
            _say(f"error: {error}")
            return
        if pieces:
            self.history += [Turn("user", query), Turn("assistant", "".join(pieces))]

    def _fitting(self, query: str) -> list[Turn]:
        """The turns to answer, with the oldest exchanges dropped until question and answer have room."""
        dropped = 0
        turns = self.chatbot.turns(query, self.history, self.system)
        while self.history and self._is_tight(turns):
            del self.history[:2]
            dropped += 1
            turns = self.chatbot.turns(query, self.history, self.system)
        if dropped:
            _say(f"[the context is full: the oldest {dropped} question{'s' * (dropped > 1)} and answers are forgotten]")
        return turns

    def _is_tight(self, turns: list[Turn]) -> bool:
        """Whether the context leaves less than the longest answer asked for, or less than a quarter of itself."""
        room, context = self.chatbot.room(turns), self.chatbot.engine.context_length
        return room is not None and context is not None and room < min(self.sampling.max_new_tokens, context // 4)


def _converse(session: Session) -> int:
    """Line after line until the input ends; a pipe with a question that could not be answered ends with 1."""
    typed = sys.stdin.isatty()
    try:
        while session.handle(input("\n> " if typed else "")):
            pass
    except (EOFError, KeyboardInterrupt):
        if typed:
            print()
    return int(session.failed and not typed)


def _load(options: argparse.Namespace) -> Chatbot:
    from neuralbot import modeling
    from neuralbot.chatbot import build_chatbot
    from neuralbot.neural_chat.config import LoadingModelConfig, PipelineConfig
    from neuralbot.transformers import MixedPrecisionConfig

    modeling.resolve_model(options.model)  # a misspelt name is found before transformers loads
    modeling.hide_loading_bars()
    precision = MixedPrecisionConfig(options.dtype) if options.dtype else None
    return build_chatbot(
        PipelineConfig(
            options.model,
            device=options.device,
            loading_config=LoadingModelConfig(peft_path=options.adapter),
            optimization_config=precision,
        )
    )


def _sampling(chatbot: Chatbot, options: argparse.Namespace) -> Sampling:
    """The run's own settings with those of the command line in their place."""
    names = ("temperature", "top_k", "top_p", "repetition_penalty", "max_new_tokens", "seed")
    given: dict[str, Any] = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if given.get("temperature"):
        given["do_sample"] = True  # a temperature asks for sampling, even of a run that is served greedily
    if options.stop:
        given["stop"] = tuple(options.stop)
    try:
        return replace(chatbot.sampling, **given)
    except GenerationError as error:
        raise UsageError(str(error)) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="neuralbot chat",
        description="Chat with a tuned model in the terminal.",
        epilog="Settings that are not given are those stored with the run.",
    )
    parser.add_argument("model", help='a run folder, a model folder, "seedling" or a Hugging Face name')
    parser.add_argument("--engine", choices=ENGINES, default=ENGINES[0], help=f"{ENGINE_HELP} (default: %(default)s)")
    parser.add_argument("--adapter", metavar="DIR", help="folder of an adapter to put on the model")
    parser.add_argument("--system", metavar="TEXT", help='system message; "" for none')
    parser.add_argument("--temperature", type=float, metavar="T", help="0: always the likeliest token")
    parser.add_argument("--top-k", type=int, metavar="K", help="sample among the K likeliest tokens; 0: no limit")
    parser.add_argument("--top-p", type=float, metavar="P", help="sample among the likeliest that sum up to P")
    parser.add_argument("--repetition-penalty", type=float, metavar="R", help="above 1: repetition is less likely")
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="longest answer in tokens")
    parser.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same answers")
    parser.add_argument("--stop", action="append", metavar="TEXT", help="text that ends an answer; may be repeated")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), help="number format of the weights")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _say(text: str) -> None:
    """A word of the program's own; on standard error, so that a pipe receives answers only."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    from neuralbot.command import run

    sys.exit(run(lambda: main(sys.argv[1:]), "--debug" in sys.argv))
