"""report_to: what arrives at the trackers, where they write, and that none of them can end a run.

TensorBoard is tested with every run of the tests, where it is installed. `pytest -m slow` runs whole recipes with each
of the others that is installed, offline, in a process of its own, and reads back what arrived.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback, TrainingArguments

from neuralbot.arguments import FinetuningArguments
from neuralbot.training import adapter, trackers
from neuralbot.training.build import build_trainer
from neuralbot.training.trackers import Trackers, names
from neuralbot.training.trainer import MetricsCallback, Trainer

ROOT = Path(trackers.__file__).parents[2]
ROWS = [{"input_ids": [5, 6, 7, 8, 9][: 2 + i % 4], "labels": [-100, 6, 7, 8, 9][: 2 + i % 4]} for i in range(24)]
SECRET = "hf_" + "NotForOthers" * 3
VALUES = ("loss", "eval_loss", "learning_rate", "tokens_per_s", "tokens", "memory_gb")


@pytest.fixture
def trainer(tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path) -> Trainer:
    model = type(tiny_model)(tiny_model.config)
    model.load_state_dict(tiny_model.state_dict())
    model = adapter.add_adapter(model, FinetuningArguments(), seed=1)
    settings = TrainingArguments(
        output_dir=str(tmp_path), max_steps=4, per_device_train_batch_size=4, logging_steps=1, use_cpu=True,
        report_to="none", disable_tqdm=True, save_strategy="no", remove_unused_columns=False,
        dataloader_pin_memory=False, hub_token=SECRET, trackio_space_id=None,
    )  # fmt: skip
    return build_trainer(model, tiny_tokenizer, settings, ROWS, ROWS[:4], kernels="fast")


def fit(trainer: Trainer, report_to: str | list[str], folder: Path) -> tuple[list[str], list[str]]:
    """Train as a run does: held-out loss, training, held-out loss. What was said, and what was noted."""
    said: list[str] = []
    noted: list[str] = []
    with Trackers(report_to, trainer, folder, say=said.append, note=noted.append):
        trainer.evaluate()
        trainer.train()
        trainer.evaluate()
    return said, noted


def test_tensorboard_gets_every_value_and_writes_into_the_run_folder_only(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    records: list[dict[str, Any]] = []
    trainer.add_callback(MetricsCallback(records.append))
    run = tmp_path / "run"
    run.mkdir()
    said, noted = fit(trainer, "tensorboard", run)
    assert said == [f"tensorboard: {run / 'tensorboard'}"] and not noted
    assert [path.name for path in run.iterdir()] == ["tensorboard"] and not list(elsewhere.iterdir())
    read = events.EventAccumulator(str(run / "tensorboard"))
    read.Reload()
    for name in VALUES:
        arrived = read.Scalars(f"eval/{name[5:]}" if name.startswith("eval_") else f"train/{name}")
        expected = [(record["step"], record[name]) for record in records if name in record]
        assert [event.step for event in arrived] == [step for step, _ in expected]
        assert [event.value for event in arrived] == pytest.approx([value for _, value in expected], rel=1e-6)
    assert SECRET.encode() not in b"".join(path.read_bytes() for path in run.rglob("*") if path.is_file())


class Failing(TrainerCallback):  # type: ignore[misc]
    """A tracker whose server goes away at one event."""

    def __init__(self, at: str) -> None:
        self.at, self.events = at, list[str]()

    def happen(self, event: str) -> None:
        self.events.append(event)
        if event == self.at:
            raise ConnectionError("http://me:secret@host:80/runs\nis away")

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.happen("begin")

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        self.happen("log")


@pytest.mark.parametrize("at", ["open", "begin", "log", "close"])
def test_a_tracker_that_fails_is_told_once_and_the_others_go_on(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    made = {"mlflow": Failing(at), "wandb": Failing("never")}
    closed: list[tuple[str, bool]] = []

    def opening(name: str) -> Any:
        def opened(trainer: Trainer, folder: Path) -> Any:
            made[name].happen("open")

            def close(failed: bool) -> None:
                closed.append((name, failed))
                made[name].happen("close")

            return trackers._Opened(made[name], "http://me:secret@host", close)

        return opened

    monkeypatch.setattr(trackers, "_OPEN", {name: opening(name) for name in made})
    said, noted = fit(trainer, ["mlflow", "wandb"], tmp_path)
    assert trainer.state.global_step == 4
    assert noted == [
        "training.report_to: mlflow does not get all values: http://***@host:80/runs is away; metrics.jsonl has them"
    ]
    assert said[-1] == "wandb: http://***@host"
    assert made["mlflow"].events[-1] == at
    assert made["wandb"].events.count("log") == 7  # four losses, two held-out ones, and the end of the training
    assert closed[-1] == ("wandb", False)
    with pytest.raises(KeyboardInterrupt), Trackers("wandb", trainer, tmp_path, say=print, note=print):
        raise KeyboardInterrupt
    assert closed[-1] == ("wandb", True)


def test_all_means_those_that_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name in ("tensorboardX", "wandb") or None)
    assert names("all") == names(["all"]) == ["tensorboard", "wandb"]
    assert names("none") == names(None) == names([]) == []
    assert names(["mlflow", "wandb"]) == ["mlflow", "wandb"]


def test_variables_are_for_the_block_and_never_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_DIR", "mine")
    monkeypatch.delenv("TRACKIO_DIR", raising=False)
    with trackers._variables(WANDB_DIR="theirs", TRACKIO_DIR="there"):
        assert (os.environ["WANDB_DIR"], os.environ["TRACKIO_DIR"]) == ("mine", "there")
    assert os.environ["WANDB_DIR"] == "mine" and "TRACKIO_DIR" not in os.environ


# --- whole recipes, with what is installed ---

READ = {
    "mlflow": """
from mlflow import MlflowClient
client = MlflowClient(f"sqlite:///{run}/mlflow/mlflow.db")
(found,) = client.search_runs(["0"])
assert found.info.status == "FINISHED", found.info.status
tell({name: [(one.step, one.value) for one in client.get_metric_history(found.info.run_id, name)] for name in names})
""",
    "trackio": """
import os
os.environ["TRACKIO_DIR"] = f"{run}/trackio"
import trackio
from trackio.sqlite_storage import SQLiteStorage
(found,) = trackio.Api().runs("huggingface")
rows = SQLiteStorage.get_logs("huggingface", found.name)
tell({name: [(row["train/global_step"], row[key(name)]) for row in rows if key(name) in row] for name in names})
""",
    # Nothing but its own service reads what it keeps for later: blocks of 32 KiB with parts of records.
    "wandb": """
import glob, struct
from wandb.proto import wandb_internal_pb2
(file,) = glob.glob(f"{run}/wandb/offline-run*/*.wandb")
data, place, parts, rows = open(file, "rb").read(), 7, b"", []
while place + 7 <= len(data):
    if 32768 - place % 32768 < 7:
        place += 32768 - place % 32768
        continue
    _, size, kind = struct.unpack("<IHB", data[place : place + 7])
    parts += data[place + 7 : place + 7 + size]
    place += 7 + size
    if kind in (1, 4):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(parts)
        parts = b""
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
tell({name: [(row["train/global_step"], row[key(name)]) for row in rows if key(name) in row] for name in names})
""",
}
HEAD = f"""
import json, sys
run, names = sys.argv[1], {VALUES!r}
key = lambda name: f"eval/{{name[5:]}}" if name.startswith("eval_") else f"train/{{name}}"
tell = lambda found: print("found " + json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(READ))
def test_a_recipe_reports_every_value_and_no_secret(tmp_path: Path, name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    home, cwd, run = tmp_path / "home", tmp_path / "cwd", tmp_path / "run"
    home.mkdir()
    cwd.mkdir()
    ours = ("TRACKIO_", "WANDB_", "MLFLOW_", "TENSORBOARD_", "XDG_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    environment |= {"PYTHONPATH": str(ROOT), "HOME": str(home), "WANDB_MODE": "offline", "MPLCONFIGDIR": str(tmp_path)}
    overrides = (
        "training.max_steps=6", "training.per_device_train_batch_size=4", "training.eval_steps=3",
        "training.logging_steps=2", "training.save_strategy=no", "training.load_best_model_at_end=false",
        "data.max_train_samples=100", "data.max_eval_samples=16", "evaluation.metric=none",
        f"training.report_to={name}", f"model.token={SECRET}",
    )  # fmt: skip

    def python(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=250
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    recipe = str(ROOT / "recipes" / "alpaca.yaml")
    said = python("-m", "neuralbot.finetune", recipe, "--output-dir", str(run), *overrides)
    assert "does not get all values" not in said and SECRET not in said
    assert {path.name for path in home.iterdir()} <= {".cache"} and not list(cwd.iterdir())
    assert {path.name for path in home.glob(".cache/*")} <= {"neuralbot", "huggingface"}
    assert not list(home.glob(".cache/huggingface/trackio"))
    leaking = [path for path in run.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert (run / name).is_dir() and not leaking
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = json.loads(python("-c", HEAD + READ[name], str(run)).partition("found ")[2].partition("\n")[0])
    for value in VALUES:
        expected = sorted([record["step"], record[value]] for record in records if value in record)
        assert expected and sorted(found[value]) == expected, value
