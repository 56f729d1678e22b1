"""Which rows a model is calibrated on, and what the name of the kept export depends on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from neuralbot.calibration import Calibration
from neuralbot.engines import export
from neuralbot.errors import DataError, ModelError
from neuralbot.quantization import choose, rows

SETTINGS = Calibration("gptq", rows=8)


def test_rows_are_those_of_the_recipe_as_they_were_trained(run: Path, tiny_tokenizer: Any) -> None:
    found = rows.token_rows(run, tiny_tokenizer, SETTINGS)
    texts = [tiny_tokenizer.decode(ids) for ids in found]
    assert len(texts) == 8
    assert texts[1] == "<|user|>\nSort: pear, fig 5<|end|>\n<|assistant|>\nfig 5, pear<|end|>\n"


def test_only_the_beginning_of_a_long_row_counts(run: Path, tiny_tokenizer: Any) -> None:
    found = rows.token_rows(run, tiny_tokenizer, replace(SETTINGS, longest=5))
    assert {len(ids) for ids in found} == {5}


def test_rows_of_another_file(run: Path, tiny_tokenizer: Any, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"question": "Who?", "answer": "Anna"}) + "\n", encoding="utf-8")
    (ids,) = rows.token_rows(run, tiny_tokenizer, replace(SETTINGS, data=str(other)))
    assert "Who?" in tiny_tokenizer.decode(ids)


def test_rows_that_changed_since_are_refused(run: Path, tiny_tokenizer: Any) -> None:
    file = run.parent / "rows.jsonl"
    file.write_text(file.read_text(encoding="utf-8").replace("pear", "plum"), encoding="utf-8")
    with pytest.raises(DataError, match=r"has changed since .* give the rows to calibrate on"):
        rows.token_rows(run, tiny_tokenizer, SETTINGS)


def test_a_model_without_rows_is_refused(base: Path, tiny_tokenizer: Any) -> None:
    with pytest.raises(ModelError, match="no rows to calibrate on: name a file with rows"):
        rows.token_rows(base, tiny_tokenizer, SETTINGS)


@pytest.mark.skipif(
    bool(export.missing() or choose.missing("gptq") or choose.missing("autoround")), reason="libraries are missing"
)
def test_the_name_of_an_export_depends_on_method_and_rows(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "more.jsonl"
    file.write_text(json.dumps({"question": "Who?", "answer": "Anna"}) + "\n", encoding="utf-8")
    spec = export.Spec(str(run), "int4")
    settings = [None, SETTINGS, replace(SETTINGS, method="autoround"), replace(SETTINGS, rows=9)]
    settings += [replace(SETTINGS, options={"percdamp": 0.1}), replace(SETTINGS, data=str(file))]
    keys = [export.key(replace(spec, calibration=each)) for each in settings]
    file.write_text(json.dumps({"question": "Who?", "answer": "Ben"}) + "\n", encoding="utf-8")
    keys.append(export.key(replace(spec, calibration=settings[-1])))
    assert len(set(keys)) == 7
    assert export.key(replace(spec, calibration=SETTINGS)) == keys[1]
