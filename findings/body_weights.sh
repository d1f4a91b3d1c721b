#!/usr/bin/env bash
# onnxruntime doesn't load a MatMul in a loop whose int8 weight lies outside of the loop's body.
#
# One would guess: a body may read the initializers of the graph around it, so it makes no difference
# to a quantised model whether its weights lie in the body or outside.
# What happens: with the integers in the body the model loads and runs. With the same initializers in
# the outer graph the fusion of DequantizeLinear and MatMul looks for the weight in the body's graph
# alone, and loading fails. Below the level of extended optimizations, or where the weight is a
# float32 initializer, both forms load. A tool that moves weights out of bodies breaks such models.
#
# Versions: onnxruntime 1.32.0, onnx 1.23.2, numpy 2.4.6; CPU.
# Output seen:
#     int8 in the body: loads
#     int8 outside: Missing required weight
#     int8 outside, basic optimizations: loads
#     float32 outside: loads
source "$(dirname "$0")/environment.bash" \
    numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0
venv/bin/python - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

WIDTH = 32
Level = onnxruntime.GraphOptimizationLevel


def scan(weights, nodes, *, outside):
    """A Scan over rows that multiplies its state by a matrix."""
    value = helper.make_tensor_value_info
    nodes = [
        *nodes,
        helper.make_node("MatMul", ["h", "w"], ["p"]),
        helper.make_node("Sub", ["p", "row"], ["next"]),
    ]
    held = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    state, row = (value(name, TensorProto.FLOAT, [1, WIDTH]) for name in ("h", "row"))
    after = value("next", TensorProto.FLOAT, [1, WIDTH])
    body = helper.make_graph(nodes, "body", [state, row], [after], [] if outside else held)
    graph = helper.make_graph(
        [helper.make_node("Scan", ["start", "x"], ["y"], body=body, num_scan_inputs=1)],
        "net",
        [value("start", TensorProto.FLOAT, [1, WIDTH]), value("x", TensorProto.FLOAT, [3, 1, WIDTH])],
        [value("y", TensorProto.FLOAT, [1, WIDTH])],
        held if outside else [],
    )
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def outcome(model, level=Level.ORT_ENABLE_ALL):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 4
    feed = {"start": np.ones((1, WIDTH), np.float32), "x": np.ones((3, 1, WIDTH), np.float32)}
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's exceptions share no base class
        assert "Missing required weight" in str(error), error
        return "Missing required weight"
    session.run(None, feed)
    return "loads"


integers = {
    "q": np.arange(WIDTH * WIDTH).reshape(WIDTH, WIDTH).astype(np.int8),
    "scale": np.full(WIDTH, 0.01, np.float32),
    "zero": np.zeros(WIDTH, np.int8),
}
stored = [helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["w"], axis=1)]
real = {"w": np.ones((WIDTH, WIDTH), np.float32)}
quantised = [scan(integers, stored, outside=outside) for outside in (False, True)]
seen = {
    "int8 in the body": outcome(quantised[0]),
    "int8 outside": outcome(quantised[1]),
    "int8 outside, basic optimizations": outcome(quantised[1], Level.ORT_ENABLE_BASIC),
    "float32 outside": outcome(scan(real, [], outside=True)),
}
for case, result in seen.items():
    print(f"{case}: {result}")
assert list(seen.values()) == ["loads", "Missing required weight", "loads", "loads"], "changed"
PYTHON
