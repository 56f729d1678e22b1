"""Keys: made, kept as hashes, told apart."""

from __future__ import annotations

import ast
import inspect
import stat
from pathlib import Path

import pytest

from neuralbot.errors import UsageError
from neuralbot.server import keys


def test_a_made_key_is_known_by_its_name_and_kept_as_a_hash_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    made = {name: keys.make(name, path) for name in ("alice", "bob")}
    text = path.read_text()
    assert not any(key in text or key[3:20] in text for key in made.values())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    known = keys.read(path)
    assert {known.name_of(key): key for key in made.values()} == made
    alice = made["alice"]
    for wrong in ("", alice[:-1], alice + "x", alice.upper(), alice.swapcase(), f" {alice}", "\udcff", "nb-ünicode"):
        assert known.name_of(wrong) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("alice plain-key\n", r":1: expected NAME sha256:DIGEST"),
        (f"# mine\na sha256:{'0' * 64}\na sha256:{'1' * 64}\n", r":3: expected .* each name once"),
        ("# nothing\n", "has no keys"),
    ],
)
def test_a_file_that_is_not_of_keys_is_told_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "keys.txt"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        keys.read(path)


def test_a_key_from_the_environment_has_to_be_long() -> None:
    assert keys.read(None, "0123456789abcdef").name_of("0123456789abcdef") == "default"
    with pytest.raises(UsageError, match="15 characters"):
        keys.read(None, "0123456789abcde")


def test_names_are_checked_and_not_given_twice(tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    keys.make("alice", path)
    for name in ("alice", "", "a b", "../a", "a\nb"):
        with pytest.raises(UsageError):
            keys.make(name, path)


def test_secrets_are_compared_in_constant_time_only() -> None:
    """No `==` beside a digest or a key; every stored digest is compared, right or wrong."""
    tree = ast.parse(inspect.getsource(keys))
    compared = {
        name.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare) and any(isinstance(operator, ast.Eq | ast.NotEq) for operator in node.ops)
        for name in ast.walk(node)
        if isinstance(name, ast.Name)
    }
    assert not compared & {"given", "digest", "key", "own"}
    (loop,) = [node for node in ast.walk(tree) if isinstance(node, ast.For) and "digests" in ast.dump(node.iter)]
    assert not any(isinstance(node, ast.Break | ast.Return) for node in ast.walk(loop))
