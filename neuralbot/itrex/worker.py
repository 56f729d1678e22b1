"""Runs inside the genuine package's environment, as a program: python -P worker.py JOB.json RESULT.json

It imports nothing of neuralbot. The package logs what it raises and returns None: here everything it logs as an error
is kept with its traceback and written to RESULT.json, whatever happens. To standard output goes an object a line: each
step of training; with job["do"] == "chat" the answer, or the error, to each line of standard input, a JSON text.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any, TextIO


class _Errors(logging.Handler):
    """What the package logs as errors, with the exception it had caught."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[dict[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        caught = traceback.format_exc() if sys.exc_info()[0] else ""
        self.found.append({"message": record.getMessage(), "traceback": caught})


def finetune(job: dict[str, Any], out: TextIO) -> dict[str, Any]:
    """Train with `finetune_model`, then answer job["questions"] with `build_chatbot`; tells each step on `out`."""
    from intel_extension_for_transformers.neural_chat import config as names
    from intel_extension_for_transformers.neural_chat.chatbot import finetune_model
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Tell(TrainerCallback):  # type: ignore[misc]  # the library is not typed
        def on_step_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
            print(json.dumps({"step": state.global_step, "of": state.max_steps}), file=out, flush=True)

    seen: dict[str, Any] = {}
    train = Trainer.train

    def watched(trainer: Any, *arguments: Any, **keywords: Any) -> Any:
        trainer.add_callback(Tell())
        start = time.monotonic()
        result = train(trainer, *arguments, **keywords)
        seen.update(train_s=time.monotonic() - start, log=trainer.state.log_history, trainer=trainer)
        return result

    Trainer.train = watched
    config = names.TextGenerationFinetuningConfig(
        model_args=names.ModelArguments(**job["model"]),
        data_args=names.DataArguments(**job["data"]),
        training_args=TrainingArguments(**job["training"]),
        finetune_args=names.FinetuningArguments(**job["finetuning"]),
    )
    start = time.monotonic()
    finetune_model(config)
    if not seen:
        raise RuntimeError("finetune_model came back without having trained")
    trainer = seen.pop("trainer")
    seen |= {"all_s": time.monotonic() - start, "log": trainer.state.log_history, "steps": trainer.state.global_step}
    return seen | {"answers": _answers(job)}


def _answers(job: dict[str, Any]) -> list[str]:
    if not job["questions"]:
        return []
    chatbot = _chatbot(job)
    return [_answer(chatbot, question, job) for question in job["questions"]]


def _chatbot(job: dict[str, Any]) -> Any:
    from intel_extension_for_transformers.neural_chat.chatbot import build_chatbot
    from intel_extension_for_transformers.neural_chat.config import LoadingModelConfig, PipelineConfig

    loading = LoadingModelConfig(peft_path=job["peft_path"]) if job["peft_path"] else None
    place = job["model"]["model_name_or_path"]
    config = PipelineConfig(model_name_or_path=place, device="cpu", **({"loading_config": loading} if loading else {}))
    chatbot = build_chatbot(config)
    if chatbot is None:
        raise RuntimeError("build_chatbot came back without a chatbot")
    return chatbot


def _answer(chatbot: Any, question: str, job: dict[str, Any]) -> str:
    from intel_extension_for_transformers.neural_chat.config import GenerationConfig

    answer = chatbot.predict(question, config=GenerationConfig(**job["generation"]))
    if not isinstance(answer, str):
        raise RuntimeError("predict came back without an answer")
    return answer


def chat(job: dict[str, Any], out: TextIO, errors: _Errors) -> dict[str, Any]:
    """Answer line after line until the input ends."""
    chatbot = _chatbot(job)
    print(json.dumps({"ready": True}), file=out, flush=True)
    for line in sys.stdin:
        errors.found.clear()
        try:
            said = {"answer": _answer(chatbot, json.loads(line), job)}
        except Exception as error:
            said = _failure(error, errors)
        print(json.dumps(said), file=out, flush=True)
    return {}


def _failure(error: BaseException, errors: _Errors) -> dict[str, Any]:
    """What went wrong, in the words of the exception that the package caught where there was one."""
    logged = [entry["message"] for entry in errors.found]
    caught = next((entry["traceback"] for entry in errors.found if entry["traceback"]), traceback.format_exc())
    return {"error": f"{error}; {' | '.join(logged)}" if logged else str(error), "traceback": caught, "code": _code()}


def _code() -> int | None:
    """The package's own number for its last error."""
    name = "intel_extension_for_transformers.neural_chat.utils.error_utils"
    module = sys.modules.get(name)
    try:
        return module.get_latest_error() if module else None
    except Exception:  # it raises for codes it has no text for
        return None


def main(job_file: str, result_file: str) -> int:
    """Do the job; the exit status is 1 where it failed."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")  # what the package prints goes to standard error
    os.dup2(2, 1)
    errors = _Errors()
    logging.getLogger().addHandler(errors)
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    status = 0
    try:
        result = chat(job, out, errors) if job["do"] == "chat" else finetune(job, out)
    except BaseException as error:  # the package also calls exit(0)
        result, status = _failure(error, errors), 1
    Path(result_file).write_text(json.dumps(result), encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
