"""The plugins of ITREX by name, whether each is enabled, its class and arguments; and the registration of new ones.

`plugins` is what scripts set up; a PipelineConfig takes its own copy, so one chatbot's plugins are not another's.
What runs them is the chatbot.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from neuralbot.neural_chat.utils.dotdict import DotDict

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

_NAMES = (
    *("tts", "tts_multilang", "asr", "retrieval", "cache", "safety_checker", "ner", "face_animation"),
    "image2image",
)
T = TypeVar("T", bound=type)


def _entry(cls: type | None = None, *, enable: bool = False) -> dict[str, Any]:
    return {"enable": enable, "class": cls, "args": {}, "instance": None}


class GlobalPlugins:
    """The holder of `plugins`."""

    def __init__(self) -> None:
        self.plugins = DotDict()
        self.reset_plugins()

    def reset_plugins(self) -> None:
        """Back to ITREX's names, all of them off."""
        self.plugins.clear()
        for name in _NAMES:
            self.plugins[name] = _entry()


global_plugins = GlobalPlugins()
plugins = global_plugins.plugins


def register_plugin(name: str) -> Callable[[T], T]:
    """Decorator of a class: the plugin `name` is this class, and enabled."""

    def register(cls: T) -> T:
        plugins[name] = _entry(cls, enable=True)
        return cls

    return register


def is_plugin_enabled(plugin_name: str) -> bool:
    return bool(plugin_name in plugins and plugins[plugin_name]["enable"])


def get_plugin_instance(plugin_name: str) -> Any:
    """The instance of an enabled plugin, None if there is none."""
    return plugins[plugin_name]["instance"] if is_plugin_enabled(plugin_name) else None


def get_plugin_arguments(plugin_name: str) -> dict[str, Any] | None:
    """The arguments of an enabled plugin, None if it is not enabled."""
    return plugins[plugin_name]["args"] if is_plugin_enabled(plugin_name) else None


def get_registered_plugins() -> list[str]:
    """The names of all plugins, enabled or not, those a script registered too."""
    return list(plugins)


def get_all_plugins() -> list[str]:
    """The names of ITREX's own plugins."""
    return list(_NAMES)


def active_plugins() -> DotDict:
    """A copy of `plugins`; the arguments are copied, instances are shared."""
    return DotDict({name: {**entry, "args": dict(entry["args"])} for name, entry in plugins.items()})
