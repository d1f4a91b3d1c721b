#!/usr/bin/env bash
# In onnxruntime it depends on where a NaN stands whether a maximum is NaN.
#
# One would guess: NaN propagates as in NumPy, or is skipped as in fmax, one of both everywhere.
# What happens: Relu propagates it and TopK ranks it highest, but ReduceMax along the last axis
# gives NaN only where NaN is the first entry, MaxPool for some windows that hold it and not for
# others, GlobalMaxPool not at all. So a NaN in an activation may vanish on its way, and finite
# outputs don't prove that nothing went wrong inside.
#
# Versions: onnxruntime 1.32.0, onnx 1.23.2, numpy 2.4.6; CPU, x86-64.
# Output seen:
#     TopK: [nan, 1, 2] -> nan, [1, nan, 2] -> nan, [1, 2, nan] -> nan
#     Relu, TopK: [nan, 1, 2] -> nan, [1, nan, 2] -> nan, [1, 2, nan] -> nan
#     ReduceMax: [nan, 1, 2] -> nan, [1, nan, 2] -> 2.0, [1, 2, nan] -> 2.0
#     GlobalMaxPool: [nan, 1, 2] -> 2.0, [1, nan, 2] -> 2.0, [1, 2, nan] -> 2.0
#     MaxPool: 1 of 4 windows that hold a NaN are NaN
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

onnxruntime.set_default_logger_severity(3)  # an unused initializer is warned of
ORDERS = ([np.nan, 1, 2], [1, np.nan, 2], [1, 2, np.nan])
NODES = {
    "TopK": "y, index = TopK(x, one)",
    "Relu, TopK": "a = Relu(x) y, index = TopK(a, one)",
    "ReduceMax": "y = ReduceMax<axes = [2]>(x)",
    "GlobalMaxPool": "y = GlobalMaxPool(x)",
}
EXPECTED = {
    "TopK": [np.nan] * 3,
    "Relu, TopK": [np.nan] * 3,
    "ReduceMax": [np.nan, 2, 2],
    "GlobalMaxPool": [2, 2, 2],
}


def run(inputs, node, feed):
    """Run a model of few nodes; return its first output as a list of numbers."""
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]>'
        f"maximum ({inputs} x) => (float[a, b, c] y) <int64[1] one = {{1}}> {{ {node} }}"
    )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": np.array(feed, np.float32)})[0].ravel().tolist()


for name, node in NODES.items():
    values = [run("float[1, 1, 3]", node, [[order]])[0] for order in ORDERS]
    print(f"{name}: {', '.join(f'{o} -> {v}' for o, v in zip(ORDERS, values, strict=True))}")
    assert np.array_equal(values, EXPECTED[name], equal_nan=True), f"{name} treats NaN otherwise"

MAP = [[[[0, 0, 0], [0, np.nan, 0], [0, 0, 0]]]]
windows = run("float[1, 1, 3, 3]", "z = MaxPool<kernel_shape = [2, 2]>(x) y = Squeeze(z, one)", MAP)
count = int(np.isnan(windows).sum())
print(f"MaxPool: {count} of 4 windows that hold a NaN are NaN")
assert 0 < count < 4, "MaxPool treats NaN alike in all windows"
PYTHON
