"""Paths from nodes to the outputs."""

import numpy as np
import onnx.helper as oh
import pytest
from net import Net
from onnx import TensorProto

from onnx_reap.graph.branches import paths_out
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.wiring import CAPTURED, Wiring
from onnx_reap.solve.gates import is_open

BOOL = TensorProto.BOOL
CLOSED = frozenset({0})


def sums(rng: np.random.Generator, nodes: int) -> Model:
    """Sums of earlier tensors at random; some have no reader, and two are outputs."""
    net = Net({"x": ("N", 2)})
    tensors = ["x"]
    for _ in range(nodes):
        a, b = rng.choice(tensors[-4:], 2)
        tensors.append(net("Add", str(a), str(b)))
    return Model(net.model(tensors[-1], str(rng.choice(tensors[1:-1]))))


@pytest.mark.parametrize("seed", range(50))
def test_they_are_those_that_all_paths_tell(seed):
    rng = np.random.default_rng(seed)
    model = sums(rng, 12)
    wiring = Wiring(model)
    every = [(key, number) for key in wiring.keys for number in (0, 1)]
    closed = {every[i] for i in rng.choice(len(every), rng.integers(0, 12), replace=False)}
    paths = paths_out(model, dict.fromkeys(closed, 0))
    reached = [wiring.reaches_outputs([place], closed) for place in range(len(wiring.keys))]
    assert reached == [is_open(paths[key], CLOSED) for key in wiring.keys]
    few = [int(place) for place in rng.choice(12, 3)]
    assert wiring.reaches_outputs(few, closed) == any(reached[place] for place in few)


def test_every_reader_counts():
    """One that reads a tensor twice, of one of several outputs, and a body that captures it."""
    net = Net({"x": ("N", 4), "yes": ()}, dtype=np.float32)
    twice = net("Add", "x", "x", name="sum")
    left, _ = net("Split", twice, outputs=["left", "right"], axis=1, name="split")
    made = [oh.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 2])]
    then, other = (
        oh.make_graph([oh.make_node(op, ["right"], ["z"])], op, [], made) for op in ("Neg", "Abs")
    )
    either = net("If", "yes", then_branch=then, else_branch=other, name="if")
    model = Model(net.model(net("Relu", left, name="relu"), either, types={"yes": BOOL}))
    wiring = Wiring(model)
    where = wiring.place
    assert wiring.readers["x"] == [(where["sum"], 0), (where["sum"], 1)]
    assert wiring.readers["right"] == [(where["if"], CAPTURED)]
    both = {("relu", 0), ("if", CAPTURED)}
    for name in ("sum", "split"):
        assert wiring.reaches_outputs([where[name]], {("relu", 0)})
        assert not wiring.reaches_outputs([where[name]], both)
        assert wiring.reaches_outputs([where[name]], {("sum", 0), ("sum", 1)})


def test_some_nodes_are_cut_off():
    seen = set()
    for seed in range(50):
        rng = np.random.default_rng(seed)
        wiring = Wiring(sums(rng, 12))
        closed = {(key, number) for key in wiring.keys[1::2] for number in (0, 1)}
        seen |= {wiring.reaches_outputs([place], closed) for place in range(12)}
    assert seen == {True, False}
