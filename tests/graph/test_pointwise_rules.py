"""Activations and operators that join tensors."""

import numpy as np
import pytest
from net import Net, sandwich
from oracle import assert_slice_is_mask

ints = np.array


def _check(middle, groups=None, frozen=None, felt=True, **options):
    groups = {"a": 8} if groups is None else groups
    return assert_slice_is_mask(
        sandwich(middle, **options), groups=groups, frozen=frozen, felt=felt
    )


ACTIVATIONS = [
    "Abs", "Asinh", "Atan", "Ceil", "Celu", "Clip", "Cos", "Cosh", "Dropout", "Elu", "Erf", "Exp",
    "Floor", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Neg", "Reciprocal",
    "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign",
    "Sqrt", "Tan", "Tanh", "ThresholdedRelu",
]  # fmt: skip


@pytest.mark.parametrize("op", ACTIVATIONS)
def test_activation(op):
    def middle(net, x):
        if op in ("Sqrt", "Log", "Reciprocal"):  # keep away from what is undefined
            x = net("Add", net("Abs", x), np.float32(0.5))
        return net(op, x)

    _check(middle, opset=17)


@pytest.mark.parametrize("op", ["Asin", "Acos", "Atanh", "Acosh"])
def test_activation_of_limited_domain(op):
    def middle(net, x):
        x = net("Mul", net("Sigmoid", x), np.float32(0.9))
        return net(op, net("Add", x, np.float32(1)) if op == "Acosh" else x)

    _check(middle)


@pytest.mark.parametrize(("op", "opset"), [("Gelu", 20), ("Mish", 18)])
def test_newer_activation(op, opset):
    _check(lambda net, x: net(op, x), opset=opset)


@pytest.mark.parametrize("op", ["Not", "IsNaN", "IsInf"])
def test_truth_values(op):
    def middle(net, x):
        truth = net("Greater", x, np.float32(0.1)) if op == "Not" else x
        truth = net(op, truth)
        return (
            net("Mul", net("Cast", truth, to=1), x)
            if op == "Not"
            else net("Where", truth, x, net("Neg", x))
        )

    _check(middle)


@pytest.mark.parametrize("opset", [9, 11, 17])
def test_clip(opset):
    bounds = (np.float32(-0.2), np.float32(0.3))

    def middle(net, x):
        return net("Clip", x, *bounds) if opset > 9 else net("Clip", x, min=-0.2, max=0.3)

    _check(middle, opset=opset)


def test_clip_with_a_computed_bound_freezes_it():
    """The bound is a tensor of no axes, made by a reduction."""

    def middle(net, x):
        bound = net("ReduceMax", net.conv(x, 8, 4, name="b"), keepdims=0)
        return net("Clip", x, "", bound)

    _check(middle, {"a": 8}, {"b": "runs across channels"})


@pytest.mark.parametrize("slope", [(8, 1, 1), (1,), (1, 1, 1)], ids=str)
def test_prelu(slope):
    _check(lambda net, x: net("PRelu", x, net.weight(*slope)))


def test_prelu_of_a_dense_layer():
    def middle(net, x):
        return net("PRelu", net("Flatten", net("GlobalAveragePool", x)), net.weight(8))

    _check(middle, head="gemm")


def test_prelu_with_a_computed_slope_freezes():
    _check(lambda n, x: n("PRelu", x, n.conv(x, 8, 8, name="s")), {}, {"a": "PRelu", "s": "PRelu"})


CONSTANTS = {
    "scalar": (), "one": (1,), "channels": (8, 1, 1), "with batch": (1, 8, 1, 1),
    "full": (1, 8, 6, 6), "without batch": (8, 6, 6), "space": (6, 6), "row": (6,),
    "more axes": (1, 1, 1, 1),
}  # fmt: skip
JOINS = ["Add", "Sub", "Mul", "Div", "Sum", "Min", "Max", "Mean"]


@pytest.mark.parametrize("shape", CONSTANTS)
@pytest.mark.parametrize("op", ["Add", "Div"])
@pytest.mark.parametrize("first", [True, False])
def test_join_with_a_constant(op, shape, first):
    def middle(net, x):
        constant = np.abs(net.weight(*CONSTANTS[shape])) + 0.5
        x = net("Add", net("Abs", x), np.float32(0.5))
        return net(op, constant, x) if first else net(op, x, constant)

    _check(middle)


@pytest.mark.parametrize("op", [*JOINS, "Pow", "Mod"])
def test_join_with_a_vector(op):
    def middle(net, x):
        vector = np.abs(net.weight(8, 1, 1)) + 0.5
        x = net("Add", net("Abs", x), np.float32(0.5))
        return net(op, x, vector, **({"fmod": 1} if op == "Mod" else {}))

    _check(middle)


@pytest.mark.parametrize("op", [*JOINS, "Pow"])
def test_join_of_tensors_unites_their_channels(op):
    def middle(net, x):
        y = net.conv(x, 8, 8, name="b")
        if op in ("Div", "Pow"):
            x, y = (net("Add", net("Sigmoid", t), np.float32(0.5)) for t in (x, y))
        return net(op, x, y)

    studied = _check(middle)
    assert studied.groups[0].producers == ("a", "b")
    assert set(studied.groups[0].consumers) == {"b", "z"}


def test_sum_of_three():
    def middle(net, x):
        return net("Sum", x, net.conv(x, 8, 8, name="b"), net.conv(x, 8, 8, name="c"))

    assert _check(middle).groups[0].producers == ("a", "b", "c")


@pytest.mark.parametrize("kind", ["constant condition", "constants", "tensors"])
def test_where(kind):
    def middle(net, x):
        if kind == "constant condition":
            return net("Where", net.weight(8, 1, 1) > 0, x, net("Neg", x))
        truth = net("Less", x, np.float32(0.1))
        if kind == "constants":
            return net("Where", truth, net.weight(8, 1, 1), x)
        return net("Where", truth, net.conv(x, 8, 8, name="b"), x)

    _check(middle)


@pytest.mark.parametrize("op", ["And", "Or", "Xor"])
def test_logic(op):
    def middle(net, x):
        a, b = net("Greater", x, np.float32(0)), net("Less", x, net.weight(8, 1, 1))
        return net("Mul", x, net("Cast", net(op, a, b), to=1))

    _check(middle)


def test_squeeze_and_excitation():
    def middle(net, x):
        y = net("Relu", net.conv(net("GlobalAveragePool", x), 8, 4, 1, name="s"))
        return net("Mul", x, net("Sigmoid", net.conv(y, 4, 8, 1, name="e")))

    studied = _check(middle, {"a": 8, "s": 4})
    assert studied.groups[0].producers == ("a", "e")
    assert studied.groups[0].consumers == ("s", "z")


def test_spatial_gate():
    """One channel that scales all ties them to nothing and stays."""

    def middle(net, x):
        return net("Mul", x, net("Sigmoid", net.conv(x, 8, 1, name="g")))

    _check(middle, {"a": 8}, {"g": "spreads a single channel"})


def test_gate_of_a_single_number():
    def middle(net, x):
        return net("Mul", x, net.conv(net("GlobalAveragePool", x), 8, 1, 1, name="g"))

    _check(middle, {"a": 8}, {"g": "spreads a single channel"})


def test_gate_of_channels_that_were_divided():
    """Along one of the two axes that hold them the gate has as many entries."""

    def middle(net, x):
        x = net("Reshape", x, np.array([0, 4, 2, 36]))
        gate = net.conv(net("GlobalAveragePool", x), 4, 4, 1, name="g")
        x = net("Mul", x, net("Sigmoid", gate))
        return net("Reshape", x, np.array([0, 8, 6, 6]))

    studied = _check(middle, {"a": 4})
    assert studied.groups[0].producers == ("a", "g")


def test_one_channel_that_grows_by_a_constant_freezes():
    def middle(net, x):
        return net("Add", net.conv(x, 8, 1, name="g"), net.weight(6, 1, 1))

    _check(middle, {"a": 8}, {"g": "spreads a single channel"}, out=6)


def test_outer_product_of_channels_freezes():
    def middle(net, x):
        y = net("GlobalAveragePool", x)
        rows, columns = (
            net("Reshape", net.conv(y, 8, 6, 1, name="r"), ints([0, 6, 1])),
            net("Reshape", net.conv(y, 8, 6, 1, name="c"), ints([0, 1, 6])),
        )
        return net("Unsqueeze", net("Mul", rows, columns), ints([1]))

    frozen = {"r": "spreads a single channel", "c": "spreads a single channel"}
    _check(middle, {"a": 8}, frozen, out=1)


def test_adding_the_input_freezes():
    net = Net({"x": ("N", 8, 6, 6)})
    y = net("Add", net.conv("x", 8, 8, name="a"), "x")
    assert_slice_is_mask(
        net.model(net.conv(y, 8, 5, name="z")), groups={}, frozen={"a": "Add meets frozen channels"}
    )


def test_broadcast_of_lower_rank_activations():
    """(C, 1, 1) against (N, C, H, W), both activations, in a model of fixed batch."""

    def middle(net, x):
        gate = net("Reshape", net("GlobalAveragePool", x), ints([8, 1, 1]))
        return net("Mul", x, gate)

    _check(middle, batch=1)


def test_the_number_of_channels_in_the_computation_freezes():
    """x / sqrt(C), with C read off the shape: C is a number of the data, not a size."""

    def middle(net, x):
        count = net("Cast", net("Gather", net("Shape", x), ints(1)), to=1)
        return net("Div", x, net("Sqrt", count))

    _check(middle, {}, {"a": "their number enters the computation at Div"})


@pytest.mark.parametrize("op", ["Clip", "Pad", "Resize"])
def test_the_number_of_channels_as_a_parameter_freezes(op):
    """It reaches an input that rules have no reason to look at."""

    def middle(net, x):
        count = net("Cast", net("Gather", net("Shape", x), ints(1)), to=1)
        share = net("Div", count, np.float32(8))
        if op == "Clip":
            return net("Clip", x, "", share)
        if op == "Pad":
            return net("Pad", x, ints([0, 0, 1, 1, 0, 0, 1, 1]), share)
        scales = net(
            "Concat", np.ones(2, np.float32), *[net("Unsqueeze", share, ints([0]))] * 2, axis=0
        )
        return net("Resize", x, "", scales)

    _check(middle, {}, {"a": "their number enters"}, batch=1)
