"""Nodes of a branch stand in front of its If, and go back into it."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from conditional import branch, in_branches, with_switch
from net import Net
from small_models import run

from onnx_reap.errors import ReapError
from onnx_reap.onnxio.bodies import Edits
from onnx_reap.onnxio.followed import with_bodies_in_front, with_bodies_inside
from onnx_reap.onnxio.light_model import LightModel


def model() -> onnx.ModelProto:
    n = Net({"x": ("N", 4)})
    h = n.node("Relu", "x", name="relu")
    return in_branches(n.model(n.node("Neg", h, name="neg")))


def put_back(*new: onnx.NodeProto, before: str = "", **renamed: str) -> onnx.ModelProto:
    """Move the branch in front, add nodes before another one, and put all of it back.

    Parameters
    ----------
    renamed : str
        By the name of a node, what it reads then.
    """
    proto = model()
    unfolded = with_bodies_in_front(
        LightModel.of(proto), {proto.graph.output[0].name: True}, lambda op: False
    )
    known = {name for node in unfolded.light.graph.node for name in node.output}
    nodes = []
    for node in unfolded.light.graph.node:
        nodes += [*new] if node.name == before else []
        if node.name.replace("/", "_") in renamed:
            node.input[0] = renamed[node.name.replace("/", "_")]
        nodes.append(node)
    edits = Edits(known, set(), lambda name: None, {})
    del proto.graph.node[:]
    proto.graph.node.extend(with_bodies_inside(nodes, unfolded.followed, edits))
    return proto


def test_what_nobody_changed_comes_back_as_it_was():
    assert put_back() == model()


def test_a_new_node_that_the_branch_alone_reads_goes_into_it():
    new = oh.make_node("Abs", ["x"], ["new"], "new")
    out = put_back(new, before="mine/relu", mine_relu="new")
    assert [node.name for node in branch(out, True).node] == ["new", "mine/relu", "mine/neg"]
    assert "new" not in {node.name for node in out.graph.node}
    x = np.array([[-1, 2, -3, 4]], np.float32)
    np.testing.assert_array_equal(run(out, with_switch({"x": x}))[0], -np.abs(x))


@pytest.mark.parametrize("where", ["choice", "mine/neg"])
def test_a_new_node_that_reads_inside_of_a_branch_from_outside_is_refused(where):
    """It would read what is not there."""
    new = oh.make_node("Abs", ["mine/relu_y"], ["new"], "new")
    with pytest.raises(ReapError, match=r"new reads inside the body of another node.*mine/relu_y"):
        put_back(new, before=where)


def test_a_new_node_behind_what_a_branch_gives_is_refused():
    (end,) = model().graph.output
    new = oh.make_node("Abs", [f"mine/{end.name}"], ["new"], "new")
    with pytest.raises(ReapError, match=r"new reads inside the body of another node"):
        put_back(new, before="choice/result_0", choice_result_0="new")


def test_an_if_that_is_not_there_is_told():
    proto = model()
    with pytest.raises(ReapError, match=r"no such node with a body \| got: nowhere"):
        with_bodies_in_front(LightModel.of(proto), {"nowhere": True}, lambda op: False)
