"""A program of this folder that answers when it is told to, so that two of them can take turns.

    python -m benchmarks.generation.turns genai JOB.json

Each line on stdin, [places of prompts, new tokens], is answered by one line: for each prompt the seconds from the
question to each token. Standard library only, as in `job`.
"""

from __future__ import annotations

import json
import sys
import time
from importlib import import_module
from pathlib import Path

from benchmarks.generation.job import WARM_UP_TOKENS, Job, Prompts


def main() -> None:
    program, job_path = sys.argv[1:]
    job = Job(**json.loads(Path(job_path).read_text(encoding="utf-8")))
    prompts = Prompts.read(Path(job.prompts))
    known = [*prompts.singles, *prompts.many]
    answer = import_module(f"benchmarks.generation.{program}").make(job)
    answer([prompts.warm_up], WARM_UP_TOKENS)
    print("[]", flush=True)
    for line in sys.stdin:
        places, count = json.loads(line)
        start = time.perf_counter()
        streams = answer([known[place] for place in places], count)
        print(json.dumps([[moment - start for moment in stream.times] for stream in streams]), flush=True)


if __name__ == "__main__":
    main()
