"""Layers inside the bodies of If, Loop and Scan are told of."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from net import Net
from small_models import images

import onnx_reap
from onnx_reap.graph.bodies import find_in_bodies
from onnx_reap.graph.groups import FrozenChannels
from onnx_reap.graph.ir.model import Model

REASON = "made inside the body of If"


def _value(array) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.asarray(array, np.float32))


def _body(output: str, *nodes: onnx.NodeProto) -> onnx.GraphProto:
    out = oh.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)
    return oh.make_graph(list(nodes), "body", [], [out])


def _branching(before: bool) -> onnx.ModelProto:
    """An If with layers in both bodies, one of them in a body of a body."""
    n = Net({"x": ("N", 3, 8, 8)})
    x = n.block(n.block("x", 3, 8), 8, 3) if before else "x"
    weight = n.random(4, 3, 1, 1, name="outer")
    yes = n.constant(np.array(True))
    nested = _body(
        "e",
        oh.make_node("Constant", [], ["w"], value=_value(np.ones((3, 2, 1, 1)))),
        oh.make_node("ConvTranspose", [x, "w"], ["d"], "up"),
        oh.make_node("Concat", ["d", "d"], ["e"], axis=1),
    )
    deep = oh.make_node("If", [yes], ["g"], "deep", then_branch=nested, else_branch=nested)
    down = oh.make_node("Conv", [x, weight], ["f"], "down")
    product = oh.make_node("MatMul", [x, x], ["unused"], "product")  # no layer
    bodies = {"then_branch": _body("f", down, product), "else_branch": _body("g", deep)}
    y = n.node("If", yes, name="choice", **bodies)
    return n.model(n.node("ReduceMean", y, axes=[2, 3], keepdims=0))


def test_layers_in_bodies_are_found_with_their_channels():
    found = find_in_bodies(Model(_branching(before=False)))
    down, up = (FrozenChannels(n, c, REASON, "choice") for n, c in (("down", 4), ("up", 2)))
    assert sorted(found, key=str) == [down, up, up]


def test_a_model_with_all_its_layers_in_bodies_is_refused_with_the_reason():
    with pytest.raises(onnx_reap.ReapError, match=f"down \\({REASON} at choice\\)"):
        onnx_reap.reap(_branching(before=False), images(8), ratio=0.5, criterion="l1", refit=False)


def test_what_lies_in_front_of_bodies_is_cut_and_the_rest_reported():
    model = _branching(before=True)
    settings = {"ratio": 0.5, "criterion": "l1", "refit": False}
    report = onnx_reap.reap(model, images(8), **settings).report
    assert [group.after < group.before for group in report.groups] == [True]
    assert REASON in {row.reason for row in report.frozen}
    inspection = onnx_reap.inspect(model)
    assert REASON in {row.reason for row in inspection.frozen}
    assert inspection.total.macs == report.before.macs


def test_what_a_body_holds_is_written_there_alone():
    """Sibling bodies may call their own weights the same."""
    model = _branching(before=True)
    (choice,) = (node for node in model.graph.node if node.op_type == "If")
    for attribute in choice.attribute:
        body = attribute.g
        for node in [node for node in body.node if node.op_type == "Conv"]:
            node.input[1] = "own"
        if body.node[0].op_type == "Conv":
            body.initializer.append(_value(np.ones((4, 3, 1, 1))))
            body.initializer[0].name = "own"
    out = Model(model).to_proto()
    assert not {"own", "w"} & {tensor.name for tensor in out.graph.initializer}
    onnx.checker.check_model(out, full_check=True)
