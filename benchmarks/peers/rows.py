"""Alpaca rows -> the text of each, its ids and labels, and the tokenizer files that every peer can load.

The prompts are Alpaca's own two. A prompt is tokenized apart from its answer, so that the targets are exactly the
answer and the end token.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuralbot.errors import UsageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PROMPT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)
PROMPT_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
_COLUMNS = ("instruction", "input", "output")


def read_rows(path: Path, count: int) -> list[dict[str, str]]:
    """The first `count` rows of a JSON list, with no column but Alpaca's three. Raises UsageError."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"--rows {path}: {error}; give a JSON list of Alpaca rows") from error
    if not isinstance(rows, list) or len(rows) < count:
        found = f"{len(rows)} rows" if isinstance(rows, list) else f"a {type(rows).__name__}"
        raise UsageError(f"--rows {path} holds {found}: expected a list of at least --count {count}")
    for number, row in enumerate(rows[:count], start=1):
        if not isinstance(row, dict) or not all(isinstance(row.get(key, ""), str) for key in _COLUMNS):
            raise UsageError(f"--rows {path}: row {number} is no Alpaca row; expected the texts {', '.join(_COLUMNS)}")
        if not row.get("instruction") or not row.get("output"):
            raise UsageError(f"--rows {path}: row {number} has no instruction or no output; leave it out of the file")
    return [{key: row.get(key, "") for key in _COLUMNS} for row in rows[:count]]


def write_tokenizer(source: Path, folder: Path) -> tuple[dict[str, str], int]:
    """Write tokenizer.json and its config in the forms that old and new transformers understand.

    Returns the special tokens by role (eos_token; bos_token and pad_token where there are any) and the vocabulary's
    size. Raises UsageError.
    """
    tokenizer = load_tokenizer(source)
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    special = _special_tokens(source, vocabulary)
    content = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    _join_merges(content["model"])
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    config = special | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    return special, max(vocabulary.values()) + 1


def load_tokenizer(folder: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    if not (folder / "tokenizer.json").is_file():
        raise UsageError(f"--tokenizer {folder} has no tokenizer.json; give the folder of a Hugging Face tokenizer")
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def tokenize(
    rows: Sequence[Mapping[str, str]], tokenizer: Tokenizer, special: Mapping[str, str], max_length: int
) -> list[dict[str, list[int]]]:
    """`input_ids` and `labels` (-100 = no target) of each row, cut on the right at `max_length`.

    Raises UsageError for a row without a target left: some peers drop it, others do not.
    """
    start = [tokenizer.token_to_id(special["bos_token"])] if "bos_token" in special else []
    end = [tokenizer.token_to_id(special["eos_token"])]
    tokenized = []
    for number, row in enumerate(rows, start=1):
        prompt = start + _ids(tokenizer, (PROMPT_WITH_INPUT if row["input"] else PROMPT).format_map(row))
        answer = _ids(tokenizer, row["output"]) + end
        if len(prompt) >= max_length:
            raise UsageError(f"row {number} has a prompt of {len(prompt)} tokens; give a --max-length above that")
        tokenized.append(
            {
                "input_ids": (prompt + answer)[:max_length],
                "labels": ([-100] * len(prompt) + answer)[:max_length],
            }
        )
    return tokenized


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def _join_merges(model: dict[str, Any]) -> None:
    """Merges as "a b", where they stand as ["a", "b"], which tokenizers before 0.20 (itrex) cannot read."""
    merges = model.get("merges", [])
    if all(isinstance(merge, list) and not any(" " in part for part in merge) for merge in merges):
        model["merges"] = [" ".join(merge) for merge in merges]


def _special_tokens(source: Path, vocabulary: Mapping[str, int]) -> dict[str, str]:
    """What tokenizer_config.json says, or Llama's own where there is none."""
    path = source / "tokenizer_config.json"
    if path.is_file():
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        # Old files hold a token as an object with its text under "content".
        said = {role: config[role] for role in ("bos_token", "eos_token", "pad_token") if config.get(role)}
        special = {role: token["content"] if isinstance(token, dict) else token for role, token in said.items()}
    else:
        special = {"bos_token": "<s>", "eos_token": "</s>"}
    for token in special.values():
        if token not in vocabulary:
            raise UsageError(f"--tokenizer {source}: {token!r} is not in its vocabulary; add a tokenizer_config.json")
    if "eos_token" not in special:
        raise UsageError(f"{path} names no eos_token; add it, since every answer ends with it")
    return special
