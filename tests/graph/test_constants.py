"""Where weights sit, who shares them, and what is computed from them."""

import numpy as np
import onnx
import pytest
from net import Net, sandwich
from oracle import assert_slice_is_mask, study

ints = np.array


def _check(middle, groups, frozen=None, **options):
    return assert_slice_is_mask(sandwich(middle, **options), groups=groups, frozen=frozen)


def _constant_node(net, name, array):
    value = onnx.numpy_helper.from_array(array)
    net.nodes.append(onnx.helper.make_node("Constant", [], [name], value=value))
    return name


def _behind(op):
    """Keep arrays in initializers and reach them through a node."""

    def store(net, name, array):
        if array.dtype.kind != "f" or array.ndim < 2:
            return net.initializer(name, array)
        if op == "Transpose":
            order = list(range(array.ndim))[::-1]
            raw = net.initializer(f"{name}_raw", np.ascontiguousarray(array.T))
            attributes = {"perm": order}
        elif op == "Cast":
            raw, attributes = net.initializer(f"{name}_raw", array.astype(np.float64)), {"to": 1}
        else:
            raw, attributes = net.initializer(f"{name}_raw", array), {}
        net.nodes.append(onnx.helper.make_node(op, [raw], [name], **attributes))
        return name

    return store


STORES = {
    "Constant node": _constant_node,
    "Identity": _behind("Identity"),
    "Transpose": _behind("Transpose"),
    "Cast": _behind("Cast"),
}


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("opset", [9, 13])
def test_weights_elsewhere(store, opset):
    def middle(net, x):
        x = net("Relu", net.conv(x, 8, 6, name="b"))
        return net("Mul", x, net.weight(6, 1, 1))

    _check(middle, {"a": 8, "b": 6}, out=6, store=STORES[store], opset=opset)


def test_standardised_weights_are_folded():
    def middle(net, x):
        raw = net.constant(net.weight(6, 8, 3, 3), "raw")
        centred = net("Sub", raw, net("ReduceMean", raw, axes=[1, 2, 3]))
        return net("Conv", x, centred, name="b", pads=[1, 1, 1, 1])

    _check(middle, {"a": 8, "b": 6}, out=6)


@pytest.mark.parametrize("dtype", [onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16])
def test_biases_cast_to_the_type_of_activations_are_folded(dtype):
    """As torch.export writes a convolution without bias: a zero, cast like x, expanded."""
    numpy_dtype = onnx.helper.tensor_dtype_to_np_dtype(dtype)
    net, y = Net({"x": ("N", 3, 6, 6)}, dtype=numpy_dtype, opset=18), "x"
    for name, inputs, outputs in (("a", 3, 8), ("b", 8, 6), ("z", 6, 5)):
        weight = net.constant(net.weight(outputs, inputs, 1, 1))
        size = net("Shape", weight, start=0, end=1)
        bias = net(
            "Expand",
            net("CastLike", net.initializer(f"{name}_half", np.array(0.5, np.float32)), y),
            size,
        )
        y = net("Relu", net("Conv", y, weight, bias, name=name))
    tolerance = 2e-5 if dtype == onnx.TensorProto.FLOAT else 1e-2
    assert_slice_is_mask(net.model(y), groups={"a": 8, "b": 6}, tolerance=tolerance)


def test_dequantised_weights_are_constants():
    def middle(net, x):
        weight = net("DequantizeLinear", np.ones((6, 8, 1, 1), np.int8), np.float32(0.1))
        return net("Conv", x, weight, name="b")

    net = Net({"x": ("N", 4, 6, 6)})
    a = net("Relu", net.conv("x", 4, 8, name="a"))
    studied = study(net.model(middle(net, a)))
    assert [group.width for group in studied.groups] == [8]


def test_weights_shared_by_convs_of_one_group():
    """A head on two levels: inputs and outputs agree, so both are cut."""

    def middle(net, x):
        weight, bias = (
            net.constant(net.weight(8, 8, 1, 1), "w"),
            net.constant(net.weight(8), "b"),
        )
        x = net("Conv", net("Relu", x), weight, bias, name="first")
        return net("Conv", net("Tanh", x), weight, bias, name="second")

    studied = _check(middle, {"a": 8})
    assert studied.groups[0].producers == ("a", "first", "second")


def test_weights_shared_by_a_head_on_two_branches():
    def middle(net, x):
        weight = net.constant(net.weight(6, 8, 1, 1), "w")
        low, high = x, net.conv(x, 8, 8, name="b")
        return net("Add", *(net("Conv", t, weight, name=n) for t, n in ((low, "c"), (high, "d"))))

    studied = _check(middle, {"a": 8, "c": 6}, out=6)
    assert studied.groups[0].producers == ("a", "b")


def test_weights_shared_with_frozen_channels():
    """The second use reads the input, whose channels can't go, so neither loses inputs."""
    net = Net({"x": ("N", 8, 6, 6)})
    weight = net.constant(net.weight(6, 8, 1, 1), "w")
    first = net("Conv", "x", weight, name="first")
    second = net("Conv", net.conv("x", 8, 8, name="a"), weight, name="second")
    frozen = {"a": "weights w are shared with frozen channels"}
    assert_slice_is_mask(
        net.model(net.conv(net("Add", first, second), 6, 5, name="z")),
        groups={"first": 6},
        frozen=frozen,
    )


def test_shared_grouped_weights():
    def middle(net, x):
        weight = net.constant(net.weight(8, 4, 1, 1), "w")
        x = net("Relu", net("Conv", x, weight, name="b", group=2))
        return net("Conv", x, weight, name="c", group=2)

    studied = _check(middle, {"a": 8})
    assert studied.groups[0].step == 2


def test_weights_shared_by_a_grouped_and_a_plain_conv_freeze():
    def middle(net, x):
        weight = net.constant(net.weight(8, 4, 1, 1), "w")
        y = net("Conv", x, weight, name="b", group=2)
        return net("Add", y, net("Conv", net.conv(x, 8, 4, name="c"), weight, name="d"))

    _check(middle, {"b": 8}, {"a": "shared", "c": "shared"})


def test_expanded_mask_stays_and_ties_nothing():
    def middle(net, x):
        mask = net("Expand", np.float32(0.5), ints([1, 1, 70, 70]), name="mask")
        return net("Mul", x, mask)

    studied = _check(middle, {"a": 8}, size=(70, 70))
    assert "Expand" in [node.op for node in studied.model.nodes]


@pytest.mark.parametrize("store", [Net.initializer, _constant_node])
def test_bias_shared_by_layers_of_different_groups(store):
    """One tensor of biases (zeros, often) doesn't tie the channels of two layers."""

    def middle(net, x):
        bias = store(net, "shared", net.weight(6))
        x = net("Relu", net("Conv", x, net.weight(6, 8, 1, 1), bias, name="b"))
        return net("Conv", x, net.weight(6, 6, 1, 1), bias, name="c")

    _check(middle, {"a": 8, "b": 6, "c": 6}, out=6)


def test_statistics_shared_by_normalisations():
    """Ones for scale and variance, zeros for shift and mean, the same in two layers."""

    def middle(net, x):
        ones, zeros = (net.constant(np.full(8, v, np.float32), str(v)) for v in (1, 0))
        x = net("BatchNormalization", x, ones, zeros, zeros, ones)
        x = net("Relu", net.conv(x, 8, 8, name="b"))
        return net("BatchNormalization", x, net.weight(8), zeros, zeros, ones)

    _check(middle, {"a": 8, "b": 8})


def test_weights_used_otherwise_freeze():
    def middle(net, x):
        weight = net.constant(net.weight(6, 8, 1, 1), "w")
        net.output(net("Mul", net("ReduceMax", x, axes=[0, 1, 2, 3], keepdims=1), weight))
        return net("Conv", net("Relu", x), weight, name="b")

    _check(middle, {}, {"a": "", "b": ""}, out=6)


def test_initializer_as_graph_output_freezes():
    net = Net({"x": ("N", 3, 6, 6)})
    x = net.conv("x", 3, 8, name="a")
    weight = net.constant(net.weight(5, 8, 1, 1), "w")
    proto = net.model(net("Conv", x, weight, name="z"))
    dims = (5, 8, 1, 1)
    value = onnx.helper.make_tensor_value_info(weight, onnx.TensorProto.FLOAT, dims)
    proto.graph.output.append(value)
    assert_slice_is_mask(proto, groups={}, frozen={"a": "weights used elsewhere too"})


def test_one_constant_on_two_axes():
    """A square matrix whose rows and columns follow the same channels."""

    def middle(net, x):
        x = net("Flatten", net("GlobalAveragePool", x))
        weight = net.constant(net.weight(8, 8), "w")
        y = net("MatMul", net("Relu", net("MatMul", x, weight, name="b")), weight, name="c")
        return y

    _check(middle, {"a": 8}, head="gemm")


@pytest.mark.parametrize("ir", [3, 8])
def test_initializers_listed_as_inputs(ir):
    proto = sandwich(lambda net, x: net("Pad", x, pads=[0, 1, 0, 0, 0, 1, 0, 0]), out=10, opset=9)
    proto.ir_version = ir
    proto.graph.input.extend(
        onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims)
        for t in proto.graph.initializer
    )
    studied = assert_slice_is_mask(proto, groups={"a": 8, "pad1": 2})
    cut = studied.cut([studied.groups[0].units[0]])
    assert {v.name for v in cut.graph.input} == {v.name for v in proto.graph.input}


def test_old_models_get_no_new_inputs():
    """Up to IR 3 initializers are inputs; what the cut adds must not be."""

    def middle(net, x):
        return net("LRN", x, size=3, name="n")

    proto = sandwich(middle, opset=9)
    proto.ir_version = 3
    proto.graph.input.extend(
        onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims)
        for t in proto.graph.initializer
    )
    assert_slice_is_mask(proto, groups={"n": 8})


def test_sparse_weights():
    """They are written as dense ones, which is what onnxruntime makes of them."""
    proto = sandwich(lambda net, x: net("Mul", x, net.weight(8, 1, 1)))
    tensor = next(t for t in proto.graph.initializer if t.name == "c3")
    dense = onnx.numpy_helper.to_array(tensor).reshape(-1)
    values = onnx.numpy_helper.from_array(dense, "c3")
    indices = onnx.numpy_helper.from_array(np.arange(dense.size), "c3_indices")
    proto.graph.initializer.remove(tensor)
    proto.graph.sparse_initializer.append(
        onnx.helper.make_sparse_tensor(values, indices, [5, 8, 1, 1])
    )
    assert_slice_is_mask(proto, groups={"a": 8}, check=False)
