#!/usr/bin/env bash
# onnxsim's structured pruning leaves layers whole wherever a small operator lies between them.
#
# One would guess: half of the channels go of every convolution that feeds another one, through
# whatever is elementwise between them; where that is impossible, the function says so.
# What happens: Relu lets it through. A per-channel Add or Mul, which unfolded biases and
# normalisations are, Dropout between dense layers, and Flatten between a convolution and a dense
# layer do not: the layers keep their widths, and nothing is raised, warned or returned about it.
#
# Versions: onnxsim 0.8.1, onnx 1.23.2, numpy 2.4.6.
# Output seen (width of the first layer, 32 before, at sparsity 0.5):
#     Conv, Relu, Conv: 16
#     Conv, Add, Conv: 32
#     Conv, Mul, Conv: 32
#     Conv, Flatten, Gemm: 32
#     Gemm, Relu, Gemm: 16
#     Gemm, Dropout, Gemm: 32
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    numpy==2.4.6 onnx==1.23.2 onnxsim==0.8.1
cd "$folder"
venv/bin/python - <<'PYTHON'
import warnings

import numpy as np
import onnx
from onnx import numpy_helper, parser
from onnxsim.pruning import apply_structured_pruning

warnings.simplefilter("error")
IMAGE, VECTOR = "float[n, 3, 8, 8] x", "float[n, 32] x"
CONVOLUTIONS = {"w": (32, 3, 3, 3), "v": (16, 32, 3, 3), "s": (1, 32, 1, 1)}
DENSE = {"w": (32, 32), "v": (32, 16)}
MIXED = {"w": (32, 3, 3, 3), "v": (32 * 36, 16)}
CASES = {
    "Conv, Relu, Conv": (IMAGE, "b = Relu(a) y = Conv(b, v)", CONVOLUTIONS, 16),
    "Conv, Add, Conv": (IMAGE, "b = Add(a, s) y = Conv(b, v)", CONVOLUTIONS, 32),
    "Conv, Mul, Conv": (IMAGE, "b = Mul(a, s) y = Conv(b, v)", CONVOLUTIONS, 32),
    "Conv, Flatten, Gemm": (IMAGE, "b = Flatten(a) y = Gemm(b, v)", MIXED, 32),
    "Gemm, Relu, Gemm": (VECTOR, "b = Relu(a) y = Gemm(b, v)", DENSE, 16),
    "Gemm, Dropout, Gemm": (VECTOR, "b = Dropout(a) y = Gemm(b, v)", DENSE, 32),
}
rng = np.random.default_rng(0)
for name, (given, nodes, shapes, expected) in CASES.items():
    first = name.split(",")[0]
    output = "float[n, 16, 4, 4] y" if name.endswith("Conv") else "float[n, 16] y"
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]>'
        f"two_layers ({given}) => ({output}) {{ a = {first}(x, w) {nodes} }}"
    )
    model.graph.initializer.extend(
        numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), key)
        for key, shape in shapes.items()
    )
    onnx.checker.check_model(model, full_check=True)
    pruned = apply_structured_pruning(model, sparsity=0.5)
    weight = next(w for w in pruned.graph.initializer if w.name == "w")
    width = weight.dims[0 if first == "Conv" else 1]
    print(f"{name}: {width}")
    assert width == expected, f"{name}: got {width}, expected {expected}"
PYTHON
