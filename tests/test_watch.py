"""`neuralbot watch`: what it says of runs that go on, end, fail, are killed, or were written by older versions."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from neuralbot import cli, watch
from neuralbot.errors import NeuralbotError, TrainingDiverged
from neuralbot.training import run_folder
from neuralbot.training.following import Curve, Following
from neuralbot.training.run_folder import TRAINING, RunFolder

ROOT = Path(watch.__file__).parents[1]
MANIFEST = {"method": "lora", "base_model": {"name": "seedling"}}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LOOK_EVERY_S", 0.01)


def begin(path: Path, **changes: Any) -> RunFolder:
    return run_folder.create(path, **{"recipe_text": "", "manifest": MANIFEST, **changes})


def loss(step: int, value: float = 1.0, **more: Any) -> dict[str, Any]:
    """A record of a run that takes 2 s and 200 tokens a step."""
    return {"step": step, "time_s": 2.0 * step, "loss": value, "tokens": 200 * step, "memory_gb": 1.25} | more


def once(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    status = cli.main(["watch", str(path), "--once"])
    said = capsys.readouterr()
    return status, said.out + said.err


def everything(path: Path) -> dict[str, tuple[int, bytes]]:
    return {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in path.iterdir()}


def test_each_stage_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run"
    with begin(path) as folder:
        assert f"{path}: preparing: " in once(path, capsys)[1]
        folder.enter("evaluating before tuning")
        assert "evaluating before tuning: " in once(path, capsys)[1]
        folder.log({"step": 0, "time_s": 0.5, "eval_loss": 3.0, "eval_runtime": 9.0})
        folder.enter(TRAINING, steps=100, logging_steps=10)
        assert "training: 100 steps, the first values come at step 10, held-out loss 3.000" in once(path, capsys)[1]
        for step in (10, 20, 30):
            folder.log(loss(step, 3 - step / 20))
        _, said = once(path, capsys)
        assert "training: step 30 of 100, loss 1.500, held-out loss 3.000, 100 tokens/s, 1.2 GiB" in said
        assert any(f"{left} min left" in said for left in ("2:20", "2:19", "2:18"))
        folder.enter("evaluating after tuning")
        assert "evaluating after tuning: step 30 of 100" in once(path, capsys)[1]
        folder.finish({})
    status, said = once(path, capsys)
    assert status == 0
    assert said.startswith(f"{path}: finished: step 30 of 100, loss 1.500") and said.endswith("in all\n")


def test_the_speed_leaves_evaluations_out(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as folder:
        folder.log({"step": 0, "time_s": 9.0, "eval_loss": 3.0, "eval_runtime": 9.0})
        folder.log(loss(10))
        folder.log({"step": 10, "time_s": 60.0, "eval_loss": 2.0, "eval_runtime": 40.0})
        folder.log(loss(20, time_s=20 + 20 + 40.0))
        state = Following(folder.path).look()
    assert state and state.metrics.latest["tokens_per_s"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (TrainingDiverged("the loss became\nnan"), 5, "failed: TrainingDiverged: the loss became nan, step 1"),
        (NeuralbotError("no room"), 1, "failed: NeuralbotError: no room"),
        (OSError("boom"), 1, "failed: OSError: boom"),
        (KeyboardInterrupt(), 130, "stopped by the user: step 1"),
    ],
)
def test_the_status_is_that_of_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: BaseException, status: int, said: str
) -> None:
    with pytest.raises(type(error)), begin(tmp_path / "run") as folder:
        folder.log(loss(1))
        raise error
    for arguments in (["--once"], []):
        assert cli.main(["watch", str(tmp_path / "run"), *arguments]) == status
        assert said in capsys.readouterr().out


def test_a_killed_run_is_told_as_one_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run"
    program = (
        "import sys\nfrom pathlib import Path\nfrom neuralbot.training import run_folder\n"
        f"folder = run_folder.create(Path({str(path)!r}), recipe_text='', manifest={{}})\n"
        "folder.enter('training', steps=9)\nprint('held', flush=True)\nsys.stdin.read()"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        before = everything(path)
        assert once(path, capsys)[0] == 0
        process.kill()
    status, said = once(path, capsys)
    assert status == 1
    assert "gone: its process is gone without a word: killed, or the machine went down" in said
    assert cli.main(["watch", str(path)]) == 1
    assert everything(path) == before


def test_half_a_line_waits_and_what_is_no_record_is_counted(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as folder:
        following = Following(folder.path)
        metrics = folder.path / "metrics.jsonl"
        whole = "".join(json.dumps(loss(step)) + "\n" for step in (1, 2))
        metrics.write_text(whole[:-20])
        state = following.look()
        assert state and state.metrics.step == 1
        with metrics.open("a") as stream:
            stream.write(whole[-20:] + "not JSON\n[1]\n" + '{"step": 3, "loss": null, "memory_gb": "much"}\n')
        state = following.look()
        assert state and (state.metrics.step, state.metrics.unread) == (3, 2)
        assert state.metrics.latest["loss"] == 1.0 and len(state.metrics.losses.points) == 2


def test_a_run_of_an_older_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run"
    path.mkdir()
    (path / "manifest.json").write_text(json.dumps({"started": "2026-01-01T00:00:00+00:00", "finished": False}))
    old = {"step": 5, "time_s": 1.0, "loss": 2.0, "tokens_per_s": 50.0}
    (path / "metrics.jsonl").write_text(json.dumps(old) + "\n")
    (path / ".lock").write_text("1")
    lock = run_folder._take_lock(path)
    status, said = once(path, capsys)
    assert (status, said.startswith(f"{path}: running: step 5, loss 2.000, 50 tokens/s, ")) == (0, True)
    os.close(lock)
    manifest = {"started": "2026-01-01T00:00:00+00:00", "ended": "2026-01-01T01:30:00+00:00", "finished": True}
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert once(path, capsys)[1] == f"{path}: finished: step 5, loss 2.000, 50 tokens/s, 1:30 h in all\n"


def test_what_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert once(tmp_path, capsys) == (
        2,
        f"error: {tmp_path} is no run folder; expected one that neuralbot finetune makes\n",
    )
    assert once(tmp_path / "thesis.txt", capsys)[0] == 2
    (tmp_path / "manifest.json").write_text('{"name": "a web page"}')
    assert once(tmp_path, capsys)[0] == 2
    assert once(tmp_path / "nothing", capsys) == (2, f"error: {tmp_path / 'nothing'}: no run has begun there\n")


def test_it_waits_for_a_run_and_for_the_next_one_in_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "run"
    following = Following(path)
    assert following.look() is None
    path.mkdir()
    assert following.look() is None
    with begin(path) as folder:
        folder.update_manifest(started="2026-01-01T00:00:00+00:00")
        folder.log(loss(7))
        state = following.look()
        assert state and state.metrics.step == 7
    with begin(path, overwrite=True):
        state = following.look()
        assert state and state.metrics.step == 0


def test_curves_are_thinned_by_means() -> None:
    curve = Curve(most=8)
    for x in range(100):
        curve.add(x, float(x % 2))
    assert 4 <= len(curve.points) < 8
    assert {y for _, y in curve.points} == {0.5}
    assert len({second - first for (first, _), (second, _) in pairwise(curve.points)}) == 1


def test_the_chart_falls_with_the_loss() -> None:
    lines = watch._chart([(step, 4.0 - step / 100) for step in range(300)])
    assert len(lines) == 5 and "loss 3." in lines[0] and "1." in lines[-1]
    heights = [sum(line[column] != " " for line in lines) for column in range(13, 73)]
    assert heights == sorted(heights, reverse=True) and (heights[0], heights[-1]) == (5, 1)
    assert watch._chart([(1, 2.0)]) == []
    assert len(watch._chart([(1, 2.0), (2, 2.0)])) == 5


def watching(path: Path, stdout: int, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "neuralbot", "watch", str(path)], stdout=stdout, stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "80"} | environment,
    )  # fmt: skip


def test_a_log_follows_a_run_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with watching(path, subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().decode().endswith("no run has begun there; waiting for one (Ctrl-C ends)\n")
        with begin(path) as folder:
            folder.enter(TRAINING, steps=10)
            assert "training" in process.stdout.readline().decode()
            folder.log(loss(10, 0.5))
            folder.finish({})
        rest = process.stdout.read().decode()
    assert process.returncode == 0
    assert f"{path}: finished: step 10 of 10, loss 0.500" in rest.splitlines()[-1]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_ctrl_c_ends_the_watching_on_a_terminal_and_not_the_run(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "run"
    own, other = pty.openpty()
    with begin(path) as folder:
        folder.enter(TRAINING, steps=10)
        for step in range(1, 5):
            folder.log(loss(step, 5.0 - step))
        before = everything(path)
        with watching(path, other, PYTHONIOENCODING=encoding) as process:
            os.close(other)
            out = read_until(own, b"GiB")
            process.send_signal(signal.SIGINT)
            process.wait(timeout=20)
            out += read_until(own, b"\x1b[?25h")
        assert everything(path) == before
    assert process.returncode == 130
    assert b"step 4 of 10" in out and b"lora on seedling" in out and b"stopped" not in out
    assert (b" 4.000 " in out, "█" in out.decode()) == (encoding == "utf-8", encoding == "utf-8")


def read_until(terminal: int, end: bytes) -> bytes:
    out, last = b"", time.monotonic() + 20
    while end not in out:
        assert select.select([terminal], [], [], last - time.monotonic())[0], out
        out += os.read(terminal, 65536)
    return out
