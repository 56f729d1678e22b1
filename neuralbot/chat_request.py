"""What a caller of a chatbot hands in -> the turns to answer and the sampling values, both checked by name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict, get_args

from neuralbot.arguments import ServingArguments
from neuralbot.conversation import Role, Turn
from neuralbot.engines.protocol import Sampling
from neuralbot.errors import GenerationError
from neuralbot.neural_chat import config as settings
from neuralbot.neural_chat.config import GenerationConfig

Message = Turn | Mapping[str, Any]
History = Sequence[Message]


class Wishes(TypedDict, total=False):
    """What may be said beside a question.

    history: earlier turns, Turn or {"role", "content"}. system_prompt, stop, seed: None means the chatbot's own;
    "" and [] mean none. json_schema, regex: the answer is JSON of that form, or matches as a whole; for the OpenVINO
    engine.
    """

    history: History | None
    system_prompt: str | None
    stop: str | Sequence[str] | None
    seed: int | None
    json_schema: str | Mapping[str, Any] | None
    regex: str | None


@dataclass(frozen=True)
class Request:
    """A question and what was said beside it; see Wishes."""

    query: str
    history: History = ()
    system_prompt: str | None = None
    stop: str | Sequence[str] | None = None
    seed: int | None = None
    json_schema: str | Mapping[str, Any] | None = None
    regex: str | None = None


def read(
    query: str | Sequence[Message],
    *,
    history: History | None = None,
    system_prompt: str | None = None,
    stop: str | Sequence[str] | None = None,
    seed: int | None = None,
    json_schema: str | Mapping[str, Any] | None = None,
    regex: str | None = None,
) -> Request:
    """query: a text; or a list of messages, the last one the user's, as neural_chat's remote models took it.

    Raises GenerationError for what is neither.
    """
    if not isinstance(query, str) and isinstance(query, Sequence):
        turns = [_turn(message) for message in query]
        if history or not turns or turns[-1].role != "user":
            raise GenerationError(
                f"query is a list of {len(turns)} messages: expected the last one to be the user's, and no history "
                "beside it"
            )
        query, history = turns[-1].content, turns[:-1]
    if not isinstance(query, str) or not query.strip():
        raise GenerationError(f"query={query!r} cannot be answered: expected a text")
    _require_unicode("query", query)
    return Request(query, history or (), system_prompt, stop, seed, json_schema, regex)


def conversation(request: Request, own_system: str | None) -> list[Turn]:
    """One system turn at most, then the history, then the query. Raises GenerationError."""
    earlier = [_turn(turn) for turn in request.history]
    system = request.system_prompt
    if any(turn.role == "system" for turn in earlier):
        if system is not None:
            raise GenerationError("there is a system message in history and another in system_prompt; give one of them")
    elif system is None:
        system = own_system
    _require_unicode("system_prompt", system or "")
    return [*([Turn("system", system)] if system else []), *earlier, Turn("user", request.query)]


def serving_sampling(serving: ServingArguments) -> Sampling:
    """The sampling values of a chatbot's own settings."""
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


def with_config(own: Sampling, config: GenerationConfig) -> Sampling:
    """`own` with all values of `config` in their place. Raises GenerationError."""
    if not isinstance(config, GenerationConfig):
        raise GenerationError(
            f"config is a {type(config).__module__}.{type(config).__name__}: expected a "
            "neuralbot.neural_chat.GenerationConfig"
        )
    settings.refuse(config, settings.GENERATION_REFUSED, GenerationError)
    if config.format_version not in ("v1", "v2"):
        raise GenerationError(f"format_version={config.format_version!r} is not known: expected 'v1' or 'v2'")
    return replace(
        own,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        repetition_penalty=config.repetition_penalty,
        max_new_tokens=config.max_new_tokens,
        do_sample=config.do_sample,
        num_beams=config.num_beams,
        num_return_sequences=config.num_return_sequences,
        bad_words_ids=_bad_words(config.bad_words_ids),
    )


def with_wishes(sampling: Sampling, request: Request) -> Sampling:
    """`sampling` with the request's stop strings, seed and form of the answer. Raises GenerationError."""
    stop, seed = request.stop, request.seed
    if stop is not None:
        sampling = replace(sampling, stop=(stop,) if isinstance(stop, str) else _as_tuple(stop))
    if seed is not None:
        sampling = replace(sampling, seed=seed)
    return replace(sampling, json_schema=_schema(request.json_schema), regex=request.regex)


def _schema(schema: Any) -> Any:
    """A schema as text, as Sampling wants it."""
    if not isinstance(schema, Mapping):
        return schema
    try:
        return json.dumps(dict(schema))
    except (TypeError, ValueError, RecursionError) as error:
        raise GenerationError(f"json_schema cannot be written as JSON: {error}") from error


def _as_tuple(values: Any) -> Any:
    """Lists become tuples; what is neither stays as it is, for Sampling to refuse by name."""
    return tuple(values) if isinstance(values, list | tuple) else values


def _bad_words(words: Any) -> Any:
    """neural_chat's list of token ids, or transformers' list of lists of them, as Sampling wants it."""
    if not isinstance(words, list | tuple):
        return words
    return tuple((word,) if isinstance(word, int) else _as_tuple(word) for word in words) or None


def _turn(turn: Message | str) -> Turn:
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
