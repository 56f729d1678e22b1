"""Parts of OpenAI's answers: usage, and logarithmic probabilities in the two forms that they have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neuralbot.server.served import Served
    from neuralbot.server.work import Token, Work


def usage(work: Work) -> dict[str, int]:
    prompt, completion = work.prompt_tokens, work.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def chat_logprobs(served: Served, tokens: Sequence[Token]) -> dict[str, Any]:
    return {
        "content": [
            _chat_token(served, token.id, token.logprob)
            | {"top_logprobs": [_chat_token(served, *one) for one in token.top]}
            for token in tokens
        ],
        "refusal": None,
    }


def _chat_token(served: Served, token: int, logprob: float | None) -> dict[str, Any]:
    text = served.token_text(token)
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def completion_logprobs(served: Served, tokens: Sequence[Token], offset: int) -> dict[str, Any]:
    """offset: characters of the text that stand before the first token."""
    texts = [served.token_text(token.id) for token in tokens]
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    return {
        "tokens": texts,
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [None if token.logprob is None else _tops(served, token) for token in tokens],
        "text_offset": offsets,
    }


def _tops(served: Served, token: Token) -> dict[str, float | None]:
    """The likeliest, and the token itself; of two ids with one text the likelier counts."""
    found: dict[str, float | None] = {served.token_text(token.id): token.logprob}
    for other, logprob in reversed(token.top):
        found[served.token_text(other)] = logprob
    return found
