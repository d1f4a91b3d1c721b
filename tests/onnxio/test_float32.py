"""The float32 copy: nothing of the other types is left, and it computes the same."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx.helper as oh
import precision
import pytest
from net import Net
from onnx import TensorProto, numpy_helper
from small_models import chain, run, weights_of

from onnx_reap.onnxio.float32 import in_float32, other_types
from onnx_reap.onnxio.light_model import LightModel
from onnx_reap.onnxio.load import load

HALF = TensorProto.FLOAT16


def converted(model: onnx.ModelProto, types=None) -> onnx.ModelProto:
    return in_float32(LightModel(model), other_types(model) if types is None else types).whole()


def test_a_model_in_float32_is_its_own_copy():
    model = chain()
    assert other_types(model) == frozenset()
    assert converted(model) is model


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_large_weights_lie_beside_the_proto(dtype):
    """So the copy of a model of 2 GB in bfloat16, with weights of 4 GB, isn't too large."""
    light = load(precision.converted(chain(24), dtype))
    copy = in_float32(light, {oh.np_dtype_to_tensor_dtype(np.dtype(dtype))})
    assert copy.proto.ByteSize() < light.size / 4
    assert {array.dtype for array in copy.external().values()} == {np.dtype(np.float32)}
    np.testing.assert_allclose(copy.constants["c0"], weights_of(chain(24))["c0"], rtol=1e-2)


def test_a_few_numbers_in_float64_are_left_alone():
    n = Net({"x": ("N", 4)})
    wide = n.node("Cast", "x", to=TensorProto.DOUBLE)
    n.initializer("two", np.float64([2.0]))
    y = n.node("Cast", n.node("Mul", wide, "two"), to=TensorProto.FLOAT)
    model = n.model(n.gemm(y, 4, 3))
    assert other_types(model) == frozenset()


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_all_places_are_converted(dtype):
    kind = oh.np_dtype_to_tensor_dtype(np.dtype(dtype))
    n = Net({"x": (2, 4)}, dtype=dtype)
    ones = n.node("ConstantOfShape", n.node("Shape", "x"), value=_tensor(np.ones(1, dtype)))
    cast = n.node("Cast", n.node("Cast", "x", to=TensorProto.FLOAT), to=kind)
    body = oh.make_graph(
        [
            oh.make_node("Constant", [], ["c"], value=_tensor(np.full((2, 4), 3, dtype))),
            oh.make_node("Add", ["x", "c"], ["b"]),
        ],
        "body",
        [],
        [oh.make_tensor_value_info("b", kind, [2, 4])],
    )
    yes = n.constant(np.array(True))
    chosen = n.node("If", yes, then_branch=body, else_branch=body)
    eye = n.node("EyeLike", "x", dtype=kind)
    h = n.node("Sum", ones, cast, chosen, eye)
    model = n.model(n.node("MatMul", h, n.random(4, 3)))
    assert other_types(model) == {kind}
    copy = converted(model)
    assert other_types(copy) == frozenset()
    onnx.checker.check_model(copy, full_check=True)
    assert copy.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    x = np.random.default_rng(0).standard_normal((2, 4)).astype(dtype)
    got, want = run(copy, {"x": x.astype(np.float32)})[0], _by_hand(x, model)
    np.testing.assert_allclose(got, want, rtol=1e-3)
    assert numpy_helper.to_array(model.graph.initializer[-1]).dtype == dtype  # not modified


def _tensor(values: np.ndarray) -> onnx.TensorProto:
    return numpy_helper.from_array(values)


def _by_hand(x: np.ndarray, model: onnx.ModelProto) -> np.ndarray:
    wide, weight = x.astype(float), numpy_helper.to_array(model.graph.initializer[-1])
    return (1 + wide + (wide + 3) + np.eye(2, 4)) @ weight.astype(float)


def test_numbers_too_large_for_float32_stay_finite():
    n = Net({"x": ("N", 4)}, dtype=np.float64)
    values = [-np.inf, np.inf, np.finfo(np.float64).min, 1e300]
    model = n.model(n.node("Add", n.gemm("x", 4, 4), n.constant(np.array(values), "mask")))
    copy = converted(model)
    mask = next(numpy_helper.to_array(t) for t in copy.graph.initializer if t.name == "mask")
    limit = np.finfo(np.float32).max
    assert mask.tolist() == [-np.inf, np.inf, -limit, limit]


def test_sequences_and_functions_are_converted():
    half = oh.make_tensor_type_proto(HALF, [2, 4])
    value = oh.make_value_info("s", oh.make_sequence_type_proto(half))
    cast = oh.make_node("Cast", ["a"], ["b"], to=HALF)
    function = oh.make_function("own", "ToHalf", ["a"], ["b"], [cast], [oh.make_opsetid("", 17)])
    to_half = oh.make_node("ToHalf", ["x"], ["y"], domain="own")
    listed = oh.make_node("SequenceConstruct", ["y"], ["s"])
    x = oh.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])
    graph = oh.make_graph([to_half, listed], "net", [x], [value])
    opsets = [oh.make_opsetid("", 17), oh.make_opsetid("own", 1)]
    model = oh.make_model(graph, opset_imports=opsets, functions=[function], ir_version=8)
    copy = converted(model)
    assert other_types(model) == {HALF}
    assert other_types(copy) == frozenset()
    assert run(copy, {"x": np.ones((2, 4), np.float32)})[0][0].dtype == np.float32


def _with_function(inner: list[onnx.NodeProto], dtype, **attributes) -> onnx.ModelProto:
    """A Gemm and a function of its own domain, called `Cast`."""
    n = Net({"x": ("N", 4)}, dtype=dtype)
    model = n.model(n.node("Relu", n.gemm("x", 4, 4)))
    last, opsets = model.graph.node[-1], [oh.make_opsetid("", 17), oh.make_opsetid("own", 1)]
    last.op_type, last.domain = "Cast", "own"
    last.attribute.extend(oh.make_attribute(name, value) for name, value in attributes.items())
    body = oh.make_function("own", "Cast", ["a"], ["b"], inner, opsets, list(attributes))
    model.functions.append(body)
    model.opset_import.append(opsets[1])
    return model


def test_attributes_of_other_domains_name_no_types():
    inner = [oh.make_node("Relu", ["a"], ["b"])]
    assert other_types(_with_function(inner, np.float32, to=HALF)) == frozenset()
    model = _with_function(inner, np.float16, to=HALF)
    assert converted(model, {HALF}).graph.node[-1].attribute[0].i == HALF


def test_types_that_functions_are_told_are_converted():
    cast = oh.make_node("Cast", ["a"], ["b"])
    cast.attribute.add(name="to", type=onnx.AttributeProto.INT, ref_attr_name="kind")
    model = _with_function([cast], np.float16, kind=HALF)
    copy = converted(model, {HALF})
    assert copy.graph.node[-1].attribute[0].i == TensorProto.FLOAT
    x = np.ones((2, 4), np.float32)
    assert run(copy, {"x": x})[0].dtype == np.float32
