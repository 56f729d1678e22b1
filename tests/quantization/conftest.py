"""A finished run as far as a calibration looks: a model, its tokenizer, the recipe and the rows."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"Sort: pear, fig {n}"},
            {"role": "assistant", "content": f"fig {n}, pear"},
        ]
    }
    for n in range(40)
]


@pytest.fixture
def run(base: Path, tmp_path: Path) -> Path:
    folder, rows = tmp_path / "run", tmp_path / "rows.jsonl"
    shutil.copytree(base, folder)
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    recipe = f"model: {{model_name_or_path: {base}}}\ndata: {{train_file: {rows}}}\nfinetuning: {{task: chat}}\n"
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    fingerprint = {str(rows): hashlib.sha256(rows.read_bytes()).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps({"data": {"fingerprint": fingerprint}}), encoding="utf-8")
    return folder
