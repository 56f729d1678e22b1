"""The loss picture: drawn from metrics.jsonl, without touching matplotlib's global state."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from neuralbot.errors import RunFolderError
from neuralbot.report import plot
from neuralbot.report.plot import plot_loss

PNG = b"\x89PNG\r\n\x1a\n"


def write_metrics(folder: Path, records: list[dict[str, object]]) -> None:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def a_run(steps: int, every: int) -> list[dict[str, object]]:
    train = [{"step": s, "loss": 3 / s, "learning_rate": 1e-3 / s, "grad_norm": 1.0} for s in range(1, steps + 1)]
    return [*train, *({"step": s, "eval_loss": 3 / (s + 1)} for s in range(0, steps + 1, every))]


@pytest.mark.parametrize(
    "records",
    [
        a_run(200, 50),
        a_run(5, 5),
        [{"step": 0, "eval_loss": 2.0}, {"step": 9, "eval_loss": 1.0}],
        [{"step": 1, "loss": 2.0}, {"step": 2, "loss": None}, {"step": 3, "loss": 1.0}],
        [{"step": 1, "loss": 0.0, "learning_rate": 0.0}, {"step": 2, "loss": 0.0, "learning_rate": 0.0}],
        [{"step": 1, "loss": -1.0}, {"step": 2, "loss": -2.0}],
    ],
    ids=["long", "short", "held out only", "with a gap", "zeros", "negative"],
)
def test_a_picture_is_drawn(tmp_path: Path, records: list[dict[str, object]], recwarn: pytest.WarningsRecorder) -> None:
    write_metrics(tmp_path, [*records, {"step": 9, "train_runtime": 1.0}])
    path = plot_loss(tmp_path)
    assert path == tmp_path / "loss.png"
    head = path.read_bytes()[:24]
    assert head[:8] == PNG
    assert struct.unpack(">II", head[16:]) == (1152, 704)
    assert not [warning for warning in recwarn if "matplotlib" in warning.filename]


def test_a_folder_may_be_named_like_a_formula(tmp_path: Path) -> None:
    folder = tmp_path / "$\\frac{$ a_b^"
    folder.mkdir()
    write_metrics(folder, a_run(5, 5))
    assert plot_loss(folder) == folder / "loss.png"


def test_with_less_than_two_losses_there_is_nothing_to_draw(tmp_path: Path) -> None:
    write_metrics(tmp_path, [{"step": 1, "loss": 2.0}, {"step": 2, "loss": None}, {"epoch": 1.0, "train_runtime": 3.0}])
    assert plot_loss(tmp_path) is None
    assert not (tmp_path / "loss.png").exists()


def test_without_metrics_the_error_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl"):
        plot_loss(tmp_path)


def test_points_are_sorted_and_the_last_value_of_a_step_counts() -> None:
    records = [{"step": 3, "loss": 1.0}, {"step": 1, "loss": 5.0}, {"step": 3, "loss": 2.0}, {"loss": 9.0}]
    assert plot._points(records, "loss") == [(1.0, 5.0), (3.0, 2.0)]


def test_the_mean_line_keeps_a_straight_line_straight() -> None:
    line = [(float(step), 2.0 * step) for step in range(100)]
    assert plot._smoothed(line)[10:-10] == line[10:-10]


def test_matplotlib_is_imported_when_drawing_only_and_pyplot_never(tmp_path: Path) -> None:
    write_metrics(tmp_path, a_run(5, 5))
    program = (
        "import sys\nfrom pathlib import Path\nfrom neuralbot.report.plot import plot_loss\n"
        "assert 'matplotlib' not in sys.modules and 'torch' not in sys.modules\n"
        f"plot_loss(Path({str(tmp_path)!r}))\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", program], cwd=root, check=True, timeout=60)
