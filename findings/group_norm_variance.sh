#!/usr/bin/env bash
# GroupNormalization is up to a thousand times less accurate than its InstanceNormalization form.
#
# One would guess: newer exports of a PyTorch GroupNorm, which hold GroupNormalization (operator set
# 21), compute what older ones compute with Reshape and InstanceNormalization, up to rounding.
# What happens: onnxruntime has no kernel for GroupNormalization on the CPU and runs the body that
# its schema gives, where the variance is E[x^2] - E[x]^2. In float32 the difference cancels: where
# values lie 1 around a mean of 1000 results are off by 0.1, and around 4096 they are NaN, since
# the variance comes out below zero. The other form is off by 0.0001 and 0.0005. So the exporter's
# operator set changes a network's accuracy, and its outputs may differ by far more than rounding.
#
# Versions: onnxruntime 1.32.0, onnx 1.23.2, numpy 2.4.6; CPU, x86-64.
# Output seen (largest error of results near 1, against float64):
#     mean 0: GroupNormalization 2.0e-07, InstanceNormalization 3.7e-07
#     mean 100: GroupNormalization 1.4e-03, InstanceNormalization 1.2e-05
#     mean 1000: GroupNormalization 1.2e-01, InstanceNormalization 7.0e-05
#     mean 4096: GroupNormalization nan, InstanceNormalization 4.5e-04
source "$(dirname "$0")/environment.bash" \
    numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0
venv/bin/python - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
from onnx import parser

onnxruntime.set_default_logger_severity(3)
FORMS = {
    "GroupNormalization": (
        "float[4] scale = {1, 1, 1, 1}, float[4] bias = {0, 0, 0, 0}",
        "y = GroupNormalization<num_groups = 2>(x, scale, bias)",
    ),
    "InstanceNormalization": (
        "float[2] scale = {1, 1}, float[2] bias = {0, 0}, int64[3] groups = {0, 2, -1}",
        "h = Reshape(x, groups) i = InstanceNormalization(h, scale, bias) "
        "s = Shape(x) y = Reshape(i, s)",
    ),
}


def run(form, x):
    """Run one of the forms, two groups of two channels each."""
    constants, nodes = FORMS[form]
    model = parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21]>'
        f"norm (float[n, 4, 8, 8] x) => (float[n, 4, 8, 8] y) <{constants}> {{ {nodes} }}"
    )
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})[0]


noise = np.random.default_rng(0).standard_normal((1, 4, 8, 8))
errors = {}
for mean in (0, 100, 1000, 4096):
    x = (noise + mean).astype(np.float32)
    groups = x.astype(np.float64).reshape(1, 2, -1)
    centred = groups - groups.mean(-1, keepdims=True)
    want = (centred / np.sqrt(groups.var(-1, keepdims=True) + 1e-5)).reshape(x.shape)
    errors[mean] = [float(np.abs(run(form, x) - want).max()) for form in FORMS]
    told = ", ".join(f"{form} {e:.1e}" for form, e in zip(FORMS, errors[mean], strict=True))
    print(f"mean {mean}: {told}")

assert max(errors[0]) < 1e-5, "the forms differ around 0 too"
assert errors[1000][0] > 100 * errors[1000][1], "GroupNormalization became more accurate"
assert np.isnan(errors[4096][0]) and errors[4096][1] < 1e-2, "GroupNormalization gives no NaN"
PYTHON
