"""The table of names and fields says what the code says, and the page says what the table says."""

from __future__ import annotations

import dataclasses
import re
from importlib import import_module
from typing import Any

import pytest

from docs import neural_chat as table_of
from docs.neural_chat import Entry, Table
from neuralbot.errors import NeuralbotError
from neuralbot.neural_chat.config import GenerationConfig
from neuralbot.transformers.refused import Refused


@pytest.fixture(scope="module")
def table() -> Table:
    return table_of.load()


def test_table_and_code_agree(table: Table) -> None:
    known = table_of.classes(table)
    assert len(known) == 20
    assert sum(map(len, table.names.values())) == 74 and sum(map(len, table.fields.values())) > 190
    assert list(table_of.problems(table, known)) == []


def test_the_page_is_made_from_the_table_and_leaves_nothing_open(table: Table) -> None:
    written = table_of.PAGE.read_text(encoding="utf-8")
    assert written == table_of.page(table)
    assert "unknown" not in written.lower()
    for rows in (*table.names.values(), *table.fields.values()):
        assert all(re.search(rf"^\| `{entry.name}` \|.* {entry.state} \|", written, re.M) for entry in rows)


def planted() -> dict[str, type[Any]]:
    field = ("planted", int, dataclasses.field(default=0))
    return {"GenerationConfig": dataclasses.make_dataclass("GenerationConfig", [field], bases=(GenerationConfig,))}


def test_a_field_without_a_state_is_a_problem(table: Table) -> None:
    found = list(table_of.problems(table, table_of.classes(table) | planted()))
    assert found == ["GenerationConfig.planted has no state in neural_chat.toml"]


def with_row(table: Table, owner: str, entry: Entry) -> Table:
    changed = [row for row in table.fields[owner] if row.name != entry.name] + [entry]
    return dataclasses.replace(table, fields=table.fields | {owner: changed})


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (Entry("top_k", "honoured", "", "50"), "GenerationConfig.top_k: ITREX's default is 50, here it is 40"),
        (Entry("top_k", "unknown", "", "40"), "GenerationConfig.top_k: the state is 'unknown', expected one of"),
        (Entry("top_k", "refused", "", "40"), "GenerationConfig.top_k is refused without a reason"),
        (Entry("gone", "honoured", "", "40"), "GenerationConfig has no field gone"),
    ],
)
def test_a_wrong_row_is_a_problem(table: Table, entry: Entry, problem: str) -> None:
    found = list(table_of.problems(with_row(table, "GenerationConfig", entry), table_of.classes(table)))
    assert len(found) == 1 and found[0].startswith(problem)


def test_a_name_or_class_without_a_row_is_a_problem(table: Table) -> None:
    names = {module: [row for row in rows if row.name != "RtnConfig"] for module, rows in table.names.items()}
    known = table_of.classes(table)
    fields = {cls: rows for cls, rows in table.fields.items() if cls != "RtnConfig"}
    assert list(table_of.problems(Table(names, fields), known)) == [
        "neuralbot.transformers.RtnConfig has no state in neural_chat.toml",
        "RtnConfig has no table of fields in neural_chat.toml",
    ]


def named() -> list[tuple[str, Entry]]:
    return [(module, entry) for module, rows in table_of.load().names.items() for entry in rows]


@pytest.mark.parametrize(("module", "entry"), named(), ids=lambda value: getattr(value, "name", ""))
def test_a_name_is_what_its_state_says(module: str, entry: Entry) -> None:
    value = getattr(import_module(module), entry.name)
    is_refused = isinstance(value, type) and issubclass(value, Refused)
    assert is_refused == (entry.state == "refused")
    if is_refused:
        for use in (value, value.from_pretrained):
            with pytest.raises(NeuralbotError, match=f"^{entry.name} cannot be honoured: "):
                use("anything", some=1)


def test_the_command_checks_and_writes(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(table_of, "PAGE", tmp_path / "neural_chat.md")
    assert table_of.main(["check"]) == 1
    assert "run: python -m docs.neural_chat write" in capsys.readouterr().err
    assert table_of.main(["write"]) == 0
    assert table_of.main(["check"]) == 0
