#!/usr/bin/env bash
# onnxruntime runs all nodes of a graph, even those whose results nobody asks for or reads, and its
# option against that does nothing.
#
# One would guess: `run(["cheap"], feed)` computes what "cheap" needs; if not, then surely with
# `RunOptions.only_execute_path_to_fetches`, which is there for it.
# And surely nodes that lead to no output of the model are gone once it is optimised.
# What happens: every node of the graph runs in all cases. The option can be set, keeps its value
# and is read in builds for training alone. Whoever wants one output now and all of them later, such as
# an error now and its gradient later, needs a model for each, without the other nodes.
#
# Versions: onnxruntime 1.32.0, onnx 1.23.2, numpy 2.4.6; CPU.
# Output seen:
#     both outputs: MatMul, MatMul, MatMul, Relu
#     cheap alone: MatMul, MatMul, MatMul, Relu
#     cheap alone, only its path: MatMul, MatMul, MatMul, Relu
#     a model whose only output is cheap: MatMul, MatMul, MatMul, Relu
source "$(dirname "$0")/environment.bash" \
    numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0
venv/bin/python - <<'PYTHON'
import json

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper


def graph(outputs):
    """One tensor behind a Relu, another behind three products."""
    names = ["x", "a", "b", "dear"]
    nodes = [helper.make_node("Relu", ["x"], ["cheap"])]
    nodes += [
        helper.make_node("MatMul", [before, "x"], [after])
        for before, after in zip(names, names[1:])
    ]
    value = helper.make_tensor_value_info
    ends = [value(name, TensorProto.FLOAT, [4, 4]) for name in outputs]
    net = helper.make_graph(nodes, "net", [value("x", TensorProto.FLOAT, [4, 4])], ends)
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(net, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def executed(outputs, only_path=False, declared=("cheap", "dear")):
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    session = onnxruntime.InferenceSession(
        graph(declared), options, providers=["CPUExecutionProvider"]
    )
    how = onnxruntime.RunOptions()
    how.only_execute_path_to_fetches = only_path
    assert how.only_execute_path_to_fetches == only_path
    session.run(outputs, {"x": np.eye(4, dtype=np.float32)}, how)
    with open(session.end_profiling()) as file:
        events = json.load(file)
    ran = [e["args"]["op_name"] for e in events if e["name"].endswith("_kernel_time")]
    return ", ".join(sorted(ran))


seen = {
    "both outputs": executed(None),
    "cheap alone": executed(["cheap"]),
    "cheap alone, only its path": executed(["cheap"], only_path=True),
    "a model whose only output is cheap": executed(["cheap"], declared=["cheap"]),
}
for what, ran in seen.items():
    print(f"{what}: {ran}")
assert set(seen.values()) == {"MatMul, MatMul, MatMul, Relu"}, "this has changed"
PYTHON
