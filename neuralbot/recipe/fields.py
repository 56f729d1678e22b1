"""What one recipe field accepts, and the check of a value against it.

A Field is made from a dataclass field (our sections) or from the source of `TrainingArguments` (section training), so
both are checked by the same code and shown in the same JSON schema. No coercion, except a whole number for a decimal
one. What a field means together with others is not looked at here (see rules.py).
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from neuralbot.recipe.document import Node, Unusable, resolve_plain

MAX_INT = 2**63 - 1
MAX_SHOWN = 60
MAX_CHOICES = 16

# Order of a kind in messages, its name there, and its JSON schema type.
_KINDS: dict[str, tuple[str, str]] = {
    "bool": ("true or false", "boolean"),
    "int": ("a whole number", "integer"),
    "float": ("a number", "number"),
    "str": ("a text", "string"),
    "list": ("a list of texts", "array"),
    "dict": ("a mapping", "object"),
    "mappings": ("a list of mappings", "array"),  # of fields again, see source_list.py
    "texts": ("a mapping of texts", "object"),
    "null": ("null", "null"),
}
_SPELT = {"None": "null", "list[dict[str, Any]]": "mappings", "dict[str, str]": "texts"}  # annotation -> kind

# Allowed numbers of our own sections; those of section training stand in training_keys.py.
INTERVALS: dict[str, str] = {
    "data.max_seq_length": "[8, 1000000]",
    "data.validation_split_percentage": "[0, 99]",
    "data.max_train_samples": "[1, inf)",
    "data.max_eval_samples": "[1, inf)",
    "data.dataset_seed": "[0, 4294967295]",
    "data.max_source_length": "[1, 1000000]",
    "data.max_target_length": "[1, 1000000]",
    "data.num_beams": "[1, 64]",
    "data.max_prompt_length": "[1, 1000000]",
    "data.max_bad_rows": "[1, inf)",
    "data.sources.weight": "(0, inf)",
    "data.preprocessing_num_workers": "[1, 1024]",
    "finetuning.lora_rank": "[1, 4096]",
    "finetuning.lora_alpha": "[1, 65536]",
    "finetuning.lora_dropout": "[0, 1)",
    "finetuning.adapter_layers": "[1, 4096]",
    "finetuning.adapter_len": "[1, 4096]",
    "finetuning.num_virtual_tokens": "[1, 4096]",
    "finetuning.ptun_hidden_size": "[1, 65536]",
    "evaluation.max_samples": "[1, inf)",
    "evaluation.max_new_tokens": "[1, 1000000]",
    "evaluation.num_beams": "[1, 64]",
    "evaluation.batch_size": "[1, 65536]",
    "evaluation.show_samples": "[0, 1000]",
    "evaluation.samples": "[1, 1000]",
    "evaluation.temperature": "(0, 100]",
    "evaluation.top_p": "(0, 1]",
    "evaluation.seed": "[0, 4294967295]",
    "evaluation.timeout_s": "(0, 3600]",
    "serving.temperature": "[0, 100]",
    "serving.top_k": "[0, 1000000]",
    "serving.top_p": "(0, 1]",
    "serving.repetition_penalty": "(0, 100]",
    "serving.max_new_tokens": "[1, 1000000]",
    "serving.seed": "[0, 4294967295]",
}


@dataclass(frozen=True)
class Interval:
    """Allowed numbers, written "[0, 1)" as in mathematics."""

    low: float
    high: float
    low_open: bool
    high_open: bool

    @classmethod
    def of(cls, text: str) -> Interval:
        low, high = text[1:-1].split(",")
        return cls(float(low), float(high), text.startswith("("), text.endswith(")"))

    def __contains__(self, number: float) -> bool:
        above = number > self.low if self.low_open else number >= self.low
        below = number < self.high if self.high_open else number <= self.high
        return above and below

    def __str__(self) -> str:
        low = f"above {self.low:.15g}" if self.low_open else f"at least {self.low:.15g}"
        if math.isinf(self.high):
            return low
        return f"{low} and {'below' if self.high_open else 'at most'} {self.high:.15g}"


@dataclass(frozen=True)
class Field:
    """One key of a section: `kinds` are keys of _KINDS; `choices` restrict texts."""

    section: str
    name: str
    kinds: frozenset[str]
    choices: tuple[str, ...] = ()
    default: Any = None
    help: str = ""
    interval: Interval | None = None

    @property
    def secret(self) -> bool:
        return self.name.endswith("token")

    def expected(self) -> str:
        """What the field accepts, in words."""
        words = [words for kind, (words, _) in _KINDS.items() if kind in self.kinds and kind != "null"]
        if self.choices and "str" in self.kinds:
            words[words.index("a text")] = "one of " + _enumerate(self.choices)
        return (" or ".join(words) + (" (or null)" if "null" in self.kinds else "")) if words else "null"

    def schema(self) -> dict[str, Any]:
        """The JSON schema of the field."""
        kinds = [kind for kind in _KINDS if kind in self.kinds]
        if not self.choices or kinds == ["list"]:
            types = [_KINDS[kind][1] for kind in kinds]
            schema: dict[str, Any] = {"type": types[0] if len(types) == 1 else types}
        else:
            others = [{"type": _KINDS[kind][1]} for kind in kinds if kind != "str"]
            enum = {"enum": list(self.choices)}
            schema = {"anyOf": [enum, *others]} if others else enum
        if "list" in self.kinds:
            schema["items"] = {"type": "string"}
        if "texts" in self.kinds:
            schema["additionalProperties"] = {"type": "string"}
        if self.interval:
            schema |= _schema_bounds(self.interval)
        if self.default is not None:
            schema["default"] = self.default
        return {"description": self.help, **schema} if self.help else schema


def _enumerate(choices: tuple[str, ...]) -> str:
    if len(choices) <= MAX_CHOICES:
        return ", ".join(choices)
    return f"{', '.join(choices[:2])}, ... ({len(choices)} names: see `neuralbot recipes schema`)"


def _schema_bounds(interval: Interval) -> dict[str, Any]:
    low, high = (int(end) if end.is_integer() else end for end in (interval.low, interval.high))
    bounds: dict[str, Any] = {"exclusiveMinimum" if interval.low_open else "minimum": low}
    if not math.isinf(high):
        bounds["exclusiveMaximum" if interval.high_open else "maximum"] = high
    return bounds


def section_fields(section: str, cls: type[Any]) -> dict[str, Field]:
    """The fields of one of our dataclasses, by name."""
    found = {}
    for item in dataclasses.fields(cls):
        # Not item.type: HfArgumentParser puts a class in the place of its text.
        kinds, choices = read_annotation(cls.__annotations__[item.name], {})
        interval = INTERVALS.get(f"{section}.{item.name}")
        found[item.name] = Field(
            section=section,
            name=item.name,
            kinds=kinds,
            choices=choices or tuple(item.metadata.get("choices", ())),
            default=default_of(item),
            help=item.metadata.get("help", ""),
            interval=Interval.of(interval) if interval else None,
        )
    return found


def default_of(item: dataclasses.Field[Any]) -> Any:
    """The default of a dataclass field; None if it has none."""
    if item.default_factory is not dataclasses.MISSING:
        return item.default_factory()
    return None if item.default is dataclasses.MISSING else item.default


def read_annotation(text: str, enums: Mapping[str, tuple[str, ...]]) -> tuple[frozenset[str], tuple[str, ...]]:
    """Kinds and choices of an annotation such as `SchedulerType | str | None`; `enums` maps enum names to values.

    A part that is not known (a class) adds no kind: only code can make such a value, and support.py refuses the key.
    """
    kinds: set[str] = set()
    choices: tuple[str, ...] = ()
    for part in _union(ast.parse(text, mode="eval").body):
        base = ast.unparse(part.value) if isinstance(part, ast.Subscript) else ast.unparse(part)
        if base in enums:
            kinds.add("str")
            choices = enums[base]
        elif base == "Literal" and isinstance(part, ast.Subscript):
            kinds.add("str")
            choices = tuple(ast.literal_eval(ast.Tuple(elts=_elements(part.slice), ctx=ast.Load())))
        else:
            kinds.add(_SPELT.get(ast.unparse(part), base))
    return frozenset(kinds & _KINDS.keys()), choices


def _union(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.BinOp):
        yield from _union(node.left)
        yield from _union(node.right)
    elif isinstance(node, ast.Subscript) and ast.unparse(node.value) in ("Optional", "Union"):
        yield from _elements(node.slice)
        if ast.unparse(node.value) == "Optional":
            yield ast.Constant(None)
    else:
        yield node


def _elements(node: ast.expr) -> list[ast.expr]:
    return list(node.elts) if isinstance(node, ast.Tuple) else [node]


def check(field: Field, node: Node) -> str | None:
    """What is wrong with a value, or None. Secrets are never shown."""
    value = node.value
    if isinstance(value, Unusable) or field.kinds <= {"null"}:
        return None
    kind = _kind(value)
    if kind == "list" and "mappings" in field.kinds:
        return None  # source_list.py checks them one by one
    if kind == "dict" and "texts" in field.kinds:
        return _check_items(field, {f"the value of {key}": entry.node for key, entry in value.items()})
    if kind not in field.kinds and not (kind == "int" and "float" in field.kinds):
        return f"expected {field.expected()}, got {_shown(field, node)}{_hint(field, node)}"
    if isinstance(value, list):
        return _check_items(field, {f"item {position}": item for position, item in enumerate(value, start=1)})
    if isinstance(value, str) and field.choices and value not in field.choices:
        return f"expected {field.expected()}, got {_shown(field, node)}{did_you_mean(value, field.choices)}"
    if kind in ("int", "float"):
        return _check_number(field, value)
    return None


def _kind(value: Any) -> str:
    return {bool: "bool", int: "int", float: "float", str: "str", list: "list", dict: "dict"}.get(type(value), "null")


def _check_items(field: Field, items: Mapping[str, Node]) -> str | None:
    for name, item in items.items():
        if not isinstance(item.value, str | Unusable):
            hint = f'; write "{item.text}" in quotes' if item.text else ""
            return f"expected {field.expected()}, but {name} is {_shown(field, item)}{hint}"
    return None


def _check_number(field: Field, number: float) -> str | None:
    if not math.isfinite(number):
        return f"expected {field.expected()}, got {number}: it must be finite"
    if isinstance(number, int) and abs(number) > MAX_INT:
        return f"expected {field.expected()}, got a number of {len(str(abs(number)))} digits"
    if field.interval and number not in field.interval:
        return f"{number:.15g} is out of range: must be {field.interval}"
    return None


def _shown(field: Field, node: Node) -> str:
    if field.secret:
        return "something else (not shown)"
    value = node.value
    if value is None:
        return "nothing" if not node.text else "null"
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a mapping"
    if isinstance(value, str):
        return f"the text {shorten(value)!r}"
    return f"the number {node.text}" if not isinstance(value, bool) else f"{node.text}, which is true or false"


def shorten(text: str, length: int = MAX_SHOWN) -> str:
    """The text, cut to at most `length` characters."""
    return text if len(text) <= length else text[: length - 3] + "..."


_SAYS_BOOL = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}


def _hint(field: Field, node: Node) -> str:
    """What to write instead, if the value tells what was meant."""
    value, text = node.value, node.text
    if field.secret or not text:
        return ""
    if isinstance(value, str):
        return _hint_for_text(field, text, node.quoted)
    if isinstance(value, float) and value.is_integer() and "int" in field.kinds and abs(value) < MAX_INT:
        return f"; write {int(value)}"
    if value is False and "no" in field.choices:
        return "; write no"
    if "str" in field.kinds and not field.choices:
        return f'; write "{text}" in quotes'
    return ""


def _hint_for_text(field: Field, text: str, quoted: bool) -> str:
    if "bool" in field.kinds and text.lower() in _SAYS_BOOL:
        return f"; write {_SAYS_BOOL[text.lower()]}"
    meant = resolve_plain(re.sub(r"(?<=\d)[_,](?=\d{3})", "", text))
    if _kind(meant) in field.kinds and _kind(meant) != "str":
        return f"; write {text} without quotes" if quoted else f"; write {meant}"
    return f"; write [{text}]" if "list" in field.kinds and len(text) <= MAX_SHOWN else ""


def nearest(word: str, candidates: Iterable[str], cutoff: float = 0.6) -> list[str]:
    """The candidates most like the word: those it begins, else the best one, or all equally good (at most 3)."""
    lowered = {candidate.lower().replace("-", "_"): candidate for candidate in candidates}
    typed = word.lower().replace("-", "_")
    if longer := [whole for lower, whole in lowered.items() if lower.startswith(typed + "_")]:
        return longer[:3]
    found = difflib.get_close_matches(typed, lowered, n=3, cutoff=cutoff)
    ratios = [difflib.SequenceMatcher(None, match, typed).ratio() for match in found]
    return [lowered[match] for match, ratio in zip(found, ratios, strict=True) if ratio == ratios[0]]


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """`; did you mean X?`, or nothing."""
    found = nearest(word, candidates)
    return f"; did you mean {' or '.join(found)}?" if found else ""
