#!/usr/bin/env bash
# onnxruntime's float32 Sigmoid is exactly 0 from -18 on, and off by up to a factor of two before.
#
# One would guess: Sigmoid(-20) is 2.06e-9 to six digits, and becomes 0 near -88, where exp
# underflows: float32 holds all of these numbers.
# What happens: the kernel evaluates a rational approximation that is accurate to an absolute 1e-7
# or so and clamped at 18. Small probabilities come in steps of 3e-8, then 0, whose logarithm is
# -inf. The float64 kernel is right to an absolute 1e-16. So saturated outputs must be compared by
# absolute differences, and what needs small probabilities should be computed from logits.
#
# Versions: onnxruntime 1.32.0, onnx 1.23.2, numpy 2.4.6; CPU, x86-64.
# Output seen:
#          x  float32   float64   exact
#        -10  4.54e-05  4.54e-05  4.54e-05
#        -15  3.58e-07  3.06e-07  3.06e-07
#        -17  8.94e-08  4.14e-08  4.14e-08
#        -18  0.00e+00  1.52e-08  1.52e-08
#        -20  0.00e+00  2.06e-09  2.06e-09
#        -30  0.00e+00  9.35e-14  9.36e-14
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


def sigmoid(values, onnx_type, dtype):
    """Compute Sigmoid in onnxruntime."""
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]>'
        f"logistic ({onnx_type}[n] x) => ({onnx_type}[n] y) {{ y = Sigmoid(x) }}"
    )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": np.asarray(values, dtype)})[0]


x = np.array([-10, -15, -17, -18, -20, -30])
single, double = sigmoid(x, "float", np.float32), sigmoid(x, "double", np.float64)
exact = 1 / (1 + np.exp(-x.astype(np.float64)))
print("     x  float32   float64   exact")
for row in zip(x, single, double, exact, strict=True):
    print("{:6d}  {:.2e}  {:.2e}  {:.2e}".format(*row))
assert np.allclose(double, exact, rtol=0, atol=1e-15), "float64 is wrong"
assert np.all(single[3:] == 0), "float32 is not 0 from -18 on"
assert single[2] > 0 and abs(single[2] / exact[2] - 1) > 0.3, "float32 is right at -17"
assert np.all(np.abs(single - exact) < 2e-7), "float32 is wrong in absolute terms too"
PYTHON
