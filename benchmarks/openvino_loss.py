"""The loss of an exported model on rows, as OpenVINO computes it: through the very products that answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from neuralbot.conversation import Encoded


def loss(folder: Path, activation_group: int, rows: Sequence[Encoded]) -> float:
    """Cross-entropy of a target token, the mean over all of them; computed in float32.

    activation_group: so many activations share a scale where they are rounded to 8 bits; 0: they are not rounded.
    """
    import numpy as np
    import openvino

    properties = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": activation_group}
    compiled = openvino.Core().compile_model(folder / "openvino_model.xml", "CPU", properties)
    request = compiled.create_infer_request()
    total, targets = 0.0, 0
    for row in rows:
        request.reset_state()
        inputs = {
            "input_ids": np.array([row.ids]),
            "attention_mask": np.ones((1, len(row.ids)), np.int64),
            "position_ids": np.arange(len(row.ids))[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        places = np.flatnonzero(row.target_mask[1:])
        logits_NV = request.infer(inputs)["logits"][0, places].astype(np.float64)
        chosen = logits_NV[np.arange(len(places)), np.array(row.ids)[places + 1]]
        total += float((np.logaddexp.reduce(logits_NV, axis=-1) - chosen).sum())
        targets += len(places)
    return total / targets
