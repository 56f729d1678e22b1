"""`neuralbot serve RUN_OR_MODEL`: OpenAI's, TGI's and SageMaker's protocols over a model on this machine.

Every option can come from the environment: NEURALBOT_ and its name, as NEURALBOT_PORT. What the command line says
counts more.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuralbot.errors import ResourceError, UsageError
from neuralbot.server import keys, logs
from neuralbot.server.settings import Settings

if TYPE_CHECKING:
    from neuralbot.chatbot import Chatbot

INSTALL = "pip install 'neuralbot[server]'"
_LIBRARIES = ("fastapi", "uvicorn", "prometheus_client")
_OWN = Settings()


def main(argv: Sequence[str]) -> int:
    """Serve until the process is told to stop. Raises NeuralbotError."""
    options = _parser().parse_args(argv)
    path = None if options.api_keys is None else Path(options.api_keys)
    if options.make_key is not None:
        if path is None:
            raise UsageError("--make-key needs --api-keys FILE, the file to write it to")
        print(keys.make(options.make_key, path))
        print(f"this key is shown once; {path} holds only its hash", file=sys.stderr)
        return 0
    if options.model is None:
        raise UsageError("which model? neuralbot serve RUN_OR_MODEL")
    start(options.model, settings_of(options), options, keys.read(path, os.environ.pop("NEURALBOT_API_KEY", None)))
    return 0


def start(model: str, settings: Settings, options: argparse.Namespace, known: keys.Keys) -> None:
    """Loads the model and serves it. Raises NeuralbotError."""
    for name in _LIBRARIES:
        if find_spec(name) is None:
            raise ResourceError(f"the server needs {name}: {INSTALL}")
    _require_safe(settings, known)
    chatbot = _load(model, options)
    logs.set_up(options.log_file)

    from neuralbot.server import running
    from neuralbot.server.app import Server
    from neuralbot.server.served import Served

    names = options.model_name or [Path(model).name or model]
    served = Served(chatbot, names, settings.slots)
    served.warm_up()
    server = Server(served, settings, known)
    tls = {name: value for name in _TLS if (value := getattr(options, name)) is not None}
    running.prepared(server, tls=tls).run()


def settings_of(options: argparse.Namespace) -> Settings:
    """Raises UsageError."""
    names = (
        "host port slots queue per_key insecure max_body deadline grace ping header_time body_time stall_time "
        "max_connections"
    )
    values: dict[str, Any] = {name: getattr(options, name) for name in names.split()}
    return Settings(allowed_hosts=tuple(options.allow_host), allowed_origins=tuple(options.allow_origin), **values)


def _require_safe(settings: Settings, known: keys.Keys) -> None:
    if not settings.on_loopback and not known and not settings.insecure:
        raise UsageError(
            f"--host {settings.host} can be reached from other machines, and no key is asked for: give --api-keys FILE "
            "(--make-key NAME makes one) or NEURALBOT_API_KEY, or say --insecure if something else keeps strangers out"
        )


def _load(model: str, options: argparse.Namespace) -> Chatbot:
    from neuralbot import modeling
    from neuralbot.chatbot import build_chatbot
    from neuralbot.neural_chat.config import LoadingModelConfig, PipelineConfig
    from neuralbot.transformers import MixedPrecisionConfig, RtnConfig

    modeling.resolve_model(model)
    modeling.hide_loading_bars()
    chosen = {"int8": lambda: RtnConfig(bits=8), "int4": lambda: RtnConfig(bits=4)}
    precision = None
    if options.dtype is not None:
        precision = chosen[options.dtype]() if options.dtype in chosen else MixedPrecisionConfig(options.dtype)
    return build_chatbot(
        PipelineConfig(
            model,
            device=options.device,
            loading_config=LoadingModelConfig(peft_path=options.adapter),
            optimization_config=precision,
            engine=options.engine,
            plugins={},
        )
    )


_TLS = ("ssl_certfile", "ssl_keyfile", "ssl_keyfile_password", "ssl_ca_certs")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="neuralbot serve",
        description="Serve a model to clients of OpenAI, TGI and SageMaker.",
        epilog="Every option can come from the environment, as NEURALBOT_PORT; keys only from there or from a file.",
    )
    add = parser.add_argument
    add("model", nargs="?", help='a run folder, a model folder, "seedling" or a Hugging Face name')
    add("--host", default=_OWN.host, help="address to listen on (default: %(default)s, this machine alone)")
    add("--port", type=int, default=_OWN.port, help="default: %(default)s; 0: any free one")
    add("--api-keys", metavar="FILE", help="file of hashed keys; without one NEURALBOT_API_KEY may hold a key")
    add("--make-key", metavar="NAME", help="add a key to the file of --api-keys, print it once, and end")
    add("--insecure", action="store_true", help="serve other machines without a key")
    add("--model-name", action="append", metavar="NAME", help="what clients call the model; may be repeated")
    add("--slots", type=int, default=_OWN.slots, metavar="N", help="answers at the same time (default: %(default)s)")
    add("--queue", type=int, default=_OWN.queue, metavar="N", help="requests that may wait (default: %(default)s)")
    add("--per-key", type=int, metavar="N", help="requests one key may have on their way (default: all)")
    add("--allow-host", action="append", default=[], metavar="NAME", help="a Host that is served; may be repeated")
    add("--allow-origin", action="append", default=[], metavar="URL", help="a web page that may ask; may be repeated")
    add("--max-body", type=int, default=_OWN.max_body, metavar="BYTES", help="default: %(default)s")
    for name, text in _TIMES.items():
        default = getattr(_OWN, name)
        help_text = f"{text} (default: {default:g})"
        add(f"--{name.replace('_', '-')}", type=float, default=default, metavar="S", help=help_text)
    add("--max-connections", type=int, default=_OWN.max_connections, metavar="N", help="default: %(default)s")
    add("--engine", choices=("auto", "openvino", "torch"), default="auto", help="default: %(default)s")
    add("--dtype", choices=("bfloat16", "float16", "float32", "int8", "int4"), help="number format of the weights")
    add("--adapter", metavar="DIR", help="folder of an adapter to put on the model")
    add("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    for name in _TLS:
        add(f"--{name.replace('_', '-')}", metavar="FILE" if name != "ssl_keyfile_password" else "TEXT", help="TLS")
    add("--log-file", metavar="FILE", help="append the log to it (default: standard error)")
    add("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(**_environment(parser))
    return parser


_TIMES = {
    "deadline": "seconds a request may take, its time in the queue included",
    "grace": "seconds for answers on their way when the server is told to stop",
    "ping": "seconds between signs of life while a stream has no text yet",
    "header_time": "seconds to send the head of a request",
    "body_time": "seconds to send its body",
    "stall_time": "seconds a client may take nothing of its stream",
}


def _environment(parser: argparse.ArgumentParser) -> dict[str, Any]:
    """What NEURALBOT_... says in place of the defaults. Raises UsageError."""
    found: dict[str, Any] = {}
    for action in parser._actions:
        name = f"NEURALBOT_{action.dest.upper()}"
        value = os.environ.get(name)
        if not value or action.dest in ("help", "debug", "make_key"):
            continue
        if isinstance(action, argparse._StoreTrueAction):
            found[action.dest] = value.lower() in ("1", "true", "yes")
        elif isinstance(action, argparse._AppendAction):
            found[action.dest] = value.split(",")
        else:
            found[action.dest] = _read(parser, action, name, value)
    return found


def _read(parser: argparse.ArgumentParser, action: argparse.Action, name: str, value: str) -> Any:
    try:
        read = parser._get_value(action, value)
        parser._check_value(action, read)
    except argparse.ArgumentError as error:
        raise UsageError(f"{name}={value!r} cannot be used: {error.message}") from error
    return read
