"""Entries of the cache: whole or not there, made once, made anew where damaged."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock

from neuralbot import cli
from neuralbot.engines import export_cache
from neuralbot.engines.export_cache import Facts, recall, recall_or_make
from neuralbot.errors import ModelError, ResourceError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "neuralbot" / "exports"


class Maker:
    """Counts how often it is asked."""

    def __init__(self, name: str = "some model") -> None:
        self.name = name
        self.times = 0

    def __call__(self, folder: Path) -> Facts:
        self.times += 1
        (folder / "weights.bin").write_bytes(b"0123456789" * 1000)
        (folder / "model.xml").write_text("<net/>")
        return {"source": self.name, "precision": "int8"}


def silent(_: str) -> None:
    pass


def test_an_entry_is_made_once(cache: Path) -> None:
    make = Maker()
    first = recall_or_make("key", make, silent)
    assert recall_or_make("key", make, silent) == first == recall("key")
    assert make.times == 1
    assert first.facts == {"source": "some model", "precision": "int8"} and first.size_bytes == 10006
    assert sorted(path.name for path in first.folder.iterdir()) == ["entry.json", "model.xml", "weights.bin"]


def test_a_damaged_entry_is_made_anew_and_told(cache: Path) -> None:
    make = Maker()
    folder = recall_or_make("key", make, silent).folder
    whole = (folder / "weights.bin").read_bytes()
    damages = (
        lambda: (folder / "weights.bin").write_bytes(whole[:-1] + b"x"),
        lambda: (folder / "weights.bin").write_bytes(whole[:100]),
        lambda: (folder / "model.xml").unlink(),
        lambda: (folder / "entry.json").write_text("{"),
        lambda: (folder / "entry.json").write_text("[]"),
        lambda: (folder / "entry.json").unlink(),
    )
    for times, damage in enumerate(damages, start=2):
        damage()
        assert recall("key") is None
        said: list[str] = []
        recall_or_make("key", make, said.append)
        assert make.times == times
        assert said == [f"the exported model {folder} is damaged: it is made anew"]
        assert (folder / "weights.bin").read_bytes() == whole


@pytest.mark.parametrize("error", [ModelError("no such model"), KeyboardInterrupt(), OSError(28, "No space left")])
def test_what_fails_or_is_interrupted_leaves_nothing(cache: Path, error: BaseException) -> None:
    def make(folder: Path) -> Facts:
        (folder / "weights.bin").write_bytes(b"half")
        raise error

    with pytest.raises(ResourceError if isinstance(error, OSError) else type(error)):
        recall_or_make("key", make, silent)
    assert [path.name for path in cache.iterdir()] == ["key.lock"]
    assert recall_or_make("key", Maker(), silent).facts


def test_two_that_ask_at_once_make_it_once(cache: Path) -> None:
    begun, may_end, said = threading.Event(), threading.Event(), list[str]()
    maker = Maker()

    def slow(folder: Path) -> Facts:
        begun.set()
        assert may_end.wait(10)
        return maker(folder)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(recall_or_make, "key", slow, silent)
        assert begun.wait(10)
        second = pool.submit(recall_or_make, "key", maker, lambda text: (said.append(text), may_end.set())[0])
        assert first.result(20) == second.result(20)
    assert maker.times == 1
    assert said == ["another process exports the same model: waiting for it, at most 60 minutes"]


def test_the_rest_of_a_killed_export_goes_with_the_next(cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "key.part-1").mkdir()
    recall_or_make("key", Maker(), silent)
    assert not list(cache.glob("*.part-*"))


def test_list_and_prune(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        recall_or_make(f"key{number}", Maker(f"model {number}"), silent)
    assert cli.main(["cache", "list"]) == 0
    shown = capsys.readouterr().out
    assert all(f"model {number}" in shown for number in range(3)) and "int8" in shown and str(cache) in shown
    (cache / "gone.part-1").mkdir()
    (cache / "busy.part-1").mkdir()
    with FileLock(cache / "busy.lock"):
        assert cli.main(["cache", "prune", "--keep", "1"]) == 0
    assert "0.0 MB freed" in capsys.readouterr().out
    assert len(export_cache.entries()) == 1
    assert [path.name for path in cache.glob("*.part-*")] == ["busy.part-1"]
    assert cli.main(["cache", "prune"]) == 0
    assert export_cache.entries() == []
    assert cli.main(["cache", "prune", "--keep", "-1"]) == 2


def test_an_entry_that_is_in_use_by_an_export_is_not_removed(cache: Path) -> None:
    entry = recall_or_make("key", Maker(), silent)
    with FileLock(cache / "key.lock"), pytest.raises(ResourceError, match="another process holds"):
        export_cache.remove(entry)
