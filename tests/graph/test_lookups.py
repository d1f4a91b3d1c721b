"""What a model looks its inputs up in."""

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from net import Net

from onnx_reap.graph.inputs import model_inputs
from onnx_reap.graph.lookups import with_lookups
from onnx_reap.onnxio.light_model import LightModel


def lookup(net: Net, output: str, **shapes):
    model = net.model(output)
    inputs = with_lookups(LightModel(model), model_inputs(model, shapes))
    return {spec.name: spec.lookup for spec in inputs}


def ids(net: Net) -> str:
    """Make integers of the input, which is of the builder's type."""
    return net.node("Cast", "ids", to=onnx.TensorProto.INT64)


def test_rows_of_a_table():
    n = Net({"ids": ("N", 5), "mask": ("N", 5)})
    embedded = n.node("Gather", n.random(60, 8), ids(n))
    found = lookup(n, n.node("Add", embedded, n.node("Unsqueeze", "mask", np.array([2]))))
    assert found == {"ids": (0, 60), "mask": None}


def test_integers():
    n = Net({"x": ("N", 5)})
    model = n.model(n.node("Gather", n.random(60, 8), n.node("Cast", "x", to=7)))
    node = model.graph.node[0]
    node.attribute[0].i = onnx.TensorProto.INT32
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    (found,) = with_lookups(LightModel(model), model_inputs(model))
    assert found.lookup == (0, 60)


@pytest.mark.parametrize(
    ("op", "offset", "expected"), [("Add", 2, (0, 58)), ("Sub", 1, (1, 61)), ("Add", -4, (4, 64))]
)
def test_constant_offsets(op, offset, expected):
    n = Net({"ids": ("N", 5)})
    moved = n.node(op, n.node("Cast", "ids", to=6), np.array(offset, np.int32))
    assert lookup(n, n.node("Gather", n.random(60, 8), moved)) == {"ids": expected}


@pytest.mark.parametrize(("others", "expected"), [([], (0, 60)), ([3, 2], (0, 55))])
def test_sums_of_any_number(others, expected):
    n = Net({"ids": ("N", 5)})
    terms = [n.constant(np.array(float(k))) for k in others]
    real = n.node("Cast", "ids", to=onnx.TensorProto.FLOAT)
    summed = n.node("Cast", n.node("Sum", real, *terms), to=onnx.TensorProto.INT64)
    assert lookup(n, n.node("Gather", n.random(60, 8), summed)) == {"ids": expected}


def test_the_smallest_of_several_tables():
    n = Net({"ids": ("N", 5)})
    tables = [n.node("Gather", n.random(size, 8), ids(n)) for size in (60, 20, 30)]
    assert lookup(n, n.node("Sum", *tables)) == {"ids": (0, 20)}


def test_places_in_an_activation():
    n = Net({"x": ("N", 7, 4), "ids": ("N", 3, 4)})
    picked = n.node("GatherElements", n.node("Relu", "x"), ids(n), axis=1)
    assert lookup(n, picked) == {"x": None, "ids": (0, 7)}


def test_places_among_rows_that_the_user_named():
    n = Net({"x": ("nodes", 4), "ids": (2, "edges")})
    source = n.node("Gather", ids(n), np.array(0), axis=0)
    picked = n.node("Gather", n.node("Relu", "x"), source, axis=0)
    assert lookup(n, picked, x=(12, 4), ids=(2, 9))["ids"] == (0, 12)
    n = Net({"x": ("nodes", 4), "ids": (2, "edges")})
    picked = n.node("Gather", n.node("Relu", "x"), n.node("Gather", ids(n), np.array(0)), axis=0)
    assert lookup(n, picked)["ids"] is None


def test_depth_of_one_hot():
    n = Net({"ids": ("N", 5)})
    hot = n.node("OneHot", ids(n), np.array(11), np.array([0, 1], np.float32))
    assert lookup(n, hot) == {"ids": (0, 11)}


def test_texts_of_a_label_encoder():
    node = oh.make_node(
        "LabelEncoder", ["s"], ["y"], domain="ai.onnx.ml", keys_strings=["a", "b"],
        values_int64s=[1, 2],
    )  # fmt: skip
    values = [
        oh.make_tensor_value_info(name, kind, ["N", 3])
        for name, kind in (("s", onnx.TensorProto.STRING), ("y", onnx.TensorProto.INT64))
    ]
    model = oh.make_model(oh.make_graph([node], "g", values[:1], values[1:]))
    (found,) = with_lookups(LightModel(model), model_inputs(model))
    assert found.lookup == ("a", "b")
