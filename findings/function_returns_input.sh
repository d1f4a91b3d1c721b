#!/usr/bin/env bash
# onnxruntime loads no model that holds a function which returns one of its inputs as it is.
#
# One would guess: a function may hand an input on, as a model's own graph may, and as onnx.checker
# and the reference evaluator agree; and a function that nothing calls does no harm.
# What happens: onnxruntime refuses to load the model, whether the function is called or not, with a
# message about the function's schema that doesn't name the result. With an Identity in between it
# loads.
#
# Versions: onnxruntime 1.32.0, onnx 1.23.2, numpy 2.4.6; CPU, x86-64.
# Output seen (of all five onnx.checker and the reference evaluator accept):
#     the graph returns its input: runs
#     a function returns its sum: runs
#     a function returns its input too: refused, ONNX Schema Twice: failed validating the check
#     it does, and is not called: refused, ONNX Schema Twice: failed validating the check
#     it returns an Identity of it: runs
source "$(dirname "$0")/environment.bash" \
    numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0
venv/bin/python - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
from onnx import parser
from onnx.reference import ReferenceEvaluator

onnxruntime.set_default_logger_severity(3)
HEAD = '<ir_version: 9, opset_import: ["": 17, "local": 1]> g (float[2] x) =>'
LOCAL = '<opset_import: ["": 17], domain: "local"> Twice (x) =>'
REFUSED = "failed validating the check"
CASES = {
    "the graph returns its input": (f"{HEAD} (float[2] x, float[2] y) {{ y = Relu(x) }}", True),
    "a function returns its sum": (
        f"{HEAD} (float[2] y) {{ y = local.Twice(x) }} {LOCAL} (s) {{ s = Add(x, x) }}",
        True,
    ),
    "a function returns its input too": (
        f"{HEAD} (float[2] y, float[2] z) {{ y, z = local.Twice(x) }}"
        f"{LOCAL} (x, s) {{ s = Add(x, x) }}",
        False,
    ),
    "it does, and is not called": (
        f"{HEAD} (float[2] y) {{ y = Relu(x) }} {LOCAL} (x, s) {{ s = Add(x, x) }}",
        False,
    ),
    "it returns an Identity of it": (
        f"{HEAD} (float[2] y, float[2] z) {{ y, z = local.Twice(x) }}"
        f"{LOCAL} (i, s) {{ i = Identity(x) s = Add(x, x) }}",
        True,
    ),
}
feed = {"x": np.array([1, 2], np.float32)}
for name, (text, expected) in CASES.items():
    model = parser.parse_model(text)
    onnx.checker.check_model(model, full_check=True)
    ReferenceEvaluator(model).run(None, feed)
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        session.run(None, feed)
    except Exception as error:
        assert REFUSED in str(error), error
        found, told = False, f"refused, ONNX Schema Twice: {REFUSED}"
    else:
        found, told = True, "runs"
    print(f"{name}: {told}")
    assert found is expected, f"{name}: no longer so"
PYTHON
