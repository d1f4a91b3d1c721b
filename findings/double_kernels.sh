#!/usr/bin/env bash
# onnxruntime's CPU provider runs fewer operators in float64 than in float16.
#
# One would guess: float64 is native to every CPU and float16 to hardly any, so float64 models run
# wherever float32 ones do, and float16 is what might be missing.
# What happens: float16 nodes without a kernel are run in float32 between casts. float64 nodes
# are not, and many operators of ordinary networks have no float64 kernel, often not the ones that
# one expects: MaxPool has one and AveragePool none, Sigmoid and not HardSigmoid, Relu and not
# LeakyRelu. So double precision is no way to get exact reference outputs of a network.
#
# Versions: onnxruntime 1.32.0, onnx 1.23.2; CPU, x86-64.
# Output seen:
#     float16: without kernel: none
#     double: without kernel: LeakyRelu, HardSigmoid, Conv, AveragePool, InstanceNormalization
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import onnxruntime
from onnx import checker, parser

onnxruntime.set_default_logger_severity(4)
NODES = {
    "Relu": "Relu(x)",
    "LeakyRelu": "LeakyRelu(x)",
    "Sigmoid": "Sigmoid(x)",
    "HardSigmoid": "HardSigmoid(x)",
    "MatMul": "MatMul(x, x)",
    "Conv": "Conv(x, x)",
    "MaxPool": "MaxPool<kernel_shape = [2, 2]>(x)",
    "AveragePool": "AveragePool<kernel_shape = [2, 2]>(x)",
    "BatchNormalization": "BatchNormalization(x, s, s, s, s)",
    "InstanceNormalization": "InstanceNormalization(x, s, s)",
}
MISSING = ["LeakyRelu", "HardSigmoid", "Conv", "AveragePool", "InstanceNormalization"]


def runs(expression, onnx_type):
    """Whether onnxruntime loads a valid model of one node."""
    model = parser.parse_model(
        '<ir_version: 9, opset_import: ["": 19]>'
        f"node ({onnx_type}[1, 1, 2, 2] x, {onnx_type}[1] s) => ({onnx_type}[a, b, c, d] y)"
        f"{{ y = {expression} }}"
    )
    checker.check_model(model, full_check=True)
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented:
        return False
    return True


for onnx_type in ("float16", "double"):
    missing = [name for name, expression in NODES.items() if not runs(expression, onnx_type)]
    print(f"{onnx_type}: without kernel: {', '.join(missing) or 'none'}")
    assert missing == (MISSING if onnx_type == "double" else []), "the set of kernels changed"
PYTHON
