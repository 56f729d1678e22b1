"""The registry of plugins of neural_chat, which scripts fill before a chatbot is built.

`build_chatbot` takes a copy of what stands here: a plugin enabled later, or for another chatbot, changes nothing in one
that is built. What runs plugins is the chatbot.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

__all__ = [
    "get_all_plugins",
    "get_plugin_arguments",
    "get_plugin_instance",
    "get_registered_plugins",
    "global_plugins",
    "is_plugin_enabled",
    "plugins",
    "register_plugin",
]

T = TypeVar("T", bound=type)


class DotDict(dict[str, Any]):
    """A dict whose keys are attributes too: `plugins.retrieval.args.k = 3`. A key that is not there raises."""

    def __getattr__(self, name: str) -> Any:
        self._require(name)
        return self[name]

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def _require(self, name: str) -> None:
        if name not in self:
            raise AttributeError(f"there is no {name!r}; expected one of {', '.join(self)}", name=name)


class FixedDotDict(DotDict):
    """A DotDict that takes no new keys as attributes: `plugins.tts.enabel = True` raises."""

    def __setattr__(self, name: str, value: Any) -> None:
        self._require(name)
        self[name] = value


class GlobalPlugins:
    """The plugins that neural_chat knows by name, each disabled."""

    def __init__(self) -> None:
        self.plugins: DotDict = FixedDotDict()
        self.reset_plugins()

    def reset_plugins(self) -> None:
        self.plugins.clear()
        self.plugins.update({name: _entry(enable=False) for name in _NAMES})


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
    return FixedDotDict({"enable": enable, "class": cls, "args": DotDict(), "instance": None})


_NAMES = ("tts", "tts_multilang", "asr", "retrieval", "cache", "safety_checker", "ner", "face_animation", "image2image")

global_plugins = GlobalPlugins()
plugins: DotDict = global_plugins.plugins
