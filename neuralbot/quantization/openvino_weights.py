"""Writes chosen integers into an exported model, in the form that NNCF writes and that OpenVINO's products read.

A constant of integers, converted, less its zero points, times its scales. The plugin for processors recognizes this and
multiplies with the integers; no weight is ever unpacked in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from neuralbot.errors import ModelError

if TYPE_CHECKING:
    import openvino

    from neuralbot.quantization.integers import Integers


def write(model: openvino.Model, integers: Mapping[str, Integers]) -> None:
    """Put the integers in the place of the float weights of the same layers. Raises ModelError if one is not there."""
    constants = {node.get_friendly_name(): node for node in model.get_ops() if node.get_type_name() == "Constant"}
    for name, chosen in integers.items():
        node = constants.get(f"self.{name}.weight")
        if node is None or list(node.output(0).get_shape()) != list(chosen.values.shape):
            raise ModelError(
                f"the exported model has no weight {name} of the form {list(chosen.values.shape)}: its integers cannot "
                "be written; leave the method out"
            )
        _replace(node, chosen)
    model.validate_nodes_and_infer_types()


def _replace(node: Any, chosen: Integers) -> None:
    from openvino import Type, opset13

    name, outputs = node.get_friendly_name(), chosen.values.shape[0]
    grouped = chosen.groups > 1
    shape = (outputs, chosen.groups, -1) if grouped else (outputs, -1)
    per_group = (outputs, chosen.groups, 1) if grouped else (outputs, 1)
    values, zeros = chosen.values.numpy().reshape(shape), chosen.zeros.numpy().reshape(per_group)
    if chosen.symmetric:
        middle = 2 ** (chosen.bits - 1)
        signed = (values.astype("int16") - middle).astype("int8")
        weight = opset13.convert(_constant(signed, f"i{chosen.bits}", name), Type.f16)
    else:
        weight = opset13.convert(_constant(values, f"u{chosen.bits}", name), Type.f16)
        zero = opset13.convert(_constant(zeros, f"u{chosen.bits}", f"{name}/zero_point"), Type.f16)
        weight = opset13.subtract(weight, zero)
    scale = _constant(chosen.scales.numpy().reshape(per_group), "f16", f"{name}/scale")
    weight = opset13.multiply(weight, scale)
    if grouped:
        weight = opset13.reshape(weight, list(chosen.values.shape), special_zero=False)
    weight = opset13.convert(weight, node.output(0).get_element_type())
    for place in node.output(0).get_target_inputs():
        place.replace_source_output(weight.output(0))


def _constant(values: Any, kind: str, name: str) -> Any:
    from openvino import Type, opset13

    constant = opset13.constant(values, dtype=getattr(Type, kind))
    constant.set_friendly_name(name)
    return constant
