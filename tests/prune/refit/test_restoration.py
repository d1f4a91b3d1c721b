"""The walk over whole networks: what can be made up for exactly is made up for exactly."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
import pytest
from net import Net
from nets import in_two_groups, stem_and_branch
from small_models import images, run, weights_of

from onnx_reap.data import open_calibration
from onnx_reap.data.split import Samples
from onnx_reap.graph.analysis import Analysis, analyse
from onnx_reap.graph.edit.cut import cut_graph
from onnx_reap.graph.inputs import model_inputs
from onnx_reap.measure.activations import stream
from onnx_reap.options import Settings
from onnx_reap.progress import NoProgress
from onnx_reap.prune.context import Clock, Run
from onnx_reap.prune.form import Form
from onnx_reap.prune.refit.layerwise import repair

DATA = images(30, 6)
SETTINGS = Settings(positions=10_000)


def plain():
    n = Net({"x": ("N", 3, 6, 6)})
    h = n.block(n.block("x", 3, 8), 8, 6)
    return n.model(n.head(h, 6, 4))


def depthwise():
    n = Net({"x": ("N", 3, 6, 6)})
    h = n.block(n.block("x", 3, 8), 8, 8, group=8)
    return n.model(n.head(n.block(h, 8, 6, 1), 6, 4))


def transposed():
    n = Net({"x": ("N", 3, 6, 6)})
    h = n.block("x", 3, 8)
    h = n.node("Relu", n.node("ConvTranspose", h, n.random(8, 6, 2, 2), strides=[2, 2]))
    return n.model(n.head(n.conv(h, 6, 5), 5, 4))


def dense():
    n = Net({"x": ("N", 3, 6, 6)})
    h = n.node("Relu", n.gemm(n.node("GlobalAveragePool", n.node("Exp", "x")), 3, 8))
    return n.model(n.gemm(h, 8, 4))


def products(*, add: bool, behind: str = "Relu"):
    n = Net({"x": ("N", 7)})
    h = n.node("Add", n.node("MatMul", "x", n.random(7, 8)), n.random(8))
    y = n.node("MatMul", n.node(behind, h), n.random(8, 4))
    y = n.node("Add", n.random(4), y) if add else y
    return n.model(y)


def mobile():
    """Inverted residual: expansion, depthwise, linear projection, shortcut."""
    n = Net({"x": ("N", 3, 6, 6)})
    stem = n.conv("x", 3, 6)
    h = n.block(n.block(stem, 6, 12, 1), 12, 12, group=12)
    h = n.node("Add", stem, n.norm(n.conv(h, 12, 6, 1, bias=False), 6))
    return n.model(n.head(n.block(h, 6, 5, 1), 5, 4))


NETS = {
    "plain": plain,
    "residual": partial(stem_and_branch, 4),
    "depthwise": depthwise,
    "grouped": partial(in_two_groups, 4),
    "transposed": transposed,
    "inverted residual": mobile,
    "matmul, bias in an Add": partial(products, add=True),
    "matmul without bias": partial(products, add=False),
}


def analysed(model, data) -> Analysis:
    inputs = model_inputs(model)
    return analyse(model, inputs, open_calibration(data, inputs))


def data_for(model: onnx.ModelProto) -> np.ndarray:
    rank = len(model.graph.input[0].type.tensor_type.shape.dim)
    return DATA if rank == 4 else DATA.reshape(-1, 108)[:, :7].copy()


def pairs_of(group) -> list[tuple[int, int]]:
    """Two units of every part of a group."""
    parts = np.zeros(group.width) if group.parts is None else np.asarray(group.parts)
    return [tuple(np.flatnonzero(parts == part)[[0, 2]].tolist()) for part in np.unique(parts)]


def with_twins(model, analysis: Analysis) -> tuple[onnx.ModelProto, list[int]]:
    """Make one channel of each part of each group equal another; return these units too."""
    weights = {name: value.copy() for name, value in weights_of(model).items()}
    twins = []
    for group in analysis.groups:
        for one, other in pairs_of(group):
            twins.append(group.units[other])
            for binding in analysis.flow.bindings:
                units = analysis.flow.units_along(binding.tensor, binding.tensor_axis)
                if binding.blocks > 1 or group.units[one] not in units:
                    continue
                view = np.moveaxis(weights[binding.constant], binding.constant_axis, 0)
                view[units == group.units[other]] = view[units == group.units[one]]
    return with_values(model, weights), twins


def with_values(model: onnx.ModelProto, weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    out = onnx.ModelProto()
    out.CopyFrom(model)
    for tensor in out.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(weights[tensor.name], tensor.name))
    return out


def cut_and_refit(analysis: Analysis, removed, data, settings=SETTINGS):
    """Return outputs of the original, the cut and the refitted model, and what repair returns."""
    feed = data if isinstance(data, dict) else {"x": data}
    pruned = analysis.copy()
    cut_graph(pruned, analysis.probe, analysis.flow, removed, analysis.branches)
    cut = run(pruned.to_proto(), feed)[0]
    calibration = open_calibration(data, model_inputs(analysis.light.whole()))
    samples = Samples(calibration, calibration, None)
    fitted, notes = repair(
        Run(Form(analysis), samples, settings, NoProgress(), Clock()), pruned, removed
    )
    out = pruned.to_proto()
    onnx.checker.check_model(out, full_check=True)
    return (run(analysis.light.whole(), feed)[0], cut, run(out, feed)[0]), out, fitted, notes


@pytest.fixture
def weak_damping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnx_reap.prune.refit.least_squares.DAMPINGS", (1e-9,))


def far(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(a).max())


@pytest.mark.parametrize("name", list(NETS))
def test_a_channel_that_equals_another_is_made_up_for_exactly(name, weak_damping):
    model = NETS[name]()
    data = data_for(model)
    model, twins = with_twins(model, analysed(model, data))
    analysis = analysed(model, data)
    known = {unit for group in analysis.groups for unit in group.units}
    assert twins and set(twins) <= known
    (want, cut, got), _, fitted, notes = cut_and_refit(analysis, twins, data)
    assert far(want, cut) > 0.02  # the oracle notices a cut
    assert far(want, got) < 2e-3  # float32 rows and weights, layer after layer
    assert notes == []
    assert all(f.error_after <= f.error_before for f in fitted.values())


@pytest.mark.parametrize("behind", ["Relu", "Identity"])
@pytest.mark.parametrize("add", [True, False])
def test_a_constant_channel_ends_up_in_the_bias_of_a_product(add, behind, weak_damping):
    model = products(add=add, behind=behind)
    weights = {name: value.copy() for name, value in weights_of(model).items()}
    weights["c0"][:, 3], weights["c1"][3] = 0, 2.5
    model = with_values(model, weights)
    analysis = analysed(model, data_for(model))
    removed = [analysis.groups[0].units[3]]
    (want, cut, got), out, _, _ = cut_and_refit(analysis, removed, data_for(model))
    assert far(want, cut) > 0.02 and far(want, got) < 1e-4
    before, after = ([n.op_type for n in m.graph.node] for m in (model, out))
    assert after.count("Add") == before.count("Add") + (not add)
    assert [o.name for o in out.graph.output] == [o.name for o in model.graph.output]


def test_a_constant_channel_ends_up_in_a_bias_that_was_not_there(weak_damping):
    n = Net({"x": ("N", 3, 6, 6)})
    h = n.conv("x", 3, 8, 1)
    y = n.conv(n.node("Relu", h), 8, 4, 1, bias=False)
    n.weights["c0"][3], n.weights["c1"][3] = 0, 2.5
    analysis = analysed(n.model(y), DATA)
    removed = [analysis.groups[0].units[3]]
    (want, cut, got), out, _, _ = cut_and_refit(analysis, removed, DATA)
    assert far(want, cut) > 0.02 and far(want, got) < 1e-4
    assert [len(node.input) for node in out.graph.node] == [3, 1, 3]


def test_a_weight_that_is_also_used_otherwise_is_left_alone_and_noted():
    n = Net({"x": ("N", 3, 6, 6)})
    h, weight = n.block("x", 3, 8), n.random(8, 8, 1, 1, scale=0.3)
    y = n("Conv", h, weight, name="straight")
    y = n("Add", y, n("ConvTranspose", h, weight, name="turned"))
    analysis = analysed(n.model(n.head(y, 8, 4)), DATA)
    group = next(g for g in analysis.groups if "turned" in g.consumers)
    _, out, fitted, notes = cut_and_refit(analysis, group.units[:2], DATA)
    why = "was not refitted: its weight is also used in another way"
    assert {f"straight {why}", f"turned {why}"} <= set(notes)
    assert not {"straight", "turned"} & set(fitted)
    kept = np.delete(np.delete(n.weights[weight], [0, 1], 0), [0, 1], 1)
    assert np.array_equal(weights_of(out)[weight], kept)


def test_a_shared_bias_constant_is_no_longer_shared_after_the_refit():
    n = Net({"x": ("N", 3, 6, 6)})
    h, bias = n.block("x", 3, 8), n.random(5, scale=0.5)
    a, b = (n.node("Conv", h, n.random(5, 8, 1, 1), bias, name=f"side{i}") for i in range(2))
    y = n.head(n.node("Concat", a, b, axis=1), 10, 4)
    analysis = analysed(n.model(y), DATA)
    group = next(g for g in analysis.groups if g.width == 8)
    (want, cut, got), out, fitted, _ = cut_and_refit(analysis, group.units[:3], DATA)
    assert {"side0", "side1"} <= set(fitted)
    names = [node.input[2] for node in out.graph.node if node.name.startswith("side")]
    assert len(set(names)) == 2
    values = weights_of(out)
    assert not np.allclose(values[names[0]], values[names[1]])
    assert np.square(want - got).sum() < 0.5 * np.square(want - cut).sum()


@pytest.mark.parametrize("name", ["residual", "inverted residual"])
def test_a_frontier_on_disk_gives_the_identical_result(name, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    analysis = analysed(NETS[name](), DATA)
    removed = [unit for group in analysis.groups for unit in group.units[:2]]
    *_, kept, _, _ = cut_and_refit(analysis, removed, DATA)
    spilled = []
    save = np.save
    monkeypatch.setattr(np, "save", lambda path, array: (spilled.append(path), save(path, array)))
    monkeypatch.setattr(stream, "MEMORY", 0)
    *_, stored, _, _ = cut_and_refit(analysis, removed, DATA)
    assert spilled  # the oracle: the disk was used
    assert stored.SerializeToString(deterministic=True) == kept.SerializeToString(
        deterministic=True
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", list(NETS))
def test_errors_never_rise_with_dampings_that_are_chosen(name):
    model = NETS[name]()
    data = data_for(model)
    analysis = analysed(model, data)
    removed = [group.units[i] for group in analysis.groups for i in sum(pairs_of(group), ())]
    (want, cut, got), _, fitted, _ = cut_and_refit(analysis, removed, data)
    assert fitted
    assert all(f.error_after <= f.error_before for f in fitted.values())
    assert np.square(want - got).sum() < np.square(want - cut).sum()
