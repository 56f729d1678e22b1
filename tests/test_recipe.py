"""neuralbot.recipe: strict YAML, types, paths, dump, schema. Mistakes: see test_mistakes_recipe.py."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuralbot import arguments, recipe
from neuralbot.errors import RecipeError, UsageError
from neuralbot.recipe import document, fields, old_keys, source_list, support, training_keys
from neuralbot.recipe.loading import all_fields

SHIPPED = recipe.shipped_recipes()
MINIMAL = "model:\n  model_name_or_path: seedling\ndata:\n  train_file: rows.json\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a file of rows."""
    (tmp_path / "rows.json").write_text('[{"instruction": "a", "output": "b"}]')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(text: str, *overrides: str) -> recipe.Recipe:
    Path("test.yaml").write_text(text, encoding="utf-8")
    return recipe.load("test.yaml", overrides)


def problems(text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(text, *overrides)
    return "\n".join(map(str, caught.value.problems))


# --- YAML ---

SCALARS = [
    *[(text, True) for text in ("true", "True", "TRUE")],
    *[(text, False) for text in ("false", "False", "FALSE")],
    *[(text, None) for text in ("", "~", "null", "Null", "NULL")],
    *[(text, text) for text in ("on", "off", "yes", "no", "On", "Yes", "NO", "y", "n", "tRUE", "nULL")],
    *[("0", 0), ("7", 7), ("-7", -7), ("+7", 7), ("010", 10), ("007", 7), ("0o10", 8), ("0x1F", 31)],
    *[
        (text, text)
        for text in ("1_000", "0b11", "12:30", "190:20:30", "2024-01-31", "1,5", "1e", "e5", ".", "+", "0x")
    ],
    *[("1e-5", 1e-5), ("1E-5", 1e-5), ("1e5", 1e5), ("+1e5", 1e5), ("-1e-5", -1e-5), ("1.5e3", 1500.0), (".5e1", 5.0)],
    *[("1.5", 1.5), (".5", 0.5), ("5.", 5.0), ("-.5", -0.5), ("0.1", 0.1), ("3.0", 3.0)],
    *[(".inf", math.inf), ("-.inf", -math.inf), ("+.Inf", math.inf), ("inf", "inf"), ("nan", "nan")],
    *[("3.0.0", "3.0.0"), ("main", "main"), ("a b", "a b"), ("=", "="), ("<<", "<<")],
]


def test_scalars_follow_yaml_1_2() -> None:
    assert len(SCALARS) > 60
    for text, expected in SCALARS:
        value = document.resolve_plain(text)
        assert (value, type(value)) == (expected, type(expected)), text
    assert math.isnan(document.resolve_plain(".nan"))


def test_scalars_read_the_same_in_a_file_and_on_the_command_line() -> None:
    for text, expected in SCALARS:
        root, found = document.parse(f"key: {text}\n", "x")
        assert root is not None and not found
        assert root.plain() == {"key": expected}
        node, found = document.parse_value(text)
        assert node is not None and not found and node.plain() == expected


def test_command_line_values_keep_colons_and_hashes_as_text() -> None:
    for text in ("You are: nice", "a #b", "- a", "*x", "&x", "!tag", "%x", "@x", "a: [b"):
        node, found = document.parse_value(text)
        assert node is not None and not found and node.plain() == text
    node, _ = document.parse_value("[q_proj, v_proj]")
    assert node is not None and node.plain() == ["q_proj", "v_proj"]


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1, max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(["a", "b", "on", "1e5"]), values, max_size=3))
def test_emitted_yaml_reads_back_as_the_same_values(tree: dict[str, Any]) -> None:
    root, found = document.parse(document.emit(tree), "x")
    assert not found
    assert root is not None and root.plain() == tree


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=80) | st.text(alphabet=" \t\n:-[]{}&*!|>'\"#%?,@`ab1.", max_size=60).map(str.encode))
def test_any_bytes_are_a_tree_or_a_problem_with_a_place(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    root, found = document.read(path, "any.yaml")
    assert root is not None or found
    for problem in found:
        assert problem.where.startswith("any.yaml:")


def test_crlf_and_byte_order_mark_are_fine(folder: Path) -> None:
    Path("test.yaml").write_bytes(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode())
    assert recipe.load("test.yaml").data.train_file == "rows.json"


def test_tags_run_nothing(folder: Path) -> None:
    said = problems(MINIMAL + 'serving:\n  system_prompt: !!python/object/apply:os.system ["touch marker"]\n')
    assert "test.yaml:6: tags (tag:yaml.org,2002:python/object/apply:os.system) are not allowed" in said
    assert not Path("marker").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# xyz\n" * 200_000, "larger than 1 MiB"),
        ("a: '" + "x y " * 250_000 + "'", "a: unknown section"),
        ("[" * 100_000, "more than 32 levels"),
        ("\n".join(" " * i + "a:" for i in range(500)), "test.yaml:33: more than 32 levels"),
        (
            "training:\n" + "".join(f"  key{i}: 1\n" for i in range(100_000 // 2)),
            "test.yaml:500: more than 1000 values",
        ),
        ("training:\n" + "".join(f"  lerning_rat{i}: 1\n" for i in range(490)), "did you mean learning_rate?"),
        ("a: &a [x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n", "test.yaml:2: aliases (*a) are not allowed"),
    ],
)
def test_hostile_files_are_refused_quickly(folder: Path, text: str, message: str) -> None:
    start = time.process_time()
    assert message in problems(text)
    assert time.process_time() - start < 2


# --- fields ---


def test_training_fields_are_those_of_the_installed_transformers() -> None:
    from transformers import TrainingArguments

    real = {item.name: item for item in dataclasses.fields(TrainingArguments)}
    ours = training_keys.training_fields()
    own = {"early_stopping_patience", "overwrite_output_dir"}
    assert set(ours) - own == set(real) - {"warmup_ratio", "logging_dir"}
    assert len(real) > 80
    for name in set(ours) - own - {"optim"}:  # the default of optim depends on torch
        assert ours[name].default == fields.default_of(real[name]), name
        assert name in training_keys._HELP or ours[name].help == real[name].metadata["help"].replace("%%", "%"), name
    from transformers.trainer_utils import SchedulerType

    assert ours["lr_scheduler_type"].choices == tuple(item.value for item in SchedulerType)
    assert ours["eval_strategy"].choices == ("no", "steps", "epoch")


def test_tables_name_only_keys_that_exist() -> None:
    known = {f"{section}.{name}" for section, keys in all_fields().items() for name in keys}
    known |= {f"{source_list.KEY}.{name}" for name in source_list.entry_fields()}
    tables: dict[str, set[str]] = {
        "intervals": set(fields.INTERVALS),
        "training intervals": {f"training.{name}" for name in training_keys._INTERVALS},
        "choices": {f"training.{name}" for name in training_keys._CHOICES},
        "help": {f"training.{name}" for name in training_keys._HELP},
        "refused": set(support.REFUSED),
        "values": {key for key, _ in support.REFUSED_VALUES},
        "no effect": set(support.NO_EFFECT),
        "fixed": set(support.FIXED),
        "of methods": set(support.OF_METHODS),
        "only when": set(support.ONLY_WHEN) | {switch for switch, _ in support.ONLY_WHEN.values()},
        "renamed": {f"training.{new}" for new in old_keys.TODAY.values() if new},
    }
    for table, keys in tables.items():
        assert keys and keys <= known, (table, keys - known)
    unwritable = {f.name for f in training_keys.training_fields().values() if f.kinds <= {"null"}}
    assert {f"training.{name}" for name in unwritable} <= set(support.REFUSED)


def test_whole_numbers_become_decimals_in_our_sections_only(folder: Path) -> None:
    loaded = load(MINIMAL, "serving.temperature=1", "training.eval_strategy=no", "training.logging_steps=5")
    assert isinstance(loaded.serving.temperature, float)
    assert loaded.training["logging_steps"] == 5 and isinstance(loaded.training["logging_steps"], int)


# --- paths and names ---


def test_files_are_looked_for_in_three_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, beside = tmp_path / "here", tmp_path / "recipes"
    here.mkdir()
    beside.mkdir()
    monkeypatch.chdir(here)
    (beside / "rows.json").write_text("[]")
    (beside / "x.yaml").write_text(MINIMAL)
    assert recipe.find_file("rows.json", beside) == beside / "rows.json"
    assert recipe.load("../recipes/x.yaml").data.train_file == (beside / "rows.json").as_posix()
    (here / "rows.json").write_text("[]")
    assert recipe.find_file("rows.json", beside) == Path("rows.json")
    assert recipe.load("../recipes/x.yaml").data.train_file == "rows.json"
    assert recipe.find_file("recipes/alpaca.yaml", here) == recipe.shipped_root() / "recipes" / "alpaca.yaml"
    with pytest.raises(UsageError, match=r"looked for .*/here/row\.json, .*did you mean .*/here/rows\.json"):
        recipe.find_file("row.json", beside)


def test_paths_keep_the_name_of_a_link(folder: Path) -> None:
    (folder / "store").mkdir()
    (folder / "store" / "0a1b2c").write_text("[]")
    (folder / "link.jsonl").symlink_to(folder / "store" / "0a1b2c")
    assert load(MINIMAL, "data.train_file=link.jsonl").data.train_file == "link.jsonl"


@pytest.mark.parametrize("name", ["seedling", "gpt2", "meta-llama/Llama-2-7b-chat-hf", "Intel/neural-chat-7b-v3-1"])
def test_hub_names_pass_without_network(folder: Path, name: str) -> None:
    assert load(MINIMAL, f"model.model_name_or_path={name}").model.model_name_or_path == name


def test_a_model_folder_is_taken_as_found(folder: Path) -> None:
    (folder / "models" / "tiny").mkdir(parents=True)
    (folder / "models" / "tiny" / "config.json").write_text("{}")
    for text in ("models/tiny", "./models/tiny", str(folder / "models" / "tiny")):
        assert load(MINIMAL, f"model.model_name_or_path={text}").model.model_name_or_path == "models/tiny"


def test_a_recipe_is_found_by_name_and_by_path_from_any_folder(folder: Path) -> None:
    by_path = recipe.load(recipe.shipped_root() / "recipes" / "alpaca.yaml")
    assert recipe.load("alpaca") == recipe.load("recipes/alpaca.yaml") == by_path


def test_the_output_folder_is_named_after_the_recipe_unless_said(folder: Path) -> None:
    assert load(MINIMAL).training["output_dir"] == "runs/test"
    assert load(MINIMAL, "training.output_dir=there").training["output_dir"] == "there"
    assert recipe.load("test.yaml", output_dir="elsewhere").training["output_dir"] == "elsewhere"
    assert sorted(path.name for path in folder.iterdir()) == ["rows.json", "test.yaml"]


# --- shipped recipes, dump, schema ---


def test_the_expected_recipes_are_shipped() -> None:
    names = {path.stem for path in SHIPPED}
    seeds = {"llama2-7b-alpaca", "llama2-7b-summarization", "llama2-7b-code"}
    seeds |= {"llama2-7b-8bit", "gptj-8bit", "qlora-chat"}
    assert names >= seeds | {"alpaca", "summarization", "code", "chat"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipes_are_valid_and_say_what_they_do(path: Path) -> None:
    loaded = recipe.load(path)
    assert all("overwrite_output_dir" in notice for notice in loaded.notices)
    head = path.read_text(encoding="utf-8").partition("\n\n")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    assert f"python -m neuralbot.finetune recipes/{path.name}" in head
    assert "Needs:" in head


def test_the_recipes_on_llama_have_the_arguments_of_the_original_scripts() -> None:
    common = {
        "output_dir": "./tmp",
        "do_train": True,
        "do_eval": True,
        "num_train_epochs": 3,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "save_strategy": "no",
        "log_level": "info",
        "save_total_limit": 2,
        "bf16": True,
    }
    tasks = {"alpaca": "completion", "summarization": "summarization", "code": "code-generation"}
    for name, task in tasks.items():
        loaded = recipe.load(f"llama2-7b-{name}")
        assert loaded.model.model_name_or_path == "meta-llama/Llama-2-7b-chat-hf"
        assert loaded.training == common
        assert loaded.overwrite_output_dir
        assert loaded.finetuning == arguments.FinetuningArguments(task=task)
    assert recipe.load("llama2-7b-alpaca").data.validation_split_percentage == 1
    summarization, code = recipe.load("llama2-7b-summarization").data, recipe.load("llama2-7b-code").data
    assert (summarization.dataset_name, summarization.dataset_config_name) == ("cnn_dailymail", "3.0.0")
    assert code.dataset_name == "theblackcat102/evol-codealpaca-v1"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_dumped_recipe_loads_as_an_equal_one(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    overrides = [
        "serving.stop=[on, '1e-5', \"###\"]",
        "serving.system_prompt=a: 'b' # c",
        "training.learning_rate=1e-5",
        "training.lr_scheduler_kwargs={x: 1}",
        "data.columns={question: '# Frage: 1', answer: Antwort}",
    ]
    loaded = recipe.load(path, overrides, output_dir="1e5")
    Path("again.yaml").write_text(recipe.dump(loaded), encoding="utf-8")
    again = recipe.load("again.yaml")
    assert again == loaded
    assert recipe.dump(again).partition("\n")[2] == recipe.dump(loaded).partition("\n")[2]
    assert again.serving.stop == ["on", "1e-5", "###"]
    assert again.data.columns == {"question": "# Frage: 1", "answer": "Antwort"}


def test_every_default_may_be_dumped(folder: Path) -> None:
    text = (
        MINIMAL
        + "training:\n  early_stopping_patience: 2\n  overwrite_output_dir: true\n  eval_strategy: epoch\n"
        + ("  save_strategy: epoch\n  load_best_model_at_end: true\n")
    )
    loaded = load(text, "data.validation_split_percentage=10")
    Path("again.yaml").write_text(recipe.dump(loaded))
    assert recipe.load("again.yaml") == loaded
    assert (loaded.early_stopping_patience, loaded.overwrite_output_dir) == (2, True)
    assert not {"early_stopping_patience", "overwrite_output_dir"} & set(loaded.training)


def test_tokens_are_neither_dumped_nor_shown(folder: Path) -> None:
    loaded = load(MINIMAL, "model.token=hf_secret", "training.hub_token=hf_secret")
    assert loaded.model.token == "hf_secret"
    assert "hf_secret" not in recipe.dump(loaded) + repr(loaded) + "".join(loaded.notices)
    for wrong in ("model.token=[hf_secret]", "model.tokn=hf_secret", "token=hf_secret", "training.token=hf_secret"):
        assert "hf_secret" not in problems(MINIMAL, wrong), wrong
    assert "hf_secret" not in problems(MINIMAL + "  token: hf_secret\n  token: hf_secret\n")


def test_the_schema_knows_every_key_and_forbids_others() -> None:
    schema = json.loads(json.dumps(recipe.json_schema(), allow_nan=False))
    assert schema["additionalProperties"] is False
    for section, keys in all_fields().items():
        part = schema["properties"][section]
        assert part["additionalProperties"] is False
        assert set(part["properties"]) == set(keys)
        for name, field in part["properties"].items():
            assert field["description"], name
    metric = schema["properties"]["evaluation"]["properties"]["metric"]
    names = ("auto", "exact_match", "f1", "rouge", "bleu", "contains", "unit_tests", "labels", "loss", "none")
    assert metric["enum"] == [*names]
    rank = schema["properties"]["finetuning"]["properties"]["lora_rank"]
    assert (rank["type"], rank["minimum"], rank["default"]) == ("integer", 1, 8)
    assert schema["properties"]["data"]["properties"]["train_file"]["type"] == ["string", "null"]
    columns = schema["properties"]["data"]["properties"]["columns"]
    assert (columns["type"], columns["additionalProperties"]) == (["object", "null"], {"type": "string"})
    assert schema["properties"]["training"]["properties"]["eval_strategy"]["enum"] == ["no", "steps", "epoch"]
    assert schema["properties"]["training"]["properties"]["adam_beta1"]["exclusiveMaximum"] == 1


def test_a_section_of_another_kind_is_read_as_strictly(folder: Path) -> None:
    @dataclasses.dataclass(frozen=True)
    class Shape:
        output_dir: str
        layers: int = 4
        rate: float = 2e-3

    Path("shape.yaml").write_text("shape:\n  output_dir: x\n  rate: 1e-3\n")
    assert recipe.load_section("shape.yaml", "shape", Shape) == Shape("x", 4, 1e-3)
    Path("shape.yaml").write_text("shape:\n  layrs: 2\n  rate: fast\n")
    with pytest.raises(RecipeError) as caught:
        recipe.load_section("shape.yaml", "shape", Shape)
    assert [str(problem) for problem in caught.value.problems] == [
        "shape.yaml:1: shape.output_dir: is missing",
        "shape.yaml:2: shape.layrs: unknown key in section shape; did you mean layers?",
        "shape.yaml:3: shape.rate: expected a number, got the text 'fast'",
    ]


def test_evaluates_tells_whether_validation_rows_are_wanted(folder: Path) -> None:
    text = MINIMAL + "  validation_split_percentage: 5\n"
    assert not load(text).evaluates
    assert load(text, "training.do_eval=true").evaluates
    assert load(text, "training.eval_strategy=epoch").evaluates


def test_a_report_comes_quickly_and_without_torch(folder: Path) -> None:
    Path("bad.yaml").write_text(MINIMAL + "training:\n  lerning_rate: 1e-4\n")
    code = (
        "import sys\nfrom neuralbot import recipe\nfrom neuralbot.errors import RecipeError\n"
        "try: recipe.load('bad.yaml')\nexcept RecipeError as error: assert 'learning_rate' in str(error)\n"
        "else: raise SystemExit('not refused')\n"
        "heavy = {'torch', 'transformers', 'datasets', 'peft', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    before = _seconds_of_children()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=_environment(), check=False)
    assert done.returncode == 0, done.stderr
    assert _seconds_of_children() - before < 2


def _seconds_of_children() -> float:
    """Processor seconds: unlike the clock on the wall, they do not depend on what else the machine does."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(recipe.__file__).parents[2])}
