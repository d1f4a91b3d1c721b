"""What gets a gradient, and what must not."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from differences import analysed, assert_close, facts_of, gradients_of, part_of
from net import Net
from small_models import run

from onnx_reap.graph.edit.cut import cut_graph, kept_positions
from onnx_reap.measure.autodiff.backward import Facts, reached, with_errors, with_gradients
from onnx_reap.measure.autodiff.tape import PREFIX
from onnx_reap.onnxio.light_model import LightModel
from onnx_reap.prune.refit.layerwise import as_cut


def prepared(net: Net, *goals: str, wanted, opset: int = 17):
    """Return a part, what is known of it, and what to feed."""
    rng = np.random.default_rng(0)
    data = {
        name: rng.standard_normal(shape).astype(np.float32) for name, shape in net.inputs.items()
    }
    net.opset = opset
    analysis = analysed(net.model(*goals), data)
    fed = data | {name: net.weights[name] for name in wanted}
    return part_of(analysis.model, fed, goals), facts_of(analysis), fed


def layer_and(op: str, **attributes):
    """A convolution, and some operator behind it."""
    net = Net({"x": (2, 4, 6, 6)})
    weight = net.random(4, 4, 1, 1)
    return net, weight, net.node(op, net.node("Conv", "x", weight), **attributes)


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("LpPool", {"kernel_shape": [2, 2]}),
        ("Hardmax", {"axis": 1}),
        ("Round", {}),
        ("ReduceProd", {"axes": [2], "keepdims": 1}),
    ],
)
def test_operators_without_a_rule_let_nothing_through(op, attributes):
    net, weight, y = layer_and(op, **attributes)
    behind = net.random(4, 1, 1, 1)
    last = net.node("Conv", y, behind, group=4)
    part, facts, _ = prepared(net, last, wanted=[weight, behind])
    assert reached(LightModel(part), facts, [weight, behind]) == {behind}


def test_both_ways_must_be_open():
    net = Net({"x": (2, 4, 6, 6)})
    weight = net.random(4, 4, 1, 1)
    h = net.node("Conv", "x", weight)
    y = net.node("Add", h, net.node("Hardmax", h, axis=1))
    part, facts, _ = prepared(net, y, wanted=[weight])
    assert reached(LightModel(part), facts, [weight]) == set()


@pytest.mark.parametrize(("opset", "open_"), [(10, False), (11, True), (12, True), (21, True)])
def test_old_operator_sets_are_refused(opset, open_):
    net, weight, y = layer_and("Relu")
    part, facts, _ = prepared(net, y, wanted=[weight], opset=opset)
    assert reached(LightModel(part), facts, [weight]) == ({weight} if open_ else set())


def test_operators_of_other_domains_are_refused():
    net, weight, y = layer_and("Relu")
    part, facts, _ = prepared(net, y, wanted=[weight])
    part.graph.node[-1].domain = "com.microsoft"
    assert reached(LightModel(part), facts, [weight]) == set()


@pytest.mark.parametrize("op", ["PRelu", "Clip", "BatchNormalization"])
def test_places_that_a_rule_does_not_cover_are_refused(op):
    net = Net({"x": (2, 4, 6, 6)})
    weight = net.random(1 if op == "Clip" else 4, 4, 1, 1)
    h = net.node("Conv", "x", weight, net.constant(np.full(len(net.weights[weight]), 9.0)))
    if op == "PRelu":
        y = net.node("PRelu", "x", h)
    elif op == "Clip":
        pooled = net.node("GlobalAveragePool", h, name="pooled")
        first = net.node("Gather", net.node("Flatten", pooled), net.constant(np.array(0)), axis=0)
        y = net.node("Clip", "x", "", net.node("Squeeze", first))
    else:
        pooled = net.node("Flatten", net.node("GlobalAveragePool", h))
        mean = net.node("Gather", pooled, net.constant(np.array(0)), axis=0)
        ones = [net.constant(np.ones(4)) for _ in range(3)]
        y = net.node("BatchNormalization", "x", *ones[:2], mean, ones[2])
    part, facts, _ = prepared(net, y, wanted=[weight])
    assert reached(LightModel(part), facts, [weight]) == set()


def test_a_normalization_whose_mean_is_computed_lets_nothing_through():
    net = Net({"x": (2, 4, 6, 6), "mean": (4,)})
    weight = net.random(4, 4, 1, 1)
    ones = [net.constant(np.ones(4)) for _ in range(3)]
    y = net.node("BatchNormalization", net.node("Conv", "x", weight), *ones[:2], "mean", ones[2])
    part, facts, _ = prepared(net, y, wanted=[weight])
    assert reached(LightModel(part), facts, [weight]) == set()


def test_dropout_that_is_told_not_to_train_lets_gradients_through():
    net, weight, y = layer_and("Relu")
    y = net.node("Dropout", y, net.constant(np.array(0.5)), net.constant(np.array(False)))
    part, facts, _ = prepared(net, y, wanted=[weight])
    assert reached(LightModel(part), facts, [weight]) == {weight}


@pytest.mark.parametrize("how", ["normalization", "dropout"])
def test_operators_that_train_are_refused(how):
    net, weight, y = layer_and("Relu")
    if how == "normalization":
        y = net.norm(y, 4)
    else:
        y = net.node("Dropout", y, net.constant(np.array(0.5)), net.constant(np.array(True)))
    part, facts, _ = prepared(net, y, wanted=[weight])
    if how == "normalization":
        assert reached(LightModel(part), facts, [weight]) == {weight}
        part.graph.node[-1].attribute.append(oh.make_attribute("training_mode", 1))
    assert reached(LightModel(part), facts, [weight]) == set()


def test_gemms_of_two_activations_are_refused():
    net = Net({"x": (3, 4)})
    weight = net.random(4, 5)
    h = net.node("MatMul", "x", weight)
    y = net.node("Gemm", h, h, transB=1)
    part, facts, _ = prepared(net, y, wanted=[weight])
    assert reached(LightModel(part), facts, [weight]) == set()


def test_what_a_body_reads_is_refused():
    """The body of an If reads the layer's result, which is also passed on outside."""
    net = Net({"x": (2, 4, 6, 6)})
    weight = net.random(4, 4, 1, 1)
    h = net.node("Conv", "x", weight)
    bodies = [
        oh.make_graph(
            [oh.make_node(op, [h], [f"{op}_out"])],
            op,
            [],
            [oh.make_tensor_value_info(f"{op}_out", onnx.TensorProto.FLOAT, None)],
        )
        for op in ("Relu", "Neg")
    ]
    yes = net.node("Greater", net.node("ReduceSum", "x", keepdims=0), net.constant(np.array(0.0)))
    chosen = net.node("If", yes, then_branch=bodies[0], else_branch=bodies[1])
    part, facts, _ = prepared(net, net.node("Add", h, chosen), wanted=[weight])
    assert reached(LightModel(part), facts, [weight]) == set()


def test_sizes_do_not_pass_gradients():
    """A layer whose result is only measured gets none; one that is measured too gets its own."""
    net = Net({"x": (2, 4, 6, 6)})
    one, two = net.random(4, 4, 1, 1), net.random(4, 4, 1, 1)
    size = net.node("Shape", net.node("Conv", "x", one))
    y = net.node("Reshape", net.node("Conv", "x", two), size)
    part, facts, fed = prepared(net, y, wanted=[one, two])
    assert reached(LightModel(part), facts, [one, two]) == {two}
    gradients, slopes, _ = gradients_of(part, facts, fed, [two])
    assert_close(gradients[two], slopes[two], 2e-3)  # float32 outputs, steps of 1/64


def test_inputs_that_are_left_out_block_nothing():
    """An empty name stands for no tensor, wherever it is."""
    net = Net({"x": (2, 4, 6, 6)})
    weight = net.random(4, 4, 1, 1)
    h = net.node("Dropout", net.node("Conv", "x", weight))
    net.nodes[-1].output.append("")
    y = net.node("Clip", h, "", net.constant(np.array(1.0)))
    part, facts, _ = prepared(net, y, wanted=[weight])
    assert reached(LightModel(part), facts, [weight]) == {weight}


def test_several_goals_add_up():
    """One goal lies on the way to the other."""
    net = Net({"x": (2, 4, 6, 6)})
    one, two = net.random(4, 4, 1, 1), net.random(3, 4, 1, 1)
    middle = net.node("Tanh", net.node("Conv", "x", one))
    end = net.node("Conv", middle, two)
    part, facts, fed = prepared(net, middle, end, wanted=[one, two])
    rng = np.random.default_rng(1)
    goals = {middle: 0.5, end: 2.0}
    given = dict(zip(goals, run(part, fed), strict=True))
    targets = {n: rng.standard_normal(y.shape).astype(np.float32) for n, y in given.items()}
    both = with_gradients(LightModel(part), facts, goals, [one, two])
    fed_both = fed | {both.targets[name]: target for name, target in targets.items()}
    of_one, of_two = run(both.model.whole(), fed_both)
    errors = run(with_errors(LightModel(part), facts, goals).model.whole(), fed_both)
    parts = []
    for name, weight in goals.items():
        alone = part if name == end else part_without(part, end, two)
        wanted = [one, two] if name == end else [one]
        trainer = with_gradients(LightModel(alone), facts, {name: weight}, wanted)
        fed_alone = {n: x for n, x in fed.items() if n != two or name == end}
        fed_alone[trainer.targets[name]] = targets[name]
        parts.append(run(trainer.model.whole(), fed_alone))
    for error, (name, weight) in zip(errors, goals.items(), strict=True):
        squares = np.square(given[name].astype(np.float64) - targets[name])
        assert error == pytest.approx(weight * squares.sum(), rel=1e-4)
    close = {"rtol": 1e-4, "atol": 1e-4}  # float32 sums in another order
    np.testing.assert_allclose(of_one, parts[0][0] + parts[1][0], **close)
    np.testing.assert_allclose(of_two, parts[1][1], **close)


def part_without(part: onnx.ModelProto, output: str, weight: str) -> onnx.ModelProto:
    out = onnx.ModelProto()
    out.CopyFrom(part)
    for values in (out.graph.node, out.graph.output, out.graph.input):
        for value in list(values):
            names = value.output if isinstance(value, onnx.NodeProto) else [value.name]
            if output in names or weight in names:
                values.remove(value)
    return out


def smooth(net: Net, x: str, cin: int, cout: int, **attributes) -> str:
    """A layer without kinks, which steps would cross."""
    return net.node("Tanh", net.norm(net.conv(x, cin, cout, **attributes), cout))


def test_shapes_may_be_those_before_a_cut():
    """Sizes of channels in the facts are too large; gradients are those of the cut model."""
    net = Net({"x": (2, 3, 5, 5)})
    h = smooth(net, "x", 3, 8)
    h = smooth(net, h, 8, 8, group=8)  # depthwise
    h = smooth(net, h, 8, 16, group=8)  # two of each
    h = net.node("Concat", h, smooth(net, h, 16, 8, group=2), axis=1)
    h = smooth(net, h, 24, 8, strides=[2, 2])
    gate = net.node("Sigmoid", net.conv(net.node("GlobalAveragePool", h), 8, 8, 1))
    y = net.head(net.node("Mul", h, gate), 8, 4)
    gradients, slopes = behind_a_cut(net, y)
    assert len(gradients) == 14
    largest = max(np.abs(slope).max() for slope in slopes.values())
    for name in gradients:  # curvature over steps of 1/64
        np.testing.assert_allclose(gradients[name], slopes[name], rtol=0, atol=5e-3 * largest)


def behind_a_cut(net: Net, y: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return gradients by all parameters of what is left after a cut, and differences."""
    part, facts, fed, wanted, _ = cut(net, y)
    gradients, slopes, _ = gradients_of(part, facts, fed, wanted)
    return gradients, slopes


def cut(net: Net, y: str):
    """Cut two units of every part; return the rest, stale facts, what to feed, all parameters."""
    model = net.model(y)
    data = {"x": np.random.default_rng(2).standard_normal(net.inputs["x"]).astype(np.float32)}
    analysis = analysed(model, data)
    removed = [unit for group in analysis.groups for unit in removable(group)]
    assert removed
    pruned = analysis.copy()
    cut_graph(pruned, analysis.probe, analysis.flow, removed, analysis.branches)
    kept = kept_positions(analysis.flow, removed)
    linears = [as_cut(linear, kept) for linear in analysis.flow.linears]
    facts = Facts(analysis.probe.shapes, {layer.y: layer for layer in linears})
    weights = {
        tensor.name: tensor.values
        for layer in linears
        for tensor in pruned.node(layer.node).inputs[1:3]
    }
    fed = data | weights
    part = part_of(pruned, fed, [y])
    wanted = sorted(weights)
    assert reached(LightModel(part), facts, wanted) == set(wanted)
    return part, facts, fed, wanted, facts_of(analysed(pruned.to_proto(), data))


def removable(group) -> list[int]:
    """Two units of every part of a group."""
    parts = np.zeros(group.width) if group.parts is None else np.asarray(group.parts)
    return [group.units[i] for p in np.unique(parts) for i in np.flatnonzero(parts == p)[:2]]


def test_the_oracle_notices_a_doubled_and_a_shifted_gradient():
    net, weight, y = layer_and("Tanh")
    part, facts, fed = prepared(net, y, wanted=[weight])
    gradients, slopes, _ = gradients_of(part, facts, fed, [weight])
    assert_close(gradients[weight], slopes[weight], 5e-3)  # curvature over steps of 1/64
    for wrong in (2 * gradients[weight], np.roll(gradients[weight], 1, 0)):
        with pytest.raises(AssertionError):
            assert_close(wrong, slopes[weight], 5e-3)


def test_the_part_is_left_as_it_was():
    net, weight, y = layer_and("Relu")
    part, facts, _ = prepared(net, y, wanted=[weight])
    before = part.SerializeToString()
    trainer = with_gradients(LightModel(part), facts, {y: 1.0}, [weight])
    assert part.SerializeToString() == before
    forward = len(part.graph.node)
    assert list(trainer.model.whole().graph.node[:forward]) == list(part.graph.node)
    assert all(n.output[0].startswith(PREFIX) for n in trainer.model.whole().graph.node[forward:])


def test_a_matmul_behind_a_cut():
    net = Net({"x": (2, 3, 5)})
    h = net.node("Tanh", net.node("MatMul", "x", net.random(5, 8)))
    y = net.node(
        "MatMul", net.node("Tanh", net.node("MatMul", h, net.random(8, 6))), net.random(6, 4)
    )
    gradients, slopes = behind_a_cut(net, y)
    assert len(gradients) == 3
    for name in gradients:
        assert_close(gradients[name], slopes[name], 5e-3)  # curvature over steps of 1/64


def test_attention_in_front_of_a_cut():
    """What is cut is inside the last two layers; heads are split off, and put together again."""
    net = Net({"x": (2, 3, 6)})
    ones, zeros = net.constant(np.linspace(0.5, 1.5, 8)), net.constant(np.zeros(8))
    heads = net.constant(np.array([0, 0, 2, -1]))
    h = net.node("Tanh", net.node("MatMul", "x", net.random(6, 8, scale=0.4)))
    h = net.node("LayerNormalization", h, ones, zeros)
    query, key, value = (
        net.node(
            "Transpose",
            net.node("Reshape", net.node("MatMul", h, net.random(8, 8, scale=0.3)), heads),
            perm=[0, 2, 1, 3],
        )
        for _ in range(3)
    )
    scores = net.node("MatMul", query, net.node("Transpose", key, perm=[0, 1, 3, 2]))
    mixed = net.node("MatMul", net.node("Softmax", scores, axis=-1), value)
    together = net.node("Transpose", mixed, perm=[0, 2, 1, 3])
    flat = net.node("Reshape", together, net.constant(np.array([0, 0, -1])))
    h = net.node("LayerNormalization", net.node("Add", h, flat), ones, zeros)
    hidden = net.node("Softplus", net.node("MatMul", h, net.random(8, 12, scale=0.3)))
    y = net.node("Add", h, net.node("MatMul", hidden, net.random(12, 8, scale=0.3)))
    gradients, slopes = behind_a_cut(net, y)
    assert len(gradients) == 6
    largest = max(np.abs(slope).max() for slope in slopes.values())
    for name in gradients:  # curvature over steps of 1/64
        np.testing.assert_allclose(gradients[name], slopes[name], rtol=0, atol=5e-3 * largest)


def halves(net: Net, h: str) -> str:
    one, other = net.node("Split", h, net.constant(np.array([8, 8])), axis=1, outputs=2)
    return net.node("Concat", other, net.node("Neg", one), axis=1)


def vectors(net: Net, op: str, h: str, *given, **attributes) -> str:
    return net.node(op, h, *(net.constant(np.array(v)) for v in given), **attributes)


BETWEEN = {
    "Split": halves,
    "Pad": lambda n, h: vectors(n, "Pad", h, [0, 0, 1, -1, 0, 0, 0, 2]),
    "Slice": lambda n, h: vectors(n, "Slice", h, [1, -1], [5, -6], [2, 3], [2, -1]),
    "Gather": lambda n, h: vectors(n, "Gather", h, [2, 0, 3], axis=3),
    "DepthToSpace": lambda n, h: n.node("DepthToSpace", h, blocksize=2, mode="CRD"),
    "SpaceToDepth": lambda n, h: n.node("SpaceToDepth", h, blocksize=2),
    "MaxPool": lambda n, h: n.node("MaxPool", h, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
    "AveragePool": lambda n, h: n.node("AveragePool", h, kernel_shape=[2, 2], strides=[2, 2]),
    "GlobalMaxPool": lambda n, h: n.node("GlobalMaxPool", h),
    "Resize": lambda n, h: n.node(
        "Resize", h, "", n.constant(np.array([1.0, 1.0, 2.0, 1.5])), mode="linear"
    ),
    "ReduceMean": lambda n, h: n.node("ReduceMean", h, axes=[2, 3]),
    "ReduceSum": lambda n, h: n.node("Mul", vectors(n, "ReduceSum", h, [-1]), h),
    "Softmax": lambda n, h: n.node("Softmax", h, axis=2),
    "InstanceNormalization": lambda n, h: n.node(
        "InstanceNormalization", h, n.random(16), n.random(16)
    ),
    "PRelu": lambda n, h: n.node("PRelu", h, n.random(16, 1, 1)),
    "Pow": lambda n, h: n.node("Pow", h, n.constant(np.array(2.0))),
    "Where": lambda n, h: n.node("Where", n.constant(np.eye(6) > 0), h, n.constant(np.array(-1.0))),
}


@pytest.mark.parametrize("case", list(BETWEEN))
def test_facts_before_a_cut_are_as_good_as_those_behind_it(case):
    """Sizes of channels in the facts are too large for these operators, and so is the batch."""
    net = Net({"x": (2, 3, 6, 6)})
    h = BETWEEN[case](net, net.node("Tanh", net.conv("x", 3, 16)))
    channels = {"DepthToSpace": 4, "SpaceToDepth": 64}.get(case, 16)
    part, stale, fed, wanted, fresh = cut(net, net.conv(h, channels, 3, 1))
    fed["x"] = fed["x"][:1]
    y = run(part, fed)[0]
    found = []
    for facts in (stale, fresh):
        trainer = with_gradients(LightModel(part), facts, {part.graph.output[0].name: 1.0}, wanted)
        (target,) = trainer.targets.values()
        found.append(run(trainer.model.whole(), {**fed, target: np.zeros_like(y)}))
    assert len(wanted) == 4
    for one, other in zip(*found, strict=True):
        assert np.abs(one).max() > 1e-3
        np.testing.assert_array_equal(one, other)
