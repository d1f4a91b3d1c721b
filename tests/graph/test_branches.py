"""Residual branches that vanish: slice = mask, and the costs that were foretold."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import onnx
import pytest
from net import Net
from oracle import (
    Studied,
    assert_costs,
    assert_differs,
    assert_interface,
    assert_same_function,
    choose,
    study,
)

from onnx_reap.graph.constancy import channel_axis

C, HALF = 8, 4


def norm(net: Net, x: str, c: int, name: str) -> str:
    uniform = net.rng.uniform
    parameters = [uniform(0.5, 1.5, c), uniform(-0.5, 0.5, c), uniform(-0.2, 0.2, c)]
    arrays = [p.astype(np.float32) for p in (*parameters, uniform(0.5, 1.5, c))]
    return net("BatchNormalization", x, *arrays, name=f"{name}_bn")


def basic(net: Net, x: str, name: str) -> str:
    h = net("Relu", norm(net, net.conv(x, C, 6, name=f"{name}1"), 6, f"{name}1"))
    h = norm(net, net.conv(h, 6, C, name=f"{name}2"), C, f"{name}2")
    return net("Relu", net("Add", h, x, name=f"{name}_add"))


def downsampling(net: Net, x: str, name: str) -> str:
    h = net("Relu", norm(net, net.conv(x, C, 6, strides=[2, 2], name=f"{name}1"), 6, f"{name}1"))
    h = norm(net, net.conv(h, 6, C, name=f"{name}2"), C, f"{name}2")
    side = net.conv(x, C, C, 1, strides=[2, 2], name=f"{name}s")
    return net("Relu", net("Add", side, norm(net, h, C, f"{name}3"), name=f"{name}_add"))


def bottleneck(net: Net, x: str, name: str) -> str:
    h = net("Relu", norm(net, net.conv(x, C, 4, 1, name=f"{name}1"), 4, f"{name}1"))
    h = net("Relu", norm(net, net.conv(h, 4, 5, name=f"{name}2"), 5, f"{name}2"))
    h = norm(net, net.conv(h, 5, C, 1, name=f"{name}3"), C, f"{name}3")
    return net("Relu", net("Add", x, h, name=f"{name}_add"))


def inverted(net: Net, x: str, name: str) -> str:
    h = net("Relu", norm(net, net.conv(x, C, 12, 1, name=f"{name}1"), 12, f"{name}1"))
    h = net("Relu", norm(net, net.conv(h, 12, 12, group=12, name=f"{name}d"), 12, f"{name}d"))
    h = norm(net, net.conv(h, 12, C, 1, name=f"{name}2"), C, f"{name}2")
    return net("Add", x, h, name=f"{name}_add")


def gated(net: Net, x: str, name: str) -> str:
    """Squeeze and excitation inside, as in MobileNetV3."""
    h = net("Relu", norm(net, net.conv(x, C, 12, 1, name=f"{name}1"), 12, f"{name}1"))
    s = net("Relu", net.conv(net("GlobalAveragePool", h), 12, 3, 1, name=f"{name}q"))
    h = net("Mul", h, net("Sigmoid", net.conv(s, 3, 12, 1, name=f"{name}e")))
    return net("Add", x, net.conv(h, 12, C, 1, name=f"{name}2"), name=f"{name}_add")


def gated_behind(net: Net, x: str, name: str) -> str:
    """Squeeze and excitation behind the last layer, as in SE-ResNet."""
    h = net("Relu", norm(net, net.conv(x, C, 6, name=f"{name}1"), 6, f"{name}1"))
    h = norm(net, net.conv(h, 6, C, name=f"{name}2"), C, f"{name}2")
    s = net("Relu", net.conv(net("GlobalAveragePool", h), C, 3, 1, name=f"{name}q"))
    h = net("Mul", h, net("Sigmoid", net.conv(s, 3, C, 1, name=f"{name}e")))
    return net("Relu", net("Add", h, x, name=f"{name}_add"))


def convnext(net: Net, x: str, name: str) -> str:
    """Channels last in between, LayerNormalization, LayerScale."""
    h = net.conv(x, C, C, group=C, name=f"{name}d")
    h = net("Transpose", h, perm=[0, 2, 3, 1])
    h = net("LayerNormalization", h, net.weight(C, scale=1.0), net.weight(C, scale=1.0))
    h = net("Add", net("MatMul", h, net.weight(C, 12), name=f"{name}1"), net.weight(12))
    h = net("Add", net("MatMul", _gelu(net, h), net.weight(12, C), name=f"{name}2"), net.weight(C))
    h = net("Mul", net.weight(C, scale=1.0), h)
    return net("Add", x, net("Transpose", h, perm=[0, 3, 1, 2]), name=f"{name}_add")


def _gelu(net: Net, x: str) -> str:
    half, one, root = (np.array(v, np.float32) for v in (0.5, 1.0, 2**0.5))
    return net("Mul", net("Mul", x, net("Add", net("Erf", net("Div", x, root)), one)), half)


BLOCKS = {
    # The groups that vanish, and the others that each takes along, for a block named a.
    basic: {"a1": set()},
    downsampling: {"a1": set()},
    bottleneck: {"a2": {"a1"}},
    inverted: {"a1": set()},
    gated: {"a1": {"aq"}},
    gated_behind: {"a1": {"aq"}},
    convnext: {"a1": set()},
}


def network(*blocks, seed: int = 0) -> onnx.ModelProto:
    """Image, stem, blocks named a, b, ..., classes."""
    net = Net({"x": ("N", 3, 8, 8)}, seed)
    x = net("Relu", net.conv("x", 3, C, name="stem"))
    for block, name in zip(blocks, "abcdef", strict=False):
        x = block(net, x, name)
    y = net("Flatten", net("GlobalAveragePool", net.conv(x, C, 16, 1, name="head")))
    return net.model(net("Gemm", y, net.weight(16, 5), net.weight(5), name="classes"))


def removal(studied: Studied, vanishing: set[str], ratio: float = 0.0, seed: int = 0) -> list[int]:
    """Units that go when some groups vanish, and a part of all others."""
    index = {group.name: i for i, group in enumerate(studied.groups)}
    along = studied.branches.vanishing_with({index[name] for name in vanishing})
    others = [group for i, group in enumerate(studied.groups) if i not in along]
    gone = [unit for i in along for unit in studied.groups[i].units]
    return gone + choose(others, ratio, seed)


def check(studied: Studied, removed: list[int]) -> onnx.ModelProto:
    masked, cut = studied.mask(removed), studied.cut(removed)
    assert_same_function(masked, cut)
    assert_differs(studied.proto, masked)
    onnx.checker.check_model(cut, full_check=True)
    assert_interface(studied.proto, cut)
    assert_costs(studied, removed, cut)
    return cut


def vanishing(studied: Studied) -> set[str]:
    return {studied.groups[g].name for g in studied.branches.vanishing}


@pytest.mark.parametrize("ratio", [0.0, 0.5])
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)
def test_a_branch_vanishes(block, ratio):
    studied = study(network(block))
    assert vanishing(studied) == set(BLOCKS[block])
    for name, along in BLOCKS[block].items():
        index = [group.name for group in studied.groups].index(name)
        taken = {studied.groups[g].name for g in studied.branches.vanishing_with({index})}
        assert taken == {name} | along
        cut = check(studied, removal(studied, {name}, ratio))
        names = {node.name for node in cut.graph.node}
        assert "a_add" in names
        assert not {n for n in names if n.startswith("a")} - {"a_add", "as"}


@pytest.mark.parametrize(
    "blocks",
    list(itertools.product(BLOCKS, repeat=2)),
    ids=lambda b: "-".join(x.__name__ for x in b),
)
def test_stacked_branches_vanish_in_any_combination(blocks):
    studied = study(network(*blocks))
    names = sorted(vanishing(studied))
    assert len(names) == 2
    for chosen in ({names[0]}, {names[1]}, set(names)):
        check(studied, removal(studied, chosen, 0.4))


def test_costs_of_one_group_alone_are_true_where_others_have_vanished():
    studied = study(network(basic, bottleneck, gated_behind, inverted))
    rng = np.random.default_rng(0)
    index = sorted(studied.branches.vanishing)
    for cost in (studied.macs, studied.params):
        for closed in itertools.product([False, True], repeat=len(index)):
            widths = rng.integers(1, studied.widths + 1)
            widths[[g for g, c in zip(index, closed, strict=True) if c]] = 0
            options = np.stack([studied.widths, np.ones_like(widths), np.zeros_like(widths)], 1)
            got = cost.alone(widths, options)
            for g, i in np.ndindex(*options.shape):
                if options[g, i] == 0 and g not in index:
                    continue
                changed = widths.copy()
                changed[g] = options[g, i]
                assert got[g, i] == pytest.approx(cost.at(changed), abs=0.51)


# What may not vanish


def refused(body, sizes: tuple[int | str, int | str] = (8, 8)) -> Studied:
    net = Net({"x": ("N", 3, *sizes)})
    x = net("Relu", net.conv("x", 3, C, name="stem"))
    x = body(net, x)
    y = net("Flatten", net("GlobalAveragePool", net.conv(x, C, 16, 1, name="head")))
    return study(net.model(net("Gemm", y, net.weight(16, 5), net.weight(5), name="classes")))


def _inner(net: Net, x: str) -> str:
    return net("Relu", net.conv(x, C, 6, name="a1"))


def _chain(net, x):
    return net.conv(_inner(net, x), 6, C, name="a2")


def _product(net, x):
    return net("Mul", x, net.conv(_inner(net, x), 6, C, name="a2"))


def _read_elsewhere(net, x):
    h = _inner(net, x)
    y = net("Add", x, net.conv(h, 6, C, name="a2"))
    return net("Add", net("Mul", y, net("Sigmoid", net.conv(h, 6, C, name="a3"))), x)


def _spread(net, x):
    """The other addend is smaller than the sum."""
    return net("Add", net("GlobalAveragePool", x), net.conv(_inner(net, x), 6, C, name="a2"))


def _unlike_borders(net, x):
    """The branch's constant passes a layer that pads with zeros."""
    h = net.conv(_inner(net, x), 6, C, name="a2")
    return net("Add", x, net("Conv", h, net.weight(C, 1, 3, 3), name="a3", group=C, pads=[1] * 4))


def _mixed_input(net, x):
    h = net("Concat", _inner(net, x), x, axis=1)
    return net("Add", x, net.conv(h, 6 + C, C, name="a2"))


def _subtracted(net, x):
    return net("Sub", x, net.conv(_inner(net, x), 6, C, name="a2"))


def _summed_over_positions(net, x):
    """What products of activations give depends on how many positions there are."""
    flat = net("Reshape", net.conv(_inner(net, x), 6, C, name="a2"), np.array([0, C, -1]))
    pairs = net("MatMul", flat, net("Transpose", flat, perm=[0, 2, 1]))
    return net("Add", x, net("Reshape", net("MatMul", pairs, flat), np.array([0, C, 8, 8])))


def test_branches_stay_where_sizes_are_open():
    """What holds at the sizes that were seen need not hold at others."""
    body = partial(basic, name="a")
    assert refused(body).branches.every
    assert not refused(body, sizes=("H", "W")).branches.every


@pytest.mark.parametrize(
    "body",
    [
        _summed_over_positions,
        _chain,
        _product,
        _read_elsewhere,
        _spread,
        _unlike_borders,
        _mixed_input,
        _subtracted,
    ],
    ids=lambda body: body.__name__,
)
def test_what_is_no_residual_branch_stays(body):
    assert not refused(body).branches.every


def test_of_two_branches_without_a_shortcut_one_stays():
    def body(net, x):
        h = net.conv(net("Relu", net.conv(x, C, 6, name="a1")), 6, C, name="a2")
        return net("Add", h, net.conv(net("Relu", net.conv(x, C, 6, name="b1")), 6, C, name="b2"))

    studied = refused(body)
    assert len(studied.branches.every) == 1
    check(studied, removal(studied, vanishing(studied), 0.5))


def test_what_two_branches_share_goes_with_both():
    def body(net, x):
        h = net("Relu", net.conv(x, C, 6, name="shared"))
        a = net.conv(net("Relu", net.conv(h, 6, 6, name="a1")), 6, C, name="a2")
        b = net.conv(net("Relu", net.conv(h, 6, 6, name="b1")), 6, C, name="b2")
        return net("Add", net("Add", x, a), b)

    studied = refused(body)
    assert vanishing(studied) == {"a1", "b1"}
    for chosen in ({"a1"}, {"b1"}, {"a1", "b1"}):
        cut = check(studied, removal(studied, chosen, 0.5))
        left = {node.name for node in cut.graph.node}
        assert ("shared" in left) == (len(chosen) < 2)


def test_a_branch_inside_of_a_branch():
    def body(net, x):
        h = net("Relu", net.conv(x, C, 6, name="a1"))
        h = net("Add", h, net.conv(net("Relu", net.conv(h, 6, 4, name="b1")), 4, 6, name="b2"))
        return net("Add", x, net.conv(h, 6, C, name="a2"))

    studied = refused(body)
    assert len(studied.branches.every) == 2
    for chosen in ({"b1"}, {"a1"}, {"a1", "b1"}):
        check(studied, removal(studied, chosen, 0.5))


def test_a_vector_that_is_read_in_a_branch_and_behind_it_counts_where_one_reader_is_left():
    """The mean of a normalisation is the bias of another layer, which outlives it."""
    net = Net({"x": ("N", 3, 8, 8)})
    shared, scale, shift = (net.constant(net.weight(3)) for _ in range(3))
    h = net.conv(net("Relu", net.conv("x", 3, 6, name="a1")), 6, 3, name="a2")
    h = net("BatchNormalization", h, scale, shift, shared, np.ones(3, np.float32), name="an")
    y = net("Conv", net("Add", "x", h, name="a_add"), net.weight(3, 3, 1, 1), shared, name="last")
    studied = study(net.model(net("Flatten", net("GlobalAveragePool", y))))
    for chosen in (set(), {"a1"}):
        check(studied, removal(studied, chosen, 0.3))


@pytest.mark.parametrize("ratio", [0.0, 0.3])
def test_a_vector_that_two_nodes_behind_a_branch_read_stays_one_constant(ratio):
    """The branch, which reads it first, vanishes; that of the others is written once."""
    net = Net({"x": ("N", 3, 8, 8)})
    shared = net.constant(net.weight(C))
    others = [net.constant(net.rng.uniform(0.5, 1.5, C).astype(np.float32)) for _ in range(3)]

    def normalised(x: str) -> str:
        return net("BatchNormalization", x, *others[:2], shared, others[2])

    x = net.conv("x", 3, C, name="stem")
    h = normalised(net.conv(net("Relu", net.conv(x, C, 6, name="a1")), 6, C, name="a2"))
    h = normalised(net("Relu", normalised(net("Add", x, h, name="a_add"))))
    y = net("Flatten", net("GlobalAveragePool", net.conv(h, C, 4, name="last")))
    studied = study(net.model(y))
    cut = check(studied, removal(studied, {"a1"}, ratio))
    means = {n.input[3] for n in cut.graph.node if n.op_type == "BatchNormalization"}
    assert len(means) == 1


def test_constants_that_are_not_finite_vary_along_no_axis():
    with np.errstate(all="raise"):
        assert channel_axis(np.array([[1.0, np.inf], [1.0, np.inf]])) is None
        assert channel_axis(np.array([[1.0, 2.0], [1.0, 2.0]])) == 1
