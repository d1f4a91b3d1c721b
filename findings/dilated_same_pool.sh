#!/usr/bin/env bash
# Dilated MaxPool with auto_pad SAME: onnx and onnxruntime disagree about the length of the output.
#
# One would guess: SAME means ceil(length / stride) whatever the dilation, as the standard says, or
# that the combination is refused, as onnxruntime does for Conv.
# What happens: onnx's shape inference and its reference evaluator give that length; onnxruntime
# returns one element less, with no more than a warning. Shapes from inference can't be trusted
# over those of a run.
#
# Versions: onnxruntime 1.32.0, onnx 1.23.2, numpy 2.4.6; CPU.
# Output seen (kernel 3, dilation 2, stride 2, input 0 to 6):
#     onnx's shape inference: 4 elements
#     onnx's reference evaluator: 4 elements
#     onnxruntime: 3 elements, [3. 5. 5.]
#     onnxruntime, Conv instead of MaxPool: refused
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
from onnx import parser, shape_inference
from onnx.reference import ReferenceEvaluator

onnxruntime.set_default_logger_severity(4)
ATTRIBUTES = 'dilations = [2], strides = [2], auto_pad = "SAME_UPPER"'
FEED = {"x": np.arange(7, dtype=np.float32).reshape(1, 1, 7)}


def model_of(expression):
    """Return a model whose node reads 7 numbers and leaves its output's length to inference."""
    return parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]>'
        "window (float[1, 1, 7] x) => (float[1, 1, length] y)"
        f"<float[1, 1, 3] w = {{1, 1, 1}}> {{ inner = {expression} y = Identity(inner) }}"
    )


def run(model):
    """Run a model in onnxruntime."""
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, FEED)[0].ravel()


pool = model_of(f"MaxPool<kernel_shape = [3], {ATTRIBUTES}>(x)")
inner = shape_inference.infer_shapes(pool).graph.value_info[0]
inferred = inner.type.tensor_type.shape.dim[2].dim_value
reference, runtime = ReferenceEvaluator(pool).run(None, FEED)[0].ravel(), run(pool)
try:
    conv = str(run(model_of(f"Conv<{ATTRIBUTES}>(x, w)")))
except onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument:
    conv = "refused"
print(f"onnx's shape inference: {inferred} elements")
print(f"onnx's reference evaluator: {len(reference)} elements")
print(f"onnxruntime: {len(runtime)} elements, {runtime}")
print(f"onnxruntime, Conv instead of MaxPool: {conv}")
assert inferred == len(reference) == 4, "onnx gives another length"
assert len(runtime) == 3, "onnxruntime gives another length"
assert conv == "refused", "onnxruntime runs such a Conv"
PYTHON
