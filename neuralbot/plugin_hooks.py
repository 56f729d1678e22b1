"""A chatbot's own plugins: what they do with a question before the model sees it, and with an answer behind it.

A plugin is an object with one or both of neural_chat's hooks:
    pre_llm_inference_actions(query)    may return another query, or (query, links); None or False: no change
    post_llm_inference_actions(answer)  may return another answer; None: no change
The names of neural_chat's own plugins keep the meaning that they had there: `retrieval` is called with (model name,
query); a `safety_checker` that returns something true blocks the question; what a `cache` returns is the answer, and it
is told (query, answer) afterwards; `asr` hears questions that are the path of an audio file.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from neuralbot.error_codes import ErrorCodes
from neuralbot.errors import GenerationError, ModelError

BLOCKED = "Your query contains sensitive words, please try another query."
AUDIO = (".mp3", ".wav", ".flac", ".ogg", ".aac", ".m4a")
_SPEECH = "speech is not offered"
_NOT_OFFERED = {
    "tts": _SPEECH,
    "tts_multilang": _SPEECH,
    "asr": _SPEECH,
    "retrieval": "retrieval is not offered yet",
    "cache": "answers are not cached",
    "safety_checker": "its list of words is not offered",
    "ner": "recognition of names is not offered",
    "face_animation": "pictures and videos are not offered",
    "image2image": "pictures and videos are not offered",
}


@dataclass
class Asked:
    """A question after the plugins have seen it. answer: given by a plugin, so that no model is asked."""

    query: str
    links: list[Any] = field(default_factory=list)
    answer: str | None = None


class PluginHooks:
    """The plugins of one chatbot, by name, in the order in which they are called."""

    def __init__(self, instances: Mapping[str, Any] | None = None) -> None:
        self.instances = dict(instances or {})

    @property
    def change_answers(self) -> bool:
        """Whether an answer has to be whole before it goes out."""
        return any(hasattr(plugin, "post_llm_inference_actions") for plugin in self.instances.values())

    def before(self, query: str, origin_query: str, model_name: str) -> Asked:
        """The question as the plugins leave it. Raises GenerationError, naming the plugin that failed."""
        asked = Asked(query)
        for name, plugin in self.instances.items():
            if asked.answer is None and hasattr(plugin, "pre_llm_inference_actions"):
                _ask(name, plugin, asked, origin_query, model_name)
        if asked.answer is None and _is_audio_file(asked.query):
            raise GenerationError(
                f"query={asked.query!r} is an audio file, and {_SPEECH}: give a text, or register a plugin 'asr' of "
                "your own",
                code=ErrorCodes.ERROR_AUDIO_FORMAT_NOT_SUPPORTED,
            )
        return asked

    def after(self, query: str, answer: str) -> str:
        """The answer as the plugins leave it. Raises GenerationError, naming the plugin that failed."""
        for name, plugin in self.instances.items():
            if not hasattr(plugin, "post_llm_inference_actions"):
                continue
            if name == "cache":
                _call(name, plugin.post_llm_inference_actions, query, answer)
                continue
            changed = _call(name, plugin.post_llm_inference_actions, answer)
            if changed is not None and not isinstance(changed, str):
                raise _wrong(name, "post_llm_inference_actions", changed, "a text or None")
            answer = answer if changed is None else changed
        return answer


def instances(plugins: Mapping[str, Any]) -> dict[str, Any]:
    """The enabled plugins by name: the instance that is given, else one of the class with a copy of the arguments.

    Raises ModelError for a plugin that is enabled without either.
    """
    found = {}
    for name, plugin in plugins.items():
        entry = plugin if isinstance(plugin, Mapping) else vars(plugin)
        if entry.get("enable"):
            found[name] = _instance(name, entry)
    return found


def _instance(name: str, entry: Mapping[str, Any]) -> Any:
    if entry.get("instance") is not None:
        return entry["instance"]
    if entry.get("class") is None:
        raise ModelError(
            f"the plugin {name!r} is enabled, but {_NOT_OFFERED.get(name, 'it has no class')}: disable it, or register "
            "a class of your own with pre_llm_inference_actions or post_llm_inference_actions",
            code=ErrorCodes.ERROR_PLUGIN_NOT_SUPPORTED,
        )
    arguments = copy.deepcopy(dict(entry.get("args") or {}))
    try:
        return entry["class"](**arguments)
    except Exception as error:
        raise ModelError(f"the plugin {name!r} cannot be made from {entry['class']!r}: {_said(error)}") from error


def _ask(name: str, plugin: Any, asked: Asked, origin_query: str, model_name: str) -> None:
    hook = plugin.pre_llm_inference_actions
    if name == "asr" and not _is_audio_file(asked.query):
        return
    if name == "safety_checker":
        texts = [asked.query, *([origin_query] if origin_query else [])]
        asked.answer = BLOCKED if any(_call(name, hook, text) for text in texts) else None
        return
    result = _call(name, hook, *([model_name] if name == "retrieval" else []), asked.query)
    if isinstance(result, tuple) and len(result) == 2:
        result, links = result
        asked.links += links or []
    if name == "cache":
        asked.answer = _cached(result)
    elif name == "retrieval" and result == "Response with template.":
        asked.answer = plugin.response_template
    elif isinstance(result, str):
        asked.query = result
    elif result is not None and result is not False:
        raise _wrong(name, "pre_llm_inference_actions", result, "a text, (text, links), None or False")


def _cached(result: Any) -> str | None:
    """A cache's answer as a text, or in the form of a completion, as neural_chat's own gave it."""
    if not result or isinstance(result, str):
        return result or None
    try:
        return str(result["choices"][0]["text"])
    except (TypeError, LookupError):
        raise _wrong("cache", "pre_llm_inference_actions", result, "a text or a completion") from None


def _call(name: str, hook: Any, *arguments: str) -> Any:
    try:
        return hook(*arguments)
    except Exception as error:
        raise GenerationError(f"the plugin {name!r} failed: {_said(error)}") from error


def _said(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _wrong(name: str, hook: str, result: object, expected: str) -> GenerationError:
    return GenerationError(
        f"{hook} of the plugin {name!r} returned a {type(result).__name__}, {result!r:.80}: expected {expected}"
    )


def _is_audio_file(query: str) -> bool:
    return query.lower().endswith(AUDIO) and os.path.isfile(query)  # noqa: PTH113  # False for a long text, no OSError
