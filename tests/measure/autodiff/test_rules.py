"""Every rule, at every place that it covers, against differences."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import numpy as np
import onnx
import pytest
from differences import analysed, assert_close, facts_of, gradients_of, part_of
from net import Net
from small_models import run
from versions import needs_onnxruntime

from onnx_reap.measure.autodiff.backward import reached, with_gradients
from onnx_reap.measure.autodiff.recurrent import RECURRENT
from onnx_reap.measure.autodiff.table import GRADIENTS
from onnx_reap.onnxio.light_model import LightModel

# Errors are quadratic in each entry, or nearly so; what is left is float32 rounding of outputs of
# about 10, relative to steps of 1/64.
ROUNDING = 2e-3
CURVED = 5e-3  # and the third derivative times the step's square

COVERED: set[tuple[str, int]] = set()


def grid(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Odd multiples of 1/8: a step of 1/64 never crosses a kink at a multiple of 1/4."""
    return ((np.floor(4 * rng.standard_normal(shape)) + 0.5) / 4).astype(np.float32)


def distinct(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """No two equal, and far enough apart that steps of 1/64 leave their order as it is."""
    count = math.prod(shape)
    return ((rng.permutation(count).reshape(shape) - count // 2) / 16).astype(np.float32)


def inputs_of(net: Net, draw: Callable = grid) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {name: draw(rng, *shape) for name, shape in net.inputs.items()}


def check(net: Net, y: str, wanted, *, opset=17, tolerance=ROUNDING, draw=grid) -> None:
    net.opset = opset
    model = net.model(y, check=False)  # onnx refuses deprecated operators
    data = inputs_of(net, draw)
    analysis = analysed(model, data)
    weights = {name: net.weights[name] for name in wanted if name in net.weights}
    fed = {**data, **weights}
    part, facts = part_of(analysis.model, fed, [y]), facts_of(analysis)
    assert reached(LightModel(part), facts, wanted) == set(wanted)
    gradients, slopes, error = gradients_of(part, facts, fed, wanted)
    assert error > 0
    for name in wanted:
        assert_close(gradients[name], slopes[name], tolerance)
    depend = set(wanted)
    for node in part.graph.node:
        for place, name in enumerate(node.input):
            if name in depend:
                COVERED.add((node.op_type, place))
                depend |= {*node.output}


def conv(sizes, cin, cout, k, *, op="Conv", group=1, batch=2, **attributes):
    """A convolution of any rank, with gradients towards all that it reads."""
    net = Net({"x": (batch, cin, *sizes)})
    shape = (cout, cin // group, *k) if op == "Conv" else (cin, cout // group, *k)
    weight = net.random(*shape, scale=0.5)
    wanted = ["x", weight, net.random(cout)] if op == "Conv" else ["x"]
    return net, net.node(op, "x", weight, *wanted[2:], group=group, **attributes), wanted


CONVOLUTIONS = {
    "1-D": partial(conv, [7], 3, 4, [3]),
    "1-D, strides and dilations": partial(
        conv, [11], 3, 2, [3], strides=[2], dilations=[2], pads=[1, 2]
    ),
    "2-D": partial(conv, [5, 6], 2, 3, [3, 3], pads=[1, 1, 1, 1]),
    "few positions": partial(conv, [2, 3], 8, 8, [3, 3], pads=[1, 1, 1, 1]),
    "pointwise": partial(conv, [3, 4], 3, 4, [1, 1]),
    "pointwise, strides": partial(conv, [5, 4], 3, 4, [1, 1], strides=[2, 2]),
    "oblong": partial(conv, [5, 6], 2, 3, [1, 3], pads=[0, 2, 0, 0]),
    "asymmetric pads": partial(conv, [5, 6], 2, 3, [3, 2], pads=[1, 0, 2, 1]),
    "pads beyond the kernel": partial(conv, [4, 4], 2, 3, [2, 3], pads=[2, 3, 1, 4]),
    "pads beyond the kernel, in groups": partial(
        conv, [4, 4], 4, 6, [2, 3], pads=[2, 3, 1, 4], group=2
    ),
    "strides": partial(conv, [7, 7], 2, 3, [3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "borders unseen": partial(conv, [8, 9], 2, 3, [3, 2], strides=[3, 3]),
    "borders unseen, padded": partial(
        conv, [8, 6], 2, 3, [3, 3], strides=[2, 3], pads=[1, 0, 0, 1]
    ),
    "dilations": partial(conv, [7, 8], 2, 3, [3, 2], dilations=[2, 3], pads=[2, 1, 2, 2]),
    "strides and dilations": partial(
        conv, [9, 9], 2, 3, [3, 2], strides=[2, 3], dilations=[2, 3], pads=[2, 1, 0, 2]
    ),
    "SAME_UPPER": partial(conv, [6, 7], 2, 3, [3, 2], strides=[2, 2], auto_pad="SAME_UPPER"),
    "groups": partial(conv, [4, 5], 4, 6, [3, 3], group=2, pads=[1, 1, 1, 1]),
    "groups, strides, dilations, unseen": partial(
        conv, [10, 9], 4, 6, [3, 2], group=2, strides=[2, 2], dilations=[2, 1], pads=[1, 0, 2, 1]
    ),
    "depthwise": partial(conv, [4, 5], 3, 3, [3, 3], group=3, pads=[1, 1, 1, 1]),
    "depthwise, strides": partial(
        conv, [6, 7], 3, 3, [3, 3], group=3, strides=[2, 2], pads=[1, 1, 1, 1]
    ),
    "depthwise, strides, unseen": partial(conv, [8, 8], 3, 3, [2, 3], group=3, strides=[3, 3]),
    "depth multiplier": partial(conv, [4, 5], 3, 6, [3, 3], group=3, pads=[1, 0, 1, 2]),
    "depth multiplier, strides": partial(conv, [7, 6], 2, 6, [3, 3], group=2, strides=[2, 2]),
    "depthwise 1-D": partial(conv, [7], 3, 3, [3], group=3, pads=[1, 1]),
    "3-D": partial(conv, [3, 4, 4], 2, 2, [2, 3, 2], pads=[0, 1, 1, 1, 1, 0]),
    "3-D, strides": partial(conv, [5, 4, 4], 2, 2, [2, 2, 3], strides=[2, 1, 2]),
    "3-D, groups": partial(conv, [3, 3, 4], 4, 2, [2, 2, 2], group=2, dilations=[1, 1, 2]),
    "3-D, depthwise": partial(conv, [3, 3, 4], 2, 2, [2, 2, 2], group=2),
    "one sample": partial(conv, [4, 4], 2, 3, [3, 3], batch=1),
    "one channel": partial(conv, [4, 4], 1, 3, [3, 3]),
    "to one channel": partial(conv, [4, 4], 3, 1, [3, 3], pads=[1, 1, 1, 1]),
}
TRANSPOSED = {
    "plain": partial(conv, [3, 4], 3, 2, [2, 2], op="ConvTranspose"),
    "strides": partial(conv, [3, 4], 3, 2, [2, 2], op="ConvTranspose", strides=[2, 2]),
    "output padding": partial(
        conv,
        [3, 4],
        3,
        2,
        [3, 3],
        op="ConvTranspose",
        strides=[2, 3],
        pads=[1, 1, 1, 1],
        output_padding=[1, 2],
    ),
    "groups": partial(conv, [3, 3], 4, 4, [3, 2], op="ConvTranspose", group=2, strides=[2, 1]),
    "dilations": partial(conv, [4], 2, 3, [3], op="ConvTranspose", dilations=[2], pads=[1, 2]),
    "output shape": partial(
        conv, [3, 3], 2, 3, [3, 3], op="ConvTranspose", strides=[2, 2], output_shape=[6, 6]
    ),
}


@pytest.mark.parametrize("opset", [11, 13, 17])
@pytest.mark.parametrize("case", list(CONVOLUTIONS))
def test_convolutions(case, opset):
    net, y, wanted = CONVOLUTIONS[case]()
    check(net, y, wanted, opset=opset)


@pytest.mark.parametrize("case", list(TRANSPOSED))
def test_transposed_convolutions(case):
    net, y, wanted = TRANSPOSED[case]()
    check(net, y, wanted)


@pytest.mark.parametrize("opset", [11, 13, 17])
@pytest.mark.parametrize(
    "attributes", [{}, {"transB": 1}, {"alpha": 0.5, "beta": 2.0}, {"alpha": -2.0, "transB": 1}]
)
def test_gemm(attributes, opset):
    net = Net({"x": (3, 5)})
    shape = (4, 5) if attributes.get("transB") else (5, 4)
    wanted = ["x", net.random(*shape), net.random(4)]
    check(net, net.node("Gemm", *wanted, **attributes), wanted, opset=opset)


# Of stacks of matrices, (4, 3) and (3, 5), that are multiplied with each other.
STACKS = {
    "none": ((), ()),
    "equal": ((2, 3), (2, 3)),
    "first alone": ((), (2, 3)),
    "second alone": ((2, 3), ()),
    "repeated": ((2, 1), (1, 3)),
    "repeated, more axes": ((2, 1), (2, 1, 3)),
}


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("case", list(STACKS))
def test_products_of_two_activations(case, opset):
    one, other = STACKS[case]
    net = Net({"x": (*one, 4, 3), "z": (*other, 3, 5)})
    check(net, net.node("MatMul", "x", "z"), ["x", "z"], opset=opset)


@pytest.mark.parametrize("shapes", [((2, 1, 3), (2, 3, 5)), ((4, 1), (2, 1, 1)), ((1, 4), (4, 1))])
def test_products_with_a_size_of_one(shapes):
    net = Net(dict(zip("xz", shapes, strict=True)))
    check(net, net.node("MatMul", "x", "z"), ["x", "z"])


def test_a_constant_on_the_left():
    net = Net({"x": (2, 3, 4)})
    wanted = ["x", net.random(5, 3)]
    check(net, net.node("MatMul", wanted[1], "x"), wanted)


def test_a_matrix_times_itself():
    net = Net({"x": (2, 3, 3)})
    check(net, net.node("MatMul", "x", "x"), ["x"], tolerance=CURVED)


@pytest.mark.parametrize("lead", [(3,), (2, 3), (2, 2, 3)])
def test_matmul(lead):
    net = Net({"x": (*lead, 5)})
    wanted = ["x", net.random(5, 4)]
    check(net, net.node("MatMul", *wanted), wanted)


# Shapes of the operands; the first is fed, the second is fed or a constant.
SHAPES = {
    "equal": ((2, 3, 4, 4), (2, 3, 4, 4)),
    "gate": ((2, 3, 4, 4), (2, 3, 1, 1)),
    "gate first": ((2, 3, 1, 1), (2, 3, 4, 4)),
    "map": ((2, 3, 4, 4), (2, 1, 4, 4)),
    "both": ((2, 3, 1, 4), (2, 3, 4, 1)),
}
CONSTANTS = {"vector": (4,), "channels": (3, 1, 1), "one number": (), "lead": (1, 3, 1, 1)}


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Sum"])
@pytest.mark.parametrize("case", list(SHAPES))
def test_operators_with_two_inputs(op, case):
    one, other = SHAPES[case]
    net = Net({"x": one, "z": other})
    if op != "Div":
        check(net, net.node(op, "x", "z"), ["x", "z"])
        return
    divisor = net.node("Add", net.node("Mul", "z", "z"), net.constant(np.array(2.0)))
    check(net, net.node("Div", "x", divisor), ["x", "z"], tolerance=CURVED)
    net = Net({"x": one})
    wanted = ["x", net.constant(np.random.default_rng(1).uniform(1, 2, other))]
    check(net, net.node("Div", *wanted), wanted, tolerance=CURVED)


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Sum"])
@pytest.mark.parametrize("case", list(CONSTANTS))
@pytest.mark.parametrize("first", [True, False])
def test_operands_of_lower_rank(op, case, first, opset):
    net = Net({"x": (2, 3, 4, 4)})
    pair = [net.random(*CONSTANTS[case]), "x"]
    check(net, net.node(op, *(pair if first else pair[::-1])), pair, opset=opset)


def test_divisors_of_lower_rank():
    net = Net({"x": (2, 3, 4, 4)})
    wanted = ["x", net.constant(np.array([[[1.5]], [[2.0]], [[-1.5]]]))]
    check(net, net.node("Div", *wanted), wanted, tolerance=CURVED)


def test_division_by_constants_of_lower_rank():
    net = Net({"x": (2, 3, 4, 4)})
    check(net, net.node("Div", "x", net.constant(np.array([[[0.5]], [[2.0]], [[-1.5]]]))), ["x"])


@pytest.mark.parametrize("op", ["Sum", "Mean"])
def test_sum_of_three(op):
    net = Net({"x": (2, 3, 4), "z": (2, 1, 4)})
    wanted = ["x", "z", net.random(3, 1)]
    check(net, net.node(op, *wanted), wanted)


# Shapes of what is fed, by equation.
EQUATIONS = {
    "bik,bkj->bij": ((2, 3, 4), (2, 4, 5)),
    "bqhd, bkhd -> bhqk": ((2, 3, 2, 4), (2, 5, 2, 4)),
    "nctv,vw->nctw": ((2, 3, 4, 5), (5, 6)),
    "i,j->ij": ((3,), (4,)),
    "ijk->kij": ((2, 3, 4),),
    "ia,ib,ic->abc": ((3, 2), (3, 4), (3, 5)),
    "bi,bi->b": ((3, 4), (3, 4)),
}


@pytest.mark.parametrize("equation", EQUATIONS)
def test_einsum(equation):
    net = Net(dict(zip("xzu", EQUATIONS[equation], strict=False)))
    check(net, net.node("Einsum", *net.inputs, equation=equation), [*net.inputs])


@pytest.mark.parametrize("attributes", [{}, {"alpha": 2.0, "beta": 0.5, "bias": 1.5}])
@pytest.mark.parametrize(("channels", "size"), [(7, 3), (4, 5), (3, 1), (3, 9)])
def test_local_response_normalization(channels, size, attributes):
    net = Net({"x": (2, channels, 3, 2)})
    check(net, net.node("LRN", "x", size=size, **attributes), ["x"], tolerance=CURVED)


@pytest.mark.parametrize(("axis", "largest"), [(1, 1), (-1, 0), (0, 1)])
def test_largest_entries(axis, largest):
    net = Net({"x": (3, 4, 5)})
    y, _ = net.node("TopK", "x", np.array([2]), axis=axis, largest=largest, outputs=2)
    check(net, y, ["x"], draw=distinct)


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2])
def test_concat(axis, opset):
    sizes = {"x": [2, 3, 4], "z": [2, 3, 4], "u": [2, 3, 4]}
    sizes["z"][axis] += 1
    sizes["u"][axis] = 1
    net = Net(sizes)
    wanted = ["u", "x", "z"]
    y = net.node("Concat", *wanted, axis=axis)
    check(net, y, wanted, opset=opset)


def test_concat_of_one_tensor_twice():
    net = Net({"x": (2, 3, 4)})
    check(net, net.node("Concat", "x", "x", axis=1), ["x"])


@pytest.mark.parametrize("opset", [11, 12, 13, 17])
@pytest.mark.parametrize("low", [-0.5, None])
@pytest.mark.parametrize("high", [0.75, None])
def test_clip(low, high, opset):
    net = Net({"x": (2, 3, 4, 4)})
    bounds = ["" if bound is None else net.constant(np.array(bound)) for bound in (low, high)]
    while bounds and not bounds[-1]:
        bounds.pop()
    check(net, net.node("Clip", "x", *bounds), ["x"], opset=opset)


@pytest.mark.parametrize("scales", [(), (3,)])
@pytest.mark.parametrize("kind", [np.int16, np.uint16])
def test_quantised_activations(kind, scales):
    """In steps so small that they hold all inputs exactly; unsigned ones clip what is negative."""
    net = Net({"x": (2, 3, 4)})
    steps = np.full(scales, 2.0**-10, np.float32) * (2.0 ** np.arange(3) if scales else 1)
    parameters = net.constant(steps.astype(np.float32)), net.constant(np.zeros(scales, kind))
    integers = net.node("QuantizeLinear", "x", *parameters, axis=1)
    y = net.node("DequantizeLinear", integers, *parameters, axis=1)
    check(net, net.node("Mul", y, net.random(2, 3, 4)), ["x"], opset=21)


ACTIVATIONS = {
    "Relu": {},
    "LeakyRelu": {},
    "LeakyRelu, steep": {"alpha": 0.3},
    "Sigmoid": {},
    "Tanh": {},
    "HardSigmoid": {},
    "HardSigmoid, steep": {"alpha": 0.5, "beta": 0.25},
    "HardSwish": {},
    "Erf": {},
    "Cast": {"to": 1},
    "Identity": {},
    "Dropout": {},
    "Neg": {},
    "Abs": {},
    "Softplus": {},
    "Elu": {},
    "Elu, steep": {"alpha": 0.5},
    "Celu": {"alpha": 0.7},
    "Selu": {},
    "Softsign": {},
    "Sin": {},
    "Cos": {},
}


@pytest.mark.parametrize("opset", [14, 18])
@pytest.mark.parametrize("case", list(ACTIVATIONS))
def test_activations(case, opset):
    op = case.split(",")[0]
    net = Net({"x": (2, 3, 5, 5)})
    scaled = net.node("Mul", "x", net.constant(np.array(2.0)))  # beyond all kinks
    y = net.node(op, scaled, **ACTIVATIONS[case])
    check(net, y, ["x"], tolerance=CURVED, opset=opset)
    net = Net({"x": (2, 3, 5, 5)})
    check(net, net.node(op, "x", **ACTIVATIONS[case]), ["x"], tolerance=CURVED, opset=opset)


def test_mish():
    net = Net({"x": (2, 3, 5)})
    check(net, net.node("Mish", "x"), ["x"], tolerance=CURVED, opset=18)


@pytest.mark.parametrize("alpha", [{}, {"alpha": 1.7}], ids=str)
def test_swish(alpha):
    net = Net({"x": (2, 3, 5)})
    check(net, net.node("Swish", "x", **alpha), ["x"], tolerance=CURVED, opset=24)


def positive(net: Net) -> str:
    return net.node("Add", net.node("Abs", "x"), net.constant(np.array(1.0)))


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("op", ["Sqrt", "Exp", "Log", "Reciprocal"])
def test_functions(op, opset):
    net = Net({"x": (2, 3, 4)})
    x = "x" if op == "Exp" else positive(net)
    check(net, net.node(op, x), ["x"], opset=opset, tolerance=CURVED)


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize(
    "exponents", [2.0, 3.0, 0.5, -1.5, [1.0, 2.0, -2.0, 0.5], [[[2.0]], [[3.0]]]]
)
def test_powers(exponents, opset):
    net = Net({"x": (2, 1, 4)})
    y = net.node("Pow", positive(net), net.constant(np.array(exponents)))
    check(net, y, ["x"], opset=opset, tolerance=CURVED)


@pytest.mark.parametrize("exponents", [2, 3, [1, 2, 3, 2]])
def test_whole_powers_of_negative_numbers(exponents):
    net = Net({"x": (2, 3, 4)})
    y = net.node("Pow", "x", net.constant(np.array(exponents)))
    check(net, y, ["x"], opset=13, tolerance=CURVED)


@pytest.mark.parametrize("opset", [11, 16])
@pytest.mark.parametrize("shape", [(), (1,), (3, 1, 1), (4,), (2, 3, 4, 4)])
def test_prelu(shape, opset):
    net = Net({"x": (2, 3, 4, 4)})
    check(net, net.node("PRelu", "x", net.random(*shape)), ["x"], opset=opset)


def test_prelu_whose_slope_is_computed():
    net = Net({"x": (2, 3, 4, 4), "slope": (3, 1, 1)})
    check(net, net.node("PRelu", "x", "slope"), ["x"])


@pytest.mark.parametrize("attributes", [{}, {"approximate": "none"}, {"approximate": "tanh"}])
def test_gelu(attributes):
    net = Net({"x": (2, 3, 5, 5)})
    check(net, net.node("Gelu", "x", **attributes), ["x"], opset=20, tolerance=CURVED)


@pytest.mark.parametrize("opset", [11, 12, 13, 18])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("axis", [None, 0, 1, 2, -1, -2])
def test_softmax(axis, op, opset):
    net = Net({"x": (2, 3, 4)})
    y = net.node(op, "x", **({} if axis is None else {"axis": axis}))
    check(net, y, ["x"], opset=opset, tolerance=CURVED)


@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize("epsilon", [{}, {"epsilon": 0.5}])
@pytest.mark.parametrize("axis", [None, -1, -2, 1, 2])
def test_layer_normalization(axis, epsilon, opset):
    net = Net({"x": (2, 3, 4)})
    first = 2 if axis is None else axis % 3
    parameters = [net.random(*(3, 4)[first - 1 :]) for _ in range(2)]
    attributes = epsilon if axis is None else epsilon | {"axis": axis}
    y = net.node("LayerNormalization", "x", *parameters, **attributes)
    check(net, y, ["x", *parameters], opset=opset, tolerance=CURVED)


@pytest.mark.parametrize("axis", [-1, 1])
def test_rms_normalization(axis):
    net = Net({"x": (2, 3, 4)})
    scale = net.random(*(3, 4)[axis % 3 - 1 :])
    y = net.node("RMSNormalization", "x", scale, axis=axis)
    check(net, y, ["x", scale], opset=23, tolerance=CURVED)


@pytest.mark.parametrize("axes", [{}, {"axes": [2, 3]}])
def test_mean_variance_normalization(axes):
    net = Net({"x": (2, 3, 4, 3)})
    check(net, net.node("MeanVarianceNormalization", "x", **axes), ["x"], tolerance=CURVED)


ATTENDED = ["q", "k", "v"]


def attended(heads=2, keys=2, *, apart=False, mask=None, own=3, **attributes):
    """Attention of heads that are joined, or apart along an axis of their own."""
    counts, sizes = {"q": heads, "k": keys, "v": keys}, {"q": 3, "k": 3, "v": own}
    lengths = {"q": 4, "k": 5, "v": 5}
    if apart:
        net = Net({n: (2, counts[n], lengths[n], sizes[n]) for n in ATTENDED})
    else:
        net = Net({n: (2, lengths[n], counts[n] * sizes[n]) for n in ATTENDED})
        attributes |= {"q_num_heads": heads, "kv_num_heads": keys}
    return net, net.node("Attention", *ATTENDED, *([] if mask is None else [mask]), **attributes)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("heads", [(2, 2), (4, 2)])
@pytest.mark.parametrize("more", [{}, {"scale": 0.3}, {"is_causal": 1}, {"own": 2}], ids=str)
def test_attention(heads, apart, more):
    net, y = attended(*heads, apart=apart, **more)
    check(net, y, ATTENDED, opset=23, tolerance=CURVED)


@pytest.mark.parametrize("shape", [(4, 5), (1, 1, 4, 5)], ids=str)
@pytest.mark.parametrize("kind", [np.float32, bool])
def test_attention_with_a_mask(shape, kind):
    mask = (np.random.default_rng(1).standard_normal(shape) > -0.5).astype(kind)
    net, y = attended(mask=mask)
    check(net, y, ATTENDED, opset=23, tolerance=CURVED)


@pytest.mark.parametrize("more", [{}, {"interleaved": 1}], ids=str)
def test_rotary_embedding(more):
    net = Net({"x": (2, 3, 8)})
    angles = [net.random(2, 3, 2) for _ in range(2)]
    check(net, net.node("RotaryEmbedding", "x", *angles, num_heads=2, **more), ["x"], opset=23)


def test_gather_that_takes_rows_twice():
    net = Net({"x": (2, 3, 4)})
    check(net, net.node("Gather", "x", np.array([[0, 2], [2, -1]]), axis=1), ["x"])


def test_gather_elements():
    net = Net({"x": (2, 3, 4)})
    places = np.random.default_rng(0).integers(0, 3, (2, 5, 4))
    check(net, net.node("GatherElements", "x", places, axis=1), ["x"])


def test_gather_nd():
    net = Net({"x": (3, 4, 2)})
    check(net, net.node("GatherND", "x", np.array([[0, 1], [2, 3], [0, 1]])), ["x"])


def test_scatter_elements():
    net = Net({"x": (2, 3, 4), "u": (2, 2, 4)})
    places = np.random.default_rng(0).integers(0, 3, (2, 2, 4))
    y = net.node("ScatterElements", "x", places, "u", axis=1, reduction="add")
    check(net, y, ["x", "u"])


def test_scatter_nd():
    net = Net({"x": (3, 4, 2), "u": (2, 4, 2)})
    y = net.node("ScatterND", "x", np.array([[2], [2]]), "u", reduction="add")
    check(net, y, ["x", "u"])


def test_layer_normalization_without_a_bias():
    net = Net({"x": (2, 3, 4), "scale": (4,)})
    check(net, net.node("LayerNormalization", "x", "scale"), ["x"], tolerance=CURVED)


@pytest.mark.parametrize("opset", [11, 17, 18])
@pytest.mark.parametrize("epsilon", [{}, {"epsilon": 0.5}])
@pytest.mark.parametrize("sizes", [(5,), (3, 4), (2, 2, 3)])
def test_instance_normalization(sizes, epsilon, opset):
    net = Net({"x": (2, 3, *sizes)})
    parameters = [net.random(3), net.random(3)]
    y = net.node("InstanceNormalization", "x", *parameters, **epsilon)
    check(net, y, ["x", *parameters], opset=opset, tolerance=CURVED)


@pytest.mark.parametrize("opset", [18, 21])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("sizes", [(5,), (3, 2)])
def test_group_normalization(sizes, groups, opset):
    net = Net({"x": (2, 4, *sizes)})
    parameters = [net.random(groups if opset < 21 else 4) for _ in range(2)]
    y = net.node("GroupNormalization", "x", *parameters, num_groups=groups, epsilon=0.1)
    check(net, y, ["x", *parameters], opset=opset, tolerance=CURVED)


@pytest.mark.parametrize("opset", [11, 13, 17])
@pytest.mark.parametrize("sizes", [(), (5,), (3, 4), (2, 2, 3)])
def test_batch_normalization(sizes, opset):
    net = Net({"x": (4, 3, *sizes)})
    y = net.norm("x", 3, epsilon=1e-2)
    check(net, y, ["x", *net.nodes[-1].input[1:3]], opset=opset)


@pytest.mark.parametrize("sizes", [(5,), (3, 4), (2, 2, 3)])
def test_global_average_pool(sizes):
    net = Net({"x": (2, 3, *sizes)})
    check(net, net.node("GlobalAveragePool", "x"), ["x"])


WINDOWS = {
    "plain": ((4, 6), {"kernel_shape": [2, 2], "strides": [2, 2]}),
    "strides left out": ((4, 5), {"kernel_shape": [2, 3]}),
    "overlapping": ((7, 5), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}),
    "a rest unseen": ((6, 8), {"kernel_shape": [2, 3], "strides": [3, 3], "pads": [1, 1, 0, 0]}),
    "asymmetric pads": ((5, 4), {"kernel_shape": [3, 2], "pads": [0, 1, 2, 0]}),
    "oblong": ((4, 6), {"kernel_shape": [1, 3], "strides": [1, 2]}),
    "VALID": ((5, 5), {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "VALID"}),
    "ceil_mode that changes nothing": (
        (4, 4),
        {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1},
    ),
    "beyond the border": (
        (6, 8),
        {"kernel_shape": [3, 2], "strides": [2, 3], "pads": [0, 1, 0, 0], "ceil_mode": 1},
    ),
    "SAME_UPPER": (
        (6, 7),
        {"kernel_shape": [3, 2], "strides": [2, 3], "auto_pad": "SAME_UPPER"},
    ),
    "SAME_LOWER": (
        (7, 6),
        {"kernel_shape": [2, 3], "strides": [1, 2], "auto_pad": "SAME_LOWER"},
    ),
    "1-D": ((7,), {"kernel_shape": [3], "strides": [2], "pads": [1, 1]}),
    "3-D": ((4, 3, 4), {"kernel_shape": [2, 2, 3], "strides": [2, 1, 1], "pads": [0] * 5 + [1]}),
    "all of it": ((3, 3), {"kernel_shape": [3, 3]}),
}
DILATED = {
    "dilations": ((6, 7), {"kernel_shape": [2, 3], "dilations": [2, 3]}),
    "dilations, strides, pads": (
        (9, 8),
        {"kernel_shape": [3, 2], "dilations": [2, 1], "strides": [2, 3], "pads": [1, 0, 2, 1]},
    ),
}


@pytest.mark.parametrize("opset", [11, 13, 18, 22])
@pytest.mark.parametrize("case", [*WINDOWS, *DILATED])
def test_max_pool(case, opset):
    sizes, attributes = (WINDOWS | DILATED)[case]
    net = Net({"x": (2, 3, *sizes)})
    check(net, net.node("MaxPool", "x", **attributes), ["x"], opset=opset, draw=distinct)


def average_pools() -> Iterator[object]:
    right = needs_onnxruntime(1, 25, why="older ones count these pads otherwise")
    pools = [*product(WINDOWS, [11, 18]), *product([*WINDOWS, *DILATED], [19, 22])]
    for (case, opset), with_pads in product(pools, [None, 0, 1]):
        if with_pads and case in ("beyond the border", "SAME_UPPER", "SAME_LOWER"):
            continue  # see `REFUSED`
        new = opset >= 19 and case in ("asymmetric pads", "dilations, strides, pads")
        yield pytest.param(case, opset, with_pads, marks=[right] if new and with_pads else [])


@pytest.mark.parametrize(("case", "opset", "with_pads"), average_pools())
def test_average_pool(case, opset, with_pads):
    sizes, attributes = (WINDOWS | DILATED)[case]
    counted = {} if with_pads is None else {"count_include_pad": with_pads}
    net = Net({"x": (2, 3, *sizes)})
    check(net, net.node("AveragePool", "x", **attributes, **counted), ["x"], opset=opset)


@pytest.mark.parametrize("low", [-5.0, 0.0])
def test_equal_entries_of_a_window_share_its_gradient(low):
    """What a window has beyond the border takes no part, even where it would be larger."""
    net = Net({"x": (2, 3, 5, 5)})
    y = net.node("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    fed = {"x": np.full((2, 3, 5, 5), low, np.float32)}
    analysis = analysed(net.model(y), fed)
    part, facts = part_of(analysis.model, fed, [y]), facts_of(analysis)
    trainer = with_gradients(LightModel(part), facts, {y: 0.5}, ["x"])
    target = np.random.default_rng(0).standard_normal((2, 3, 3, 3)).astype(np.float32)
    (gradient,) = run(trainer.model.whole(), {**fed, trainer.targets[y]: target})
    expected = np.zeros(gradient.shape)
    for i, j in np.ndindex(3, 3):
        rows, columns = (slice(max(2 * k - 1, 0), 2 * k + 2) for k in (i, j))
        window = expected[:, :, rows, columns]
        share = (low - target[:, :, i, j]) / (window.shape[2] * window.shape[3])
        window += share[:, :, None, None]
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("sizes", [(5,), (3, 4), (2, 2, 3)])
def test_global_max_pool(sizes, opset):
    net = Net({"x": (2, 3, *sizes)})
    check(net, net.node("GlobalMaxPool", "x"), ["x"], opset=opset, draw=distinct)


@pytest.mark.parametrize("opset", [11, 12, 13, 17, 18, 21])
@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin"])
@pytest.mark.parametrize("keep", [{}, {"keepdims": 1}, {"keepdims": 0}])
@pytest.mark.parametrize("axes", [[1], [2, 3], [-1, 1], [3, 0, -2], None])
def test_reductions(axes, keep, op, opset):
    net = Net({"x": (2, 3, 4, 2)})
    if axes is None:
        y = net.node(op, "x", **keep)
    else:
        y = by_vector(op, axes, net, opset, since=13 if op == "ReduceSum" else 18, **keep)
    y = net.node("Add", y, net.constant(np.array(2.0)))  # away from the target
    check(net, y, ["x"], opset=opset, draw=distinct if op in ("ReduceMax", "ReduceMin") else grid)


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("op", ["ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp"])
@pytest.mark.parametrize("keep", [{"keepdims": 1}, {"keepdims": 0}], ids=str)
def test_reductions_of_functions(op, keep, opset):
    net = Net({"x": (2, 3, 4, 2)})
    y = by_vector(op, [2, 3], net, opset, since=18, **keep)
    check(net, y, ["x"], opset=opset, tolerance=CURVED)


def resized(net: Net, opset: int, roi=None, *, scales=None, sizes=None, **attributes) -> str:
    """A Resize; inputs that are left out are empty vectors where they may not be missing."""
    missing = net.constant(np.zeros(0)) if opset < 13 else ""
    inputs = [
        missing if roi is None else net.constant(np.array(roi, float)),
        missing if scales is None else net.constant(np.array([1, 1, *scales], float)),
    ]
    if sizes is not None:
        inputs.append(net.constant(np.array([*net.inputs["x"][:2], *sizes])))
    return net.node("Resize", "x", *inputs, **attributes)


RESIZES: dict[str, dict] = {
    "nearest": {"scales": [2, 2]},
    "nearest, asymmetric": {
        "scales": [2, 3],
        "mode": "nearest",
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    },
    "nearest, sizes": {"sizes": [7, 3], "mode": "nearest", "nearest_mode": "ceil"},
    "nearest, smaller": {"scales": [0.5, 0.6], "mode": "nearest"},
    "linear": {"scales": [2, 2], "mode": "linear"},
    "linear, odd scales": {"scales": [1.7, 2.3], "mode": "linear"},
    "linear, corners": {
        "sizes": [7, 9],
        "mode": "linear",
        "coordinate_transformation_mode": "align_corners",
    },
    "linear, smaller": {
        "sizes": [3, 2],
        "mode": "linear",
        "coordinate_transformation_mode": "pytorch_half_pixel",
    },
    "linear, to one": {
        "sizes": [1, 8],
        "mode": "linear",
        "coordinate_transformation_mode": "pytorch_half_pixel",
    },
    "linear, cropped": {
        "roi": [0, 0, 0.2, -0.3, 1, 1, 0.9, 0.6],
        "sizes": [6, 7],
        "mode": "linear",
        "coordinate_transformation_mode": "tf_crop_and_resize",
        "extrapolation_value": 3.0,
    },
    "cubic": {"scales": [2, 2], "mode": "cubic"},
    "cubic, excluding the outside": {
        "sizes": [9, 5],
        "mode": "cubic",
        "cubic_coeff_a": -0.5,
        "exclude_outside": 1,
    },
    "one axis": {"scales": [1, 2], "mode": "linear"},
}


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("case", list(RESIZES))
def test_resize(case, opset):
    net = Net({"x": (2, 3, 4, 5)})
    check(net, resized(net, opset, **RESIZES[case]), ["x"], opset=opset)


def twice_the_shape(net: Net, *factors) -> str:
    return net.node("Mul", net.node("Shape", "x"), net.constant(np.array([1, 1, *factors])))


def scales_from_shapes(net: Net) -> str:
    """Scales to a size, by division, as converters write them."""
    whole, wanted = (
        net.node("Cast", each, to=onnx.TensorProto.FLOAT)
        for each in (net.node("Shape", "x"), twice_the_shape(net, 3, 2))
    )
    return net.node("Div", wanted, whole)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("opset", [13, 19])
def test_resize_to_what_is_computed(opset, mode):
    net = Net({"x": (2, 3, 4, 5)})
    y = net.node("Resize", "x", "", "", twice_the_shape(net, 2, 3), mode=mode)
    check(net, y, ["x"], opset=opset)
    net = Net({"x": (2, 3, 4, 5)})
    check(net, net.node("Resize", "x", "", scales_from_shapes(net), mode=mode), ["x"], opset=opset)


@pytest.mark.parametrize("axes", [[2, 3], [3, 2], [-1], [1, 3], [3, 0]])
@pytest.mark.parametrize("given", ["scales", "sizes", "roi"])
def test_resize_of_the_axes_that_it_names(axes, given):
    net, shape, factors = Net({"x": (2, 3, 4, 5)}), np.array([2, 3, 4, 5]), np.array([1, 1, 3, 2])
    scales = net.constant(factors[axes].astype(float))
    more = {"axes": axes, "mode": "linear"}
    if given == "scales":
        inputs = ["", scales]
    elif given == "sizes":
        inputs = ["", "", net.constant((shape * factors)[axes])]
    else:
        starts, ends = (np.array(each)[axes] for each in ([0, 0, 0.2, -0.1], [1, 1, 0.8, 0.7]))
        inputs = [net.constant(np.concatenate([starts, ends])), scales]
        more["coordinate_transformation_mode"] = "tf_crop_and_resize"
    check(net, net.node("Resize", "x", *inputs, **more), ["x"], opset=18)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_resize_that_smooths(mode):
    net = Net({"x": (2, 3, 7, 9)})
    check(net, resized(net, 18, scales=[0.5, 0.4], mode=mode, antialias=1), ["x"], opset=18)


def computed_target(net: Net) -> str:
    """Reshape to sizes that are read off the tensor."""
    whole = net.node("Shape", "x")
    lead = net.node("Gather", whole, net.constant(np.array([0])), axis=0)
    sizes = net.node("Concat", lead, net.constant(np.array([-1])), axis=0)
    return net.node("Reshape", "x", sizes)


def by_vector(
    op: str, axes: list[int], net: Net, opset: int, *, since: int = 13, **attributes
) -> str:
    if opset < since:
        return net.node(op, "x", axes=axes, **attributes)
    return net.node(op, "x", net.constant(np.array(axes)), **attributes)


def by_vectors(op: str, *vectors, **attributes) -> Callable:
    """Whatever the operator set, vectors are inputs."""

    def build(net: Net, opset: int) -> str:
        return net.node(op, "x", *(net.constant(np.array(v)) for v in vectors), **attributes)

    return build


def split_into(sizes: list[int] | None, used: list[int], axis: int) -> Callable:
    """Concatenate some of three parts; sizes are an attribute, an input or left out."""

    def build(net: Net, opset: int) -> str:
        inputs, attributes = ["x"], {"axis": axis} if axis else {}
        if sizes is None and opset >= 18:
            attributes["num_outputs"] = 3
        elif sizes is not None and opset >= 13:
            inputs.append(net.constant(np.array(sizes)))
        elif sizes is not None:
            attributes["split"] = sizes
        parts = net.node("Split", *inputs, outputs=3, **attributes)
        return net.node("Concat", *(parts[i] for i in used), axis=axis)

    return build


MOVES: dict[str, tuple[tuple[int, ...], Callable]] = {
    "flatten": ((2, 3, 4), lambda n, opset: n.node("Flatten", "x")),
    "flatten at 2": ((2, 3, 4), lambda n, opset: n.node("Flatten", "x", axis=2)),
    "reshape": (
        (2, 3, 4),
        lambda n, opset: n.node("Reshape", "x", n.constant(np.array([0, 2, -1]))),
    ),
    "reshape as computed": ((2, 3, 4), lambda n, opset: computed_target(n)),
    "squeeze": ((2, 1, 3, 1), partial(by_vector, "Squeeze", [1, 3])),
    "squeeze all": ((2, 1, 3, 1), lambda n, opset: n.node("Squeeze", "x")),
    "unsqueeze": ((2, 3), partial(by_vector, "Unsqueeze", [0, 3])),
    "transpose": ((2, 3, 4), lambda n, opset: n.node("Transpose", "x")),
    "transpose by perm": (
        (2, 3, 4, 5),
        lambda n, opset: n.node("Transpose", "x", perm=[2, 0, 3, 1]),
    ),
    "pad": ((2, 3, 4), by_vectors("Pad", [0, 1, 2, 0, 0, 3])),
    "pad by a number": (
        (2, 3, 4),
        lambda n, opset: n.node(
            "Pad", "x", n.constant(np.array([1, 0, 2, 0, 0, 1])), n.constant(np.array(0.5))
        ),
    ),
    "pad and crop": ((2, 3, 5), by_vectors("Pad", [0, -1, 2, 0, 1, -3], mode="constant")),
    "reversed": (
        (4, 3, 2),
        by_vectors("ReverseSequence", [2, 4, 1], time_axis=0, batch_axis=1),
    ),
    "slice": ((2, 3, 4), by_vectors("Slice", [0, 1], [2, 3])),
    "slice from the end": ((2, 3, 4), by_vectors("Slice", [-3, 1], [-1, 2**31], [2, 1])),
    "slice in steps": ((2, 5, 7), by_vectors("Slice", [1, 0], [7, 5], [-1, -2], [3, 2])),
    "slice backwards": ((2, 3, 4), by_vectors("Slice", [-1], [-(2**31)], [2], [-2])),
    "gather one": ((2, 3, 4), by_vectors("Gather", 1, axis=1)),
    "gather the last": ((2, 3, 4), by_vectors("Gather", -1, axis=-1)),
    "gather some": ((4, 3, 4), by_vectors("Gather", [2, 0, 3])),
    "gather a table": ((2, 6, 2), by_vectors("Gather", [[-1, -3], [-4, -2]], axis=1)),
    "split": ((2, 6, 4), split_into(None, [0, 1, 2], 1)),
    "split along the first axis": ((6, 2), split_into(None, [2, 0], 0)),
    "split, one part read": ((2, 6, 4), split_into([1, 2, 3], [1], 1)),
    "split, parts twice": ((2, 3, 6), split_into([1, 2, 3], [2, 1, 1], -1)),
    "depth to space": (
        (2, 8, 2, 3),
        lambda n, opset: n.node("DepthToSpace", "x", blocksize=2),
    ),
    "depth to space, columns first": (
        (2, 8, 2, 3),
        lambda n, opset: n.node("DepthToSpace", "x", blocksize=2, mode="CRD"),
    ),
    "space to depth": ((2, 2, 4, 6), lambda n, opset: n.node("SpaceToDepth", "x", blocksize=2)),
    "tile": ((2, 3, 4), by_vectors("Tile", [1, 2, 3])),
    "tile samples": ((3, 1), by_vectors("Tile", [2, 4])),
    "expand": ((2, 1, 4, 1), by_vectors("Expand", [2, 3, 4, 5])),
    "expand to more axes": ((3, 1), by_vectors("Expand", [2, 1, 4])),
}


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("case", list(MOVES))
def test_movements(case, opset):
    shape, build = MOVES[case]
    net = Net({"x": shape})
    check(net, build(net, opset=opset), ["x"], opset=opset)


@pytest.mark.parametrize("opset", [18, 21])
def test_pads_of_some_axes(opset):
    net = Net({"x": (2, 3, 4, 5)})
    vectors = [net.constant(np.array(v)) for v in ([1, 2, 0, 3], [3, -3])]
    check(net, net.node("Pad", "x", vectors[0], "", vectors[1]), ["x"], opset=opset)


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("op", ["Max", "Min"])
@pytest.mark.parametrize("case", list(SHAPES))
def test_extremes(case, op, opset):
    one, other = SHAPES[case]
    net = Net({"x": one, "z": other})
    apart = net.node("Add", "z", net.constant(np.array(0.125)))  # never equal
    check(net, net.node(op, "x", apart), ["x", "z"], opset=opset)
    net = Net({"x": one})
    wanted = ["x", net.constant(grid(np.random.default_rng(1), *other) + 0.125)]
    check(net, net.node(op, *wanted), wanted, opset=opset)


@pytest.mark.parametrize("opset", [11, 16])
@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (3, 1, 1), (2, 1, 4, 4), (2, 2, 3, 4, 4)])
@pytest.mark.parametrize("case", list(SHAPES))
def test_choices(case, shape, opset):
    net = Net(dict(zip("xz", SHAPES[case], strict=True)))
    choice = net.constant(np.random.default_rng(2).random(shape) > 0.5)
    wanted = ["x", "z", net.random(4)]
    y = net.node("Where", choice, "x", "z")
    other = net.node("Where", choice, wanted[2], "x")
    check(net, net.node("Add", y, other), wanted, opset=opset)


def test_a_tensor_that_is_read_thrice():
    net = Net({"x": (2, 3, 4, 4)})
    weight = net.random(3, 3, 1, 1)
    h = net.node("Conv", "x", weight)
    gated = net.node("Mul", h, net.node("Sigmoid", h))
    check(net, net.node("Add", gated, h), ["x", weight], tolerance=CURVED)


def test_a_square():
    net = Net({"x": (2, 3, 4)})
    check(net, net.node("Mul", "x", "x"), ["x"], tolerance=CURVED)


def test_a_weight_that_two_layers_share():
    net = Net({"x": (2, 3, 4, 4)})
    weight = net.random(3, 3, 3, 3, scale=0.2)
    h = net.node("Conv", "x", weight, pads=[1] * 4)
    check(net, net.node("Conv", h, weight, pads=[1] * 4), ["x", weight], tolerance=CURVED)


@pytest.mark.parametrize("opset", [11, 13, 17, 21])
def test_a_network(opset):
    net = Net({"x": (2, 2, 5, 5)})
    first = net.random(4, 2, 3, 3, scale=0.3)
    h = net.node("Tanh", net.norm(net.node("Conv", "x", first, pads=[1] * 4), 4))
    gate = net.node("GlobalAveragePool", h)
    gate = net.node("Sigmoid", net.conv(gate, 4, 4, 1))
    h = net.node("Concat", net.node("Mul", h, gate), h, axis=1)
    flat = net.node("Flatten", net.node("GlobalAveragePool", h))
    last = net.random(8, 3)
    y = net.node("Gemm", flat, last)
    check(net, y, [first, last], opset=opset, tolerance=CURVED)


def passed_on(op: str, *inputs, **attributes) -> Callable:
    """One operator on names and constants."""

    def build(net: Net) -> str:
        names = [o if isinstance(o, str) else net.constant(np.array(o)) for o in inputs]
        return net.node(op, *names, **attributes)

    return build


# What x, of shape (2, 4, 6, 6), gets no gradient through.
REFUSED: dict[str, Callable] = {
    "reflected": passed_on("Pad", "x", [0, 0, 1, 1, 0, 0, 1, 1], mode="reflect"),
    "repeated edges": passed_on("Pad", "x", [0, 0, 1, 1, 0, 0, 1, 1], mode="edge"),
    "gathered as computed": lambda net: net.node(
        "Gather", "x", net.node("ArgMax", "x", axis=1, keepdims=0), axis=1
    ),
    "largest of three": passed_on("Max", "x", 0.5, 1.5),
    "larger of equals": passed_on("Max", "x", "x"),
    "choice by its sign": lambda net: net.node(
        "Where", net.node("Greater", "x", net.constant(np.array(0.5))), "x", "x"
    ),
    "averaged, pads that it finds by itself counted": passed_on(
        "AveragePool",
        "x",
        kernel_shape=[3, 3],
        strides=[2, 2],
        auto_pad="SAME_LOWER",
        count_include_pad=1,
    ),
    "averaged, what is beyond the border counted": passed_on(
        "AveragePool", "x", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, count_include_pad=1
    ),
    "pooled, with places": lambda net: net.node(
        "MaxPool", "x", kernel_shape=[2, 2], strides=[2, 2], outputs=2
    )[0],
    "resized, five axes": lambda net: net.node(
        "Resize",
        net.node("Reshape", "x", net.constant(np.array([2, 4, 1, 6, 6]))),
        "",
        net.constant(np.array([1.0, 1.0, 2.0, 2.0, 2.0])),
        mode="nearest",
    ),
    "resized channels": passed_on("Resize", "x", "", [1.0, 2.0, 1.0, 1.0], mode="nearest"),
    "resized channels that it names": passed_on("Resize", "x", "", [2.0], axes=[1], mode="nearest"),
    "resized, shape kept": passed_on(
        "Resize", "x", "", "", [2, 4, 9, 8], keep_aspect_ratio_policy="not_larger"
    ),
    "resized to channels as computed": lambda net: net.node(
        "Resize",
        "x",
        "",
        "",
        net.node("Mul", net.node("Shape", "x"), net.constant(np.array([1, 2, 1, 1]))),
        mode="nearest",
    ),
    "cropped as computed": lambda net: net.node(
        "Resize",
        "x",
        net.node("Mul", net.node("ReduceMax", "x", keepdims=0), net.constant(np.zeros(8))),
        net.constant(np.array([1.0, 1.0, 2.0, 2.0])),
        coordinate_transformation_mode="tf_crop_and_resize",
    ),
    "cropped samples that it names": passed_on(
        "Resize",
        "x",
        [0.0, 0.5, 1.0, 1.0],
        [2.0, 1.0],
        axes=[2, 0],
        coordinate_transformation_mode="tf_crop_and_resize",
    ),
    "cropped samples": passed_on(
        "Resize",
        "x",
        [0.5, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0],
        [1.0, 1.0, 2.0, 2.0],
        coordinate_transformation_mode="tf_crop_and_resize",
    ),
    "summed over nothing": passed_on("ReduceSum", "x", noop_with_empty_axes=1),
    "summed over axes that are computed": lambda net: net.node(
        "ReduceSum",
        "x",
        net.node(
            "Sub",
            net.node(
                "Slice",
                net.node("Shape", "x"),
                net.constant(np.array([1])),
                net.constant(np.array([2])),
            ),
            net.constant(np.array([2])),
        ),
    ),
    "normalized, with statistics": lambda net: net.node(
        "LayerNormalization", "x", net.random(6), outputs=2
    )[0],
    "summed along an index of its own": passed_on(
        "Einsum", "x", np.ones((4, 5), np.float32), equation="nchw,cd->ndh"
    ),
    "its diagonals": passed_on("Einsum", "x", equation="nchh->nch"),
    "an equation of any rank": passed_on(
        "Einsum", "x", np.ones((6, 5), np.float32), equation="...w,wv->...v"
    ),
    "repeated along an index": passed_on(
        "Einsum", "x", np.ones((4, 1, 6), np.float32), equation="nchw,chw->nchw"
    ),
    "tiled as computed": lambda net: net.node(
        "Tile", "x", net.node("Div", net.node("Shape", "x"), net.node("Shape", "x"))
    ),
    "times a vector": lambda net: net.node(
        "MatMul", "x", net.node("ReduceMax", "x", net.constant(np.array([0, 1, 2])), keepdims=0)
    ),
    "to the power of zero": passed_on("Pow", "x", 0.0),
    "to its own power": passed_on("Pow", "x", "x"),
    "slope of itself": passed_on("PRelu", 0.5, "x"),
    "as another type": lambda net: net.node("Cast", net.node("Cast", "x", to=11), to=1),
}


SUMMING = needs_onnxruntime(1, 24, 1, why="older ones refuse a sum over no axes")


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[SUMMING] if case == "summed over nothing" else [])
        for case in REFUSED
    ],
)
def test_what_is_not_covered_is_refused(case):
    assert refuses(REFUSED[case], opset=18)


def refuses(build: Callable, opset: int) -> bool:
    net = Net({"x": (2, 4, 6, 6)}, opset=opset)
    y = build(net)
    fed = inputs_of(net)
    analysis = analysed(net.model(y, check=False), fed)
    part, facts = part_of(analysis.model, fed, [y]), facts_of(analysis)
    return not reached(LightModel(part), facts, ["x"])


def test_an_old_way_to_resize_is_refused():
    """It moves entries also along axes whose size stays."""
    mode = {"coordinate_transformation_mode": "tf_half_pixel_for_nn"}
    assert refuses(partial(resized, opset=11, scales=[2, 2], **mode), opset=11)


def test_every_rule_was_tried_at_every_place():
    """Runs last in this file, after the others noted what they tried."""
    if len(COVERED) < 20 or "PYTEST_XDIST_WORKER" in os.environ:
        pytest.skip("the other tests of this file did not run, or not in this process")
    for op, rule in GRADIENTS.items():
        if op in RECURRENT:  # they have a file of their own
            continue
        places = {0, 1} if rule.places is None else set(rule.places)
        assert places <= {place for name, place in COVERED if name == op}, op
