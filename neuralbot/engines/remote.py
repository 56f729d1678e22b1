"""Answers from a server with OpenAI's chat protocol: OpenAI itself, or a Hugging Face inference endpoint (TGI, vLLM).

The server renders the prompt and picks the tokens, so messages go in and text comes out, through
huggingface_hub.InferenceClient. A key is sent to that server only, and stands in no message, log or repr.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from neuralbot.engines.meter import Meter
from neuralbot.engines.protocol import Sampling
from neuralbot.error_codes import ErrorCodes
from neuralbot.errors import GenerationError, ModelError
from neuralbot.textstream import FinishReason

OPENAI_URL = "https://api.openai.com/v1"
TIMEOUT_S = 60.0  # to connect, and between two pieces of an answer
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_ADVICE = {
    400: "the request was refused as it stands",
    401: "the key is not accepted: check it",
    403: "the key does not allow it",
    404: "there is no such model or address: check both",
    429: "too many requests, or the quota is used up: wait, or check the account",
    503: "the server is starting or overloaded: try again later",
}


class RemoteEngine:
    """A model on a server; safe to call from several threads at once.

    extra: sampling values beyond OpenAI's protocol that are sent all the same; what is not in it is not sent.
    """

    context_length: int | None = None  # known to the server only

    def __init__(
        self,
        url: str,
        model: str,
        key: str,
        *,
        headers: Mapping[str, str] | None = None,
        extra: Sequence[str] = (),
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise ModelError(f"{_shown(url)} is no address of a server: expected http(s)://host[:port][/path]")
        self.url = url
        self.model = model
        self.notices = [f"{_shown(url)}: {sentence}" for sentence in _notices(parts.scheme, parts.hostname, extra)]
        self._key = key
        self._headers = dict(headers or {})
        self._extra = tuple(extra)
        self._timeout_s = timeout_s

    def __repr__(self) -> str:
        return f"RemoteEngine(url={_shown(self.url)!r}, model={self.model!r})"

    def stream(self, messages: Sequence[Mapping[str, str]], sampling: Sampling, meter: Meter) -> RemotePieces:
        """The answer's pieces as the server sends them; asked at the first of them.

        Raises GenerationError at once for values that no server takes.
        """
        if sampling.num_beams > 1:
            raise GenerationError(f"num_beams={sampling.num_beams}: a remote model has no beam search; use num_beams=1")
        if sampling.bad_words_ids:
            raise GenerationError("bad_words_ids: the ids of a remote model are not known; remove it")
        if sampling.json_schema or sampling.regex or sampling.logprobs:
            raise GenerationError("json_schema, regex and logprobs are not asked of remote models; remove them")
        asked = {"messages": [dict(message) for message in messages], **self._values(sampling)}
        return RemotePieces(self._chunks(asked), meter)

    def _values(self, sampling: Sampling) -> dict[str, Any]:
        values: dict[str, Any] = {"max_tokens": sampling.max_new_tokens, "seed": sampling.seed}
        values["temperature"] = 0.0 if sampling.greedy else float(sampling.temperature)
        if not sampling.greedy and sampling.top_p < 1:
            values["top_p"] = float(sampling.top_p)
        if sampling.stop:
            values["stop"] = list(sampling.stop)
        if self._extra:
            values["extra_body"] = {name: getattr(sampling, name) for name in self._extra}
        return values

    def _chunks(self, asked: dict[str, Any]) -> Iterator[Any]:
        from huggingface_hub import InferenceClient

        # A client of its own for each answer: leaving it closes the connection, which tells the server to stop.
        with InferenceClient(
            base_url=self.url, api_key=self._key, headers=self._headers, timeout=self._timeout_s
        ) as client:
            try:
                yield from client.chat_completion(
                    model=self.model, stream=True, stream_options={"include_usage": True}, **asked
                )
            except _failures() as error:
                raise GenerationError(self._told(error)) from None  # the cause may quote the request

    def _told(self, error: Exception) -> str:
        import httpx

        response = getattr(error, "response", None)
        if response is not None:
            status = int(response.status_code)
            what = f"answered {status} ({_ADVICE.get(status, 'it failed')})"
            said = _body(response)
        elif isinstance(error, httpx.TimeoutException | TimeoutError):
            what, said = f"did not answer within {self._timeout_s:g} s", ""
        elif isinstance(error, httpx.TransportError):
            what, said = "cannot be reached, or broke the connection off", str(error)
        elif isinstance(error, httpx.HTTPError):
            what, said = "sent an error", str(error)
        else:
            what, said = "sent what is no answer of this protocol", str(error)
        text = " ".join(f"the server {_shown(self.url)} {what}{': ' if said else ''}{said[:400]}".split())
        return text.replace(self._key, "***") if self._key else text


class RemotePieces:
    """An iterator of text pieces over what a server sends; the lengths it tells are written into `meter`."""

    def __init__(self, chunks: Iterator[Any], meter: Meter) -> None:
        self.finish_reason: FinishReason | None = None
        self._chunks = chunks
        self._meter = meter
        self._ended = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        for chunk in self._chunks:
            if chunk.usage:
                self._meter.prompt_tokens = chunk.usage.prompt_tokens
                self._meter.completion_tokens = chunk.usage.completion_tokens
            for choice in chunk.choices or ():
                if choice.finish_reason:
                    self.finish_reason = "length" if choice.finish_reason == "length" else "stop"
                if choice.delta and choice.delta.content:
                    self._meter.mark()
                    return str(choice.delta.content)
        if self.finish_reason is None:
            raise GenerationError("the server ended its answer without saying why: it may be incomplete; ask again")
        raise StopIteration

    def close(self) -> None:
        """Ends the connection."""
        self.finish_reason = self.finish_reason or "stop"
        if close := getattr(self._chunks, "close", None):
            close()


def openai_engine(model: str, config: Any) -> RemoteEngine:
    """The model of that name at OpenAI, or at the server in OPENAI_BASE_URL that speaks its protocol.

    config: an OpenAIConfig, or None; what it leaves out comes from OPENAI_API_KEY and OPENAI_ORG. Raises ModelError.
    """
    key = getattr(config, "api_key", None) or os.environ.get("OPENAI_API_KEY")
    if not key:
        raise ModelError(
            f"the OpenAI model {model} needs a key: set OPENAI_API_KEY, or openai_config=OpenAIConfig(api_key=...)",
            code=ErrorCodes.ERROR_GENERIC,
        )
    organization = getattr(config, "organization", None) or os.environ.get("OPENAI_ORG")
    headers = {"OpenAI-Organization": organization} if organization else {}
    return RemoteEngine(os.environ.get("OPENAI_BASE_URL") or OPENAI_URL, model, key, headers=headers)


def endpoint_engine(url: str, model: str, token: str | None) -> RemoteEngine:
    """A Hugging Face inference endpoint, or another server with its protocol. Raises ModelError."""
    if not token:
        raise ModelError(
            f"hf_endpoint_url={_shown(url)} needs a token: set hf_access_token",
            code=ErrorCodes.ERROR_HF_TOKEN_NOT_PROVIDED,
        )
    return RemoteEngine(url, model, token, extra=("top_k", "repetition_penalty"))


def _notices(scheme: str, host: str, extra: Sequence[str]) -> Iterator[str]:
    if scheme == "http" and host not in LOOPBACK:
        yield "the key and all texts travel unencrypted; use https"
    if extra:
        yield f"{' and '.join(extra)} are sent, but some servers (TGI) do not read them in chats"
    else:
        yield "top_k and repetition_penalty are not part of its protocol and are not sent"


def _failures() -> tuple[type[Exception], ...]:
    import httpx
    from huggingface_hub.errors import OfflineModeIsEnabled

    # ValueError, TypeError, KeyError: an answer that is no JSON, or JSON of another form.
    return (httpx.HTTPError, OfflineModeIsEnabled, TimeoutError, ValueError, TypeError, KeyError)


def _body(response: Any) -> str:
    """What the server says about its refusal: the message of OpenAI's or TGI's JSON, else the text."""
    import httpx

    try:
        response.read()
        error = response.json().get("error", "")
        return str(error.get("message", error) if isinstance(error, dict) else error)
    except (httpx.HTTPError, httpx.StreamError):
        return ""
    except (ValueError, AttributeError):
        return str(response.text)


def _shown(url: str) -> str:
    """The address without what may be secret in it: user, password and query."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}" if parts.hostname else "the text given"
