"""The registry of plugins of neural_chat, which scripts fill before a chatbot is built.

`build_chatbot` takes a copy of what stands here: a plugin enabled later, or for another chatbot, changes nothing in one
that is built. Which plugins there are and what their hooks may do: `neuralbot.plugin_hooks`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T", bound=type)


class DotDict(dict[str, Any]):
    """A dict whose keys are attributes too: `plugins.retrieval.enable = True`. A key that is not there raises."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"there is no {name!r}; expected one of {', '.join(self)}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


class GlobalPlugins:
    """The plugins that neural_chat knows by name, each disabled."""

    def __init__(self) -> None:
        self.reset_plugins()

    def reset_plugins(self) -> None:
        self.plugins: DotDict = DotDict({name: _entry(enable=False) for name in _NAMES})


def register_plugin(name: str) -> Callable[[T], T]:
    """A class decorator: the class becomes the plugin `name`, enabled."""

    def decorator(cls: T) -> T:
        plugins[name] = _entry(enable=True, cls=cls)
        return cls

    return decorator


def is_plugin_enabled(plugin_name: str) -> bool:
    return plugin_name in plugins and bool(plugins[plugin_name]["enable"])


def get_plugin_instance(plugin_name: str) -> Any:
    """The instance that a script put there, of an enabled plugin; else None. A chatbot's own are in the chatbot."""
    return plugins[plugin_name]["instance"] if is_plugin_enabled(plugin_name) else None


def get_plugin_arguments(plugin_name: str) -> Any:
    """The arguments of an enabled plugin; else None."""
    return plugins[plugin_name]["args"] if is_plugin_enabled(plugin_name) else None


def get_registered_plugins() -> list[str]:
    """The names of all plugins, enabled or not."""
    return [*plugins]


def get_all_plugins() -> list[str]:
    """The names that neural_chat lists."""
    return [*_NAMES[:-2], "ner_int", "face_animation"]


def _entry(*, enable: bool, cls: type | None = None) -> DotDict:
    return DotDict({"enable": enable, "class": cls, "args": DotDict(), "instance": None})


_NAMES = ("tts", "tts_multilang", "asr", "retrieval", "cache", "safety_checker", "ner", "face_animation", "image2image")

global_plugins = GlobalPlugins()
plugins: DotDict = global_plugins.plugins
