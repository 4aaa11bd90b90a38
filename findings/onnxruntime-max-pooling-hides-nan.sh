#!/usr/bin/env bash
# ONNX Runtime's global max pooling hides a NaN at 48 of the 49 places of a 7 x 7 map.
#
# Versions:   onnxruntime 1.32.0, onnx 1.23.2, numpy 2.4.6 (x86-64)
# Behaviour:  GlobalMaxPool of a 7 x 7 map of zeros with one NaN gives 0, unless the NaN is at one certain place; an 8
#             x 8 map likewise. The ONNX reference evaluator gives NaN wherever it lies, as PyTorch's amax does.
# Surprise:   NaN is relied on to poison whatever it touches; here its position decides, mostly against it.
# Cost:       a NaN from missing pixels (nodata of a float raster) or from a broken layer goes through the exported
#             network as an ordinary embedding, and a check for NaN in the output passes. The check belongs at the
#             input.
# Source:     the kernels (MLAS) take the vector maximum of the processor, which returns its second operand if either
#             is NaN; the operator's text says nothing of NaN.
# Seen:       runtime: NaN for 1 of 49 and 1 of 64 positions; reference: all.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
graph = helper.make_graph([helper.make_node("GlobalMaxPool", ["x"], ["y"])], "pool", values[:1], values[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
reference = ReferenceEvaluator(model)
shown = {}
for side in (7, 8):
    for name, program in (("runtime", session), ("reference", reference)):
        shown[side, name] = []
        for pixel in range(side * side):
            features = np.zeros((1, 1, side, side), dtype=np.float32)
            features.ravel()[pixel] = np.nan
            if np.isnan(program.run(None, {"x": features})[0].item()):
                shown[side, name].append(pixel)
        print(f"{side} x {side}, {name}: NaN for {len(shown[side, name])} of {side * side} positions")
for side in (7, 8):
    assert len(shown[side, "reference"]) == side * side
    assert len(shown[side, "runtime"]) < side * side / 2
PYTHON
