#!/usr/bin/env bash
# onnxruntime refuses a model whose weights are handed over in memory if no node reads one of them.
#
# One would guess: a weight that nothing reads does no harm, however its values come. In the model's
# file, or in a file beside it, it does none: onnxruntime drops it. A value for a name that
# add_initializer is given and that the model lacks does none, either.
# What happens: add_external_initializers is applied after unread weights were dropped, doesn't find
# the name any more, and the session isn't made. An unread weight is valid, and frequent: exporters
# leave the weights of heads and auxiliary outputs that were cut off.
# What follows: hand over the values of those weights only that some node reads, in bodies too.
#
# Versions: onnxruntime 1.32.0, onnx 1.23.2, numpy 2.4.6; CPU.
# Output seen:
#     in the model: loads
#     in a file beside it: loads
#     add_initializer: loads
#     add_external_initializers: Failed to find existing initializer with name unread
#     add_external_initializers, without the unread one: loads
source "$(dirname "$0")/environment.bash" \
    numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0
venv/bin/python - <<'PYTHON'
import re

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper, parser

VALUES = {name: np.eye(64, dtype=np.float32) for name in ("read", "unread")}
SAID = "Failed to find existing initializer with name unread"


def model(beside):
    """Return a model of one product whose weights, one of them unread, lie beside it or inside."""
    made = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]>'
        "product (float[1, 64] x) => (float[1, 64] y) { y = MatMul(x, read) }"
    )
    for name, values in VALUES.items():
        tensor = numpy_helper.from_array(values, name)
        if beside:
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="weights.bin")
            tensor.external_data.add(key="offset", value=str(values.nbytes * (name == "unread")))
            tensor.external_data.add(key="length", value=str(values.nbytes))
        made.graph.initializer.append(tensor)
    return made


def outcome(source, give=lambda options: None):
    """Make a session of a model or file; return what comes of it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    give(options)
    try:
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        return re.search(r"Failed to find existing initializer with name \w+", str(error))[0]
    x = np.arange(64, dtype=np.float32)[None]
    assert (session.run(None, {"x": x})[0] == x).all()
    return "loads"


onnx.checker.check_model(model(beside=False))
given = {n: onnxruntime.OrtValue.ortvalue_from_numpy(v) for n, v in VALUES.items()}
inside = model(beside=False).SerializeToString()
with open("weights.bin", "wb") as file:
    file.write(b"".join(values.tobytes() for values in VALUES.values()))
onnx.save(model(beside=True), "model.onnx")


def shared(options):
    for name, value in given.items():
        options.add_initializer(name, value)


alone = model(beside=True)
del alone.graph.initializer[1]
found = {
    "in the model": outcome(inside),
    "in a file beside it": outcome("model.onnx"),
    "add_initializer": outcome(inside, shared),
    "add_external_initializers": outcome(
        model(beside=True).SerializeToString(),
        lambda o: o.add_external_initializers(list(given), list(given.values())),
    ),
    "add_external_initializers, without the unread one": outcome(
        alone.SerializeToString(),
        lambda o: o.add_external_initializers(["read"], [given["read"]]),
    ),
}
for way, what in found.items():
    print(f"{way}: {what}")
assert found.pop("add_external_initializers") == SAID, "an unread weight is taken, too"
assert set(found.values()) == {"loads"}, "other ways refuse unread weights"
PYTHON
