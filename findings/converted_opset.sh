#!/usr/bin/env bash
# onnx.version_converter changes what some models compute, and says nothing.
#
# One would guess: converting to a newer operator set keeps the function, or raises where there is no
# rule, as it does for Softmax, whose axis means something else from 13 on and which is flattened.
# What happens: Resize and Upsample of older sets sample at multiples of 1 / scale and take the
# floor; converted to 11 they are left with the new defaults, half pixels and rounding. Linear ones
# always differ, nearest ones with some scales, not with 2. Hardmax changed with Softmax, and isn't
# flattened.
# What follows: compare a converted model with the given one on data; U-Nets and detectors with
# bilinear upsampling, exported to operator set 9 or 10, come out as other functions.
#
# Versions: onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6; Python 3.11.
# Output seen:
#     Softmax 12 -> 13: same
#     Resize 10 -> 11, nearest, 2: same
#     Resize 10 -> 11, nearest, 2.6: differs
#     Resize 10 -> 11, linear, 2: differs
#     Upsample 9 -> 11, linear, 2: differs
#     Hardmax 12 -> 13: differs
source "$(dirname "$0")/environment.bash" numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0
venv/bin/python - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper, version_converter

rng = np.random.default_rng(0)
x = rng.standard_normal((1, 4, 5, 5)).astype(np.float32)


def model(op, opset, size, constants, **attributes):
    names = [f"c{i}" for i in range(len(constants))]
    node = helper.make_node(op, ["x", *names], ["y"], **attributes)
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, size, size])],
        [numpy_helper.from_array(np.array(c, np.float32), n) for c, n in zip(constants, names)],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(made)
    return made


def run(proto):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(proto.SerializeToString(), options).run(None, {"x": x})[0]


def outcome(proto, version):
    before, after = run(proto), run(version_converter.convert_version(proto, version))
    return "same" if np.allclose(before, after, atol=1e-5) else "differs"


twice, more = [1, 1, 2, 2], [1, 1, 2.6, 2.6]
cases = [
    ("Softmax 12 -> 13", model("Softmax", 12, 5, [], axis=1), 13, "same"),
    ("Resize 10 -> 11, nearest, 2", model("Resize", 10, 10, [twice], mode="nearest"), 11, "same"),
    ("Resize 10 -> 11, nearest, 2.6", model("Resize", 10, 13, [more], mode="nearest"), 11, "differs"),
    ("Resize 10 -> 11, linear, 2", model("Resize", 10, 10, [twice], mode="linear"), 11, "differs"),
    ("Upsample 9 -> 11, linear, 2", model("Upsample", 9, 10, [twice], mode="linear"), 11, "differs"),
    ("Hardmax 12 -> 13", model("Hardmax", 12, 5, [], axis=1), 13, "differs"),
]
for name, proto, version, expected in cases:
    found = outcome(proto, version)
    print(f"{name}: {found}")
    assert found == expected, f"{name}: {expected} before"
PYTHON
