"""A server and, beside it in the same process, its engine without one: both have the same weights at the same place.

    python -m benchmarks.serving.program MODEL ENGINE KEPT SLOTS QUEUE

The first line on stdout is the port. Each line on stdin, [prompts as ids, new tokens], is answered by the engine called
directly: for each prompt the seconds from the question to each token. It ends with its stdin.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.generation.chatbot import FORMS, ignore_end_tokens
from neuralbot.chatbot import build_chatbot
from neuralbot.engines.protocol import Sampling
from neuralbot.neural_chat.config import PipelineConfig
from neuralbot.server import running
from neuralbot.server.app import Server
from neuralbot.server.keys import Keys
from neuralbot.server.served import Served
from neuralbot.server.settings import Settings


def main() -> None:
    model, engine, kept, slots, queue = sys.argv[1:]
    chatbot = build_chatbot(PipelineConfig(model, engine=engine, optimization_config=FORMS[kept], plugins={}))
    ignore_end_tokens(chatbot.engine)
    settings = Settings(port=0, slots=int(slots), queue=int(queue), deadline=86400)
    served = Served(chatbot, ["model"], settings.slots)
    served.warm_up()
    print(_started(running.prepared(Server(served, settings, Keys({})))), flush=True)
    for line in sys.stdin:
        prompts, count = json.loads(line)
        print(json.dumps(_direct(chatbot.engine, prompts, count)), flush=True)
    served.close()
    os._exit(0)  # the thread of the server would keep the process


def _started(server: Any) -> int:
    """The port of a server that runs in a thread from now on."""
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.01)
    port: int = server.servers[0].sockets[0].getsockname()[1]
    return port


def _direct(engine: Any, prompts: list[list[int]], count: int) -> list[list[float]]:
    def read(prompt: list[int]) -> list[float]:
        return [time.perf_counter() - start for _ in engine.stream(prompt, Sampling(max_new_tokens=count))]

    with ThreadPoolExecutor(len(prompts)) as readers:
        start = time.perf_counter()
        return list(readers.map(read, prompts))


if __name__ == "__main__":
    main()
