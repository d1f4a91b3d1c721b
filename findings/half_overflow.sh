#!/usr/bin/env bash
# onnxruntime computes float16 models on the CPU in float32 between nodes, which hides overflows.
#
# One would guess: in a float16 model every tensor is rounded to float16, so that a product of 1e6
# is inf (as in onnx's reference evaluator), and so is all that follows from it.
# What happens: most operators have no float16 kernel for the CPU. Casts to float32 are put around
# nodes, and those between two such nodes are taken out again, with all optimisations switched off
# too. The output is finite, even in a run that also returns the tensor inside, which is inf. A
# model that passed on the CPU may still overflow where float16 is computed in float16.
#
# Versions: onnxruntime 1.32.0, onnx 1.23.2, numpy 2.4.6; CPU, x86-64.
# Output seen:
#     onnxruntime: the square of 1000 is inf, its root 1000.0
#     reference: the square of 1000 is inf, its root inf
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import numpy as np
import onnxruntime
from onnx import parser
from onnx.reference import ReferenceEvaluator

np.seterr(over="ignore")
model = parser.parse_model(
    '<ir_version: 8, opset_import: ["": 17]>'
    "root_of_square (float16[n] x) => (float16[n] square, float16[n] root)"
    "{ square = Mul(x, x) root = Sqrt(square) }"
)
options = onnxruntime.SessionOptions()
options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
session = onnxruntime.InferenceSession(
    model.SerializeToString(), options, providers=["CPUExecutionProvider"]
)
feed = {"x": np.array([1000], np.float16)}
runtime, reference = session.run(None, feed), ReferenceEvaluator(model).run(None, feed)
for name, (square, root) in {"onnxruntime": runtime, "reference": reference}.items():
    print(f"{name}: the square of 1000 is {square[0]}, its root {root[0]}")
assert np.isinf(reference[0][0]) and np.isinf(reference[1][0])
assert np.isinf(runtime[0][0]), "the tensor inside fits float16"
assert runtime[1][0] == 1000, "the overflow shows"
PYTHON
