"""The integers that the libraries choose are those that OpenVINO computes with, one by one."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from neuralbot import cli
from neuralbot.calibration import METHODS, Calibration
from neuralbot.engines import export, export_cache
from neuralbot.errors import ModelError
from neuralbot.quantization import choose, openvino_weights
from neuralbot.quantization.choose import Form
from neuralbot.quantization.integers import Integers, group_size

needs_libraries = pytest.mark.skipif(
    bool(export.missing() or choose.missing("gptq") or choose.missing("autoround")), reason="libraries are missing"
)
ROWS = [[(7 * place + 3 * row) % 500 for place in range(24)] for row in range(8)]
FORMS = [Form(4, 32, False), Form(4, 32, True), Form(8, -1, False)]


@pytest.fixture(scope="module")
def ir(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, exported in float32."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return export.exported(export.Spec(str(base), "fp32"), lambda _: None).folder / "openvino_model.xml"


def data(node: Any) -> Tensor:
    """The numbers of a constant; those of 4 bits lie in pairs, the lower half of a byte first."""
    kind, shape = str(node.get_element_type().to_string()), list(node.output(0).get_shape())
    raw = torch.tensor(node.get_data())
    if kind not in ("u4", "i4"):
        return raw.view(shape[0], -1)
    halves = raw.flatten().view(torch.uint8)
    values = torch.stack([halves & 15, halves >> 4], dim=1).flatten().to(torch.int16)
    values = values[: torch.Size(shape).numel()]
    return torch.where((values > 7) & (kind == "i4"), values - 16, values).view(shape[0], -1)


def read_back(path: Path) -> dict[str, Integers]:
    """What stands in an exported model, read without neuralbot's own code."""
    import openvino

    nodes = {node.get_friendly_name(): node for node in openvino.Core().read_model(path).get_ops()}
    found = {}
    for name, node in nodes.items():
        kind = str(node.get_element_type().to_string()) if node.get_type_name() == "Constant" else ""
        if not name.endswith("_proj.weight") or kind not in ("u4", "i4", "u8", "i8"):
            continue
        bits, scales = int(kind[1]), data(nodes[f"{name}/scale"])
        middle = 0 if kind[0] == "u" else 2 ** (bits - 1)
        zero = nodes.get(f"{name}/zero_point")
        zeros = torch.full(scales.shape, middle) if zero is None else data(zero)
        found[name] = Integers(data(node).to(torch.int16) + middle, zeros, scales, bits)
    return found


def logits(path: Path, ids: list[int]) -> Tensor:
    import numpy as np
    import openvino

    properties = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    request = openvino.Core().compile_model(path, "CPU", properties).create_infer_request()
    inputs = {
        "input_ids": np.array([ids]),
        "attention_mask": np.ones((1, len(ids)), np.int64),
        "position_ids": np.arange(len(ids))[None],
        "beam_idx": np.zeros(1, np.int32),
    }
    return torch.tensor(request.infer(inputs)["logits"])


@needs_libraries
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", METHODS)
def test_openvino_gets_each_integer_and_scale(
    method: Any, form: Form, tiny_model: Any, ir: Path, tmp_path: Path
) -> None:
    import openvino

    if method in ("teq", "autoround") and form.bits == 8:
        pytest.skip("refused, see below")
    model = copy.deepcopy(tiny_model)
    options = {"iters": 2} if method == "autoround" else {}
    chosen = choose.choose(model, ROWS, form, Calibration(method, options=options), lambda _: None)
    assert len(chosen) == 14 and all(found.bits == form.bits for found in chosen.values())
    assert {found.groups for found in chosen.values()} == ({2, 4} if form.bits == 4 else {1})
    exported = openvino.Core().read_model(ir)
    openvino_weights.write(exported, chosen)
    openvino.save_model(exported, tmp_path / "small.xml", compress_to_fp16=False)
    found = read_back(tmp_path / "small.xml")
    assert found.keys() == {f"self.{name}.weight" for name in chosen}
    for name, expected in chosen.items():
        own = found[f"self.{name}.weight"]
        assert torch.equal(own.values, expected.values.to(torch.int16)), name
        assert torch.equal(own.zeros.to(torch.int16), expected.zeros.to(torch.int16)), name
        assert torch.equal(own.scales, expected.scales), name
        assert torch.equal(model.get_submodule(name).weight, expected.weight())
        assert int(expected.values.max()) > 2 ** (form.bits - 1)  # all its bits are used


@needs_libraries
@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_openvino_computes_what_the_integers_stand_for(method: Any, tiny_model: Any, ir: Path, tmp_path: Path) -> None:
    import openvino

    model = copy.deepcopy(tiny_model)
    chosen = choose.choose(model, ROWS, FORMS[0], Calibration(method), lambda _: None)
    exported = openvino.Core().read_model(ir)
    openvino_weights.write(exported, chosen)
    openvino.save_model(exported, tmp_path / "small.xml", compress_to_fp16=False)
    with torch.no_grad():
        own, plain = model(torch.tensor([ROWS[0]])).logits, tiny_model(torch.tensor([ROWS[0]])).logits
    assert torch.allclose(logits(tmp_path / "small.xml", ROWS[0]), own, atol=1e-4)
    assert not torch.allclose(own, plain, atol=1e-2)


@needs_libraries
def test_rtn_rounds_to_the_nearest(tiny_model: Any) -> None:
    chosen = choose.choose(copy.deepcopy(tiny_model), ROWS, FORMS[0], Calibration("rtn"), lambda _: None)
    for name, found in chosen.items():
        weight = tiny_model.get_submodule(name).weight
        half_a_step = found.scales.float().repeat_interleave(32, 1) * 0.5
        assert ((found.weight() - weight).abs() <= 1.01 * half_a_step + 1e-6).all(), name


@needs_libraries
def test_gptq_answers_closer_than_rounding(tiny_model: Any) -> None:
    rows = torch.tensor(ROWS)
    errors = {}
    for method in ("rtn", "gptq"):
        model = copy.deepcopy(tiny_model)
        choose.choose(model, ROWS, FORMS[0], Calibration(method), lambda _: None)
        with torch.no_grad():
            errors[method] = float((model(rows).logits - tiny_model(rows).logits).square().mean())
    assert errors["gptq"] < 0.9 * errors["rtn"]


@needs_libraries
def test_factors_that_awq_takes_out_of_weights_are_in_the_norms(tiny_model: Any) -> None:
    model = copy.deepcopy(tiny_model)
    choose.choose(model, ROWS, FORMS[2], Calibration("awq"), lambda _: None)
    norm = model.model.layers[0].input_layernorm.weight
    assert not torch.allclose(norm, tiny_model.model.layers[0].input_layernorm.weight, rtol=0.01)
    with torch.no_grad():
        own, plain = (each(torch.tensor([ROWS[0]])).logits for each in (model, tiny_model))
    assert torch.nn.functional.cosine_similarity(own.flatten(), plain.flatten(), dim=0) > 0.999


@needs_libraries
def test_progress_names_each_block(tiny_model: Any) -> None:
    said: list[str] = []
    choose.choose(copy.deepcopy(tiny_model), ROWS, FORMS[0], Calibration("gptq"), said.append)
    assert said[0] == "gptq: block 1 of 2"
    assert said[1].startswith("gptq: block 2 of 2, about ")
    assert not Path("nc_workspace").exists()


@needs_libraries
def test_what_would_be_wrong_is_refused(tiny_model: Any) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    with pytest.raises(ModelError, match="teq with 8 bits cannot be honoured"):
        choose.choose(copy.deepcopy(tiny_model), ROWS, FORMS[2], Calibration("teq"), lambda _: None)
    with pytest.raises(ModelError, match="autoround with 8 bits and zero points cannot be honoured"):
        choose.choose(copy.deepcopy(tiny_model), ROWS, FORMS[2], Calibration("autoround"), lambda _: None)
    other = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=100))
    with pytest.raises(ModelError, match="most of its weights are not in linear layers of their own"):
        choose.choose(other, ROWS, FORMS[0], Calibration("gptq"), lambda _: None)
    strange = copy.deepcopy(tiny_model)
    strange.config.model_type = "gemma"
    with pytest.raises(ModelError, match="awq cannot be used for gemma"):
        choose.choose(strange, ROWS, FORMS[0], Calibration("awq"), lambda _: None)


def test_a_missing_library_is_named(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "missing", lambda method: choose.library(method))
    with pytest.raises(ModelError, match=r"autoround needs auto-round.*pip install 'neuralbot\[quantize\]'"):
        choose.choose(tiny_model, ROWS, FORMS[0], Calibration("autoround"), lambda _: None)


@pytest.mark.parametrize(("inputs", "wanted", "size"), [(192, 128, 64), (384, 128, 128), (48, 32, 16), (50, 32, -1)])
def test_groups_divide_a_row(inputs: int, wanted: int, size: int) -> None:
    assert group_size(inputs, wanted) == size
    assert group_size(inputs, -1) == -1


@needs_libraries
def test_the_command_writes_and_keeps_a_calibrated_export(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = ["export", str(run), "--precision", "int4", "--group-size", "32", "--method", "gptq", "--rows", "8"]
    assert cli.main(words) == 0
    assert "calibrating by gptq on 8 rows" in capfd.readouterr().err
    (entry,) = export_cache.entries()
    assert (entry.facts["method"], entry.facts["precision"]) == ("gptq", "int4")
    assert len(read_back(entry.folder / "openvino_model.xml")) == 14
    assert cli.main(words) == 0
    assert "calibrating" not in capfd.readouterr().err
    (run.parent / "rows.jsonl").write_text(json.dumps({"question": "a", "answer": "b"}), encoding="utf-8")
    assert cli.main([*words[:-1], "9"]) == 3
    assert "has changed since" in capfd.readouterr().err
    assert len(list(export_cache.cache_folder().iterdir())) == 3  # one entry, two locks


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--method", "gptq"], "--method gptq is for int8 and int4: add --precision int4"),
        (["--data", "rows.jsonl", "--precision", "int4"], "--data has no effect without --method"),
        (["--method", "gptq", "--precision", "int4", "--rows", "0"], "--rows=0 cannot be used"),
    ],
)
def test_settings_that_contradict_are_refused(more: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", "seedling", *more]) == 2
    assert message in capfd.readouterr().err
