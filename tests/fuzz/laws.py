"""What must hold of every cut of any model; all is compared here, with onnxruntime."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from fuzz.graphs import Drawn, runs, with_batch
from onnx import numpy_helper

from onnx_reap.api import inspect, reap
from onnx_reap.errors import ReapError
from onnx_reap.graph.analysis import Analysis, count_parameters, macs_left
from onnx_reap.graph.edit.cut import cut_graph
from onnx_reap.graph.edit.mask import mask_graph
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.reading import is_floating
from onnx_reap.graph.labels.labels import FROZEN
from onnx_reap.onnxio.extract import with_outputs
from onnx_reap.onnxio.light_model import LightModel
from onnx_reap.onnxio.session import run, session
from onnx_reap.options import Settings
from onnx_reap.progress import NoProgress
from onnx_reap.prune import apply
from onnx_reap.prune.context import Run, open_run

CPU = ["CPUExecutionProvider"]
TOLERANCE = 2e-4  # relative to the largest entry: roundings of some ten layers in float32
AMPLIFIED = 100  # times what a change of the inputs and weights by a millionth does


@dataclass(frozen=True)
class Trial:
    """One removal from one model.

    Attributes
    ----------
    removed : tuple of int
        Units.
    widths : (groups,) int array
        Units that stay.
    """

    work: Run
    removed: tuple[int, ...]
    widths: np.ndarray

    @property
    def analysis(self) -> Analysis:
        return self.work.analysis

    def cut(self) -> Model:
        model, a = self.analysis.copy(), self.analysis
        cut_graph(model, a.probe, a.flow, self.removed, a.branches)
        return model

    def mask(self) -> onnx.ModelProto:
        """The model as it was given, with zeros in the weights that read what goes."""
        masked = self.analysis.copy()
        before = {name: constant.values for name, constant in masked.constants().items()}
        mask_graph(masked, self.analysis.flow, self.removed)
        after = {name: constant.values for name, constant in masked.constants().items()}
        changed = {n: values for n, values in after.items() if values is not before[n]}
        read = {linear.weight for linear in self.analysis.flow.linears if not linear.depthwise}
        read |= {product.weight for product in self.analysis.flow.products}
        assert changed.keys() <= read, "the mask touches more than consumers' weights"
        for name, values in changed.items():
            same = (values == before[name]) | (values == 0)
            assert same.all(), "the mask does more than write zeros"
        return apply.masked_model(self.analysis, self.removed)


def shapes_of(drawn: Drawn) -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in drawn.feeds.items()}


def draw_trial(drawn: Drawn, pick: random.Random) -> Trial:
    """Analyse a model, and draw how many and which units go."""
    settings = Settings.make({"samples": 4, "input_shapes": shapes_of(drawn)})
    work = open_run(drawn.model, None, settings, NoProgress())
    groups, branches = work.analysis.groups, work.analysis.branches
    vanished = [g for g in sorted(branches.vanishing) if pick.random() < 0.4]
    gone = branches.vanishing_with(vanished)
    removed: list[int] = []
    widths = np.zeros(len(groups), np.int64)
    for index, group in enumerate(groups):
        parts = np.array(group.parts or [0] * group.width)
        least = min(np.bincount(parts)[np.unique(parts)])
        count = least if index in gone else pick.randrange(least)
        for part in np.unique(parts):
            units = np.array(group.units)[parts == part].tolist()
            removed += units if index in gone else pick.sample(units, count)
        widths[index] = 0 if index in gone else group.width - count * len(np.unique(parts))
    return Trial(work, tuple(removed), widths)


def check_reasons(analysis: Analysis) -> None:
    """Every channel is in a group, or is frozen for a reason."""
    flow = analysis.flow
    grouped = {unit for group in analysis.groups for unit in group.units}
    told = {row.node: 0 for row in analysis.frozen}
    for row in analysis.frozen:
        assert row.reason and row.cause, row
        told[row.node] += row.channels
    for node, units in flow.makers.items():
        stuck = int((units == FROZEN).sum())
        assert told.get(node, 0) == stuck, f"{node}: {stuck} frozen, {told.get(node)} told"
        left = set(units.tolist()) - grouped - {FROZEN}
        assert not left, f"{node}: channels in no group"


def check_same_function(drawn: Drawn, trial: Trial) -> None:
    """The cut model is the masked one, at every batch that the original runs at."""
    masked, cut = trial.mask(), trial.cut().to_proto()
    for batch in (1, 2, 3) if trial.analysis.fixed_batch is None else (2,):
        feeds = (
            with_batch(drawn.feeds, batch) if trial.analysis.fixed_batch is None else drawn.feeds
        )
        compare(masked, cut, feeds)
    more = {v.name: _open_sizes(v) for v in drawn.model.graph.input if v.name in drawn.feeds}
    if any(1 in each for each in more.values()):
        feeds = with_batch(drawn.feeds, len(next(iter(drawn.feeds.values()))), more)
        if runs(drawn.model, feeds):
            compare(masked, cut, feeds)


def _open_sizes(value: onnx.ValueInfoProto) -> list[int]:
    """One for every open size but the first, else zero."""
    return [int(d.dim_param != "") for d in value.type.tensor_type.shape.dim[1:]]


def compare(masked: onnx.ModelProto, cut: onnx.ModelProto, feeds: Mapping) -> None:
    want = run(session(masked, CPU, optimize=False), None, feeds)
    have = run(session(cut, CPU, optimize=False), None, feeds)
    assert want.keys() == have.keys()
    for name, values in want.items():
        assert values.shape == have[name].shape, f"{name}: {have[name].shape} for {values.shape}"
        assert values.dtype == have[name].dtype, f"{name}: {have[name].dtype}"
    errors = _distances(want, have)
    if not all(error <= TOLERANCE for error in errors.values()):
        felt = _sensitivities(masked, feeds, want)
        for name, error in errors.items():
            assert error <= TOLERANCE + AMPLIFIED * felt[name], (
                f"{name}: off by {error:.2g}, rounding by {felt[name]:.2g}"
            )


def _distances(want: Mapping, have: Mapping) -> dict[str, float]:
    """Largest differences by output, relative to the largest entry; NaN where both have it is 0."""
    found = {}
    for name, values in want.items():
        a, b = values.astype(np.float64), have[name].astype(np.float64)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        scale = np.abs(a[np.isfinite(a)]).max(initial=1e-6)
        found[name] = float(np.where(same, 0.0, np.abs(a - b)).max(initial=0.0) / scale)
    return found


def _sensitivities(model: onnx.ModelProto, feeds: Mapping, want: Mapping) -> dict[str, float]:
    """What small changes of all weights do: jumps and cancellations make much of roundings."""
    worst = dict.fromkeys(want, 0.0)
    for seed in range(6):
        rng = np.random.default_rng(seed)
        noisy = onnx.ModelProto()
        noisy.CopyFrom(model)
        nodes = noisy.graph.node
        scales = {name for n in nodes if n.op_type == "Upsample" for name in n.input[1:]}  # >= 1
        made = [n for n in nodes if n.op_type == "Constant" and scales.isdisjoint(n.output)]
        tensors = [tensor for tensor in noisy.graph.initializer if tensor.name not in scales]
        tensors += [a.t for n in made for a in n.attribute]
        for tensor in tensors:
            array = numpy_helper.to_array(tensor)
            if array.dtype == np.float32 and array.size > 1:
                noise = 1 + 1e-6 * rng.standard_normal(array.shape)
                new = numpy_helper.from_array((array * noise).astype(np.float32), tensor.name)
                tensor.CopyFrom(new)
        got = run(session(noisy, CPU, optimize=False), None, feeds)
        for name, error in _distances(want, got).items():
            worst[name] = max(worst[name], error)
    return worst


def check_file(drawn: Drawn, cut: onnx.ModelProto) -> None:
    """The cut model is valid, keeps the interface, and its inferred shapes are true."""
    onnx.checker.check_model(cut, full_check=True)
    held = {tensor.name for tensor in drawn.model.graph.initializer}
    for kind in ("input", "output"):
        a, b = (
            [v for v in getattr(model.graph, kind) if v.name not in held]
            for model in (drawn.model, cut)
        )
        assert a == b, f"another {kind}"
    assert list(drawn.model.opset_import) == list(cut.opset_import)
    if wrong := misinferred(cut, drawn.feeds):  # which the original may be, too
        before = misinferred(drawn.model, drawn.feeds)
        assert wrong.keys() <= before.keys(), f"inferred and real shape differ: {wrong}"


def misinferred(model: onnx.ModelProto, feeds: Mapping) -> dict[str, object]:
    """Tensors whose inferred shape isn't the one that a run shows; "" where inference fails."""
    try:
        graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    except onnx.shape_inference.InferenceError as error:
        return {"": error}
    told = {
        value.name: value.type.tensor_type.shape
        for value in graph.value_info
        if value.type.tensor_type.HasField("shape")
    }
    names = [name for node in model.graph.node for name in node.output if name in told]
    if not names:
        return {}
    found = run(session(with_outputs(model, names), CPU, optimize=False), names, feeds)
    wrong = {}
    for name, array in found.items():
        dims = [d.dim_value if d.HasField("dim_value") else None for d in told[name].dim]
        fits = len(dims) == array.ndim and all(
            d is None or d == size for d, size in zip(dims, array.shape, strict=True)
        )
        if not fits:
            wrong[name] = (tuple(dims), array.shape)
    return wrong


def check_costs(trial: Trial, cut: Model) -> None:
    """What the widths promised is what a fresh look at the cut model counts."""
    proto, analysis = cut.to_proto(), trial.analysis
    promised = analysis.macs.at(trial.widths)
    assert macs_left(analysis, cut, trial.widths) == promised, "MACs of the cut weights"
    # On the same samples: where a feed is one for the given model, it is one here.
    seen = trial.work.analysed(LightModel.of(proto))
    macs = seen.macs.at(seen.full_widths)
    assert macs == promised, f"{macs} MACs for {promised}"
    params, promised = count_parameters(LightModel.of(proto)), analysis.params.at(trial.widths)
    # Promised apart, but written once, are copies that no cut has told apart.
    constants, follows = cut.constants(), analysis.flow.followed
    once = cut.written_once().items()
    equal = [constants[copy] for copy, name in once if follows(copy) != follows(name)]
    promised -= sum(int(np.prod(c.shape)) for c in equal if is_floating(c))
    assert params == promised, f"{params} parameters for {promised}"


def check_law(drawn: Drawn, pick: random.Random) -> Trial:
    """Ask all of one model and one removal."""
    given = drawn.model.SerializeToString()
    trial = draw_trial(drawn, pick)
    check_reasons(trial.analysis)
    cut = trial.cut()
    check_same_function(drawn, trial)
    check_file(drawn, cut.to_proto())
    check_costs(trial, cut)
    apply.cut_model(trial.analysis, trial.removed, trial.work.samples.every)
    assert drawn.model.SerializeToString() == given, "the input was modified"
    return trial


def check_reap(drawn: Drawn, pick: random.Random) -> None:
    """A whole run ends in a model with finite weights, or in a refusal."""
    rows = len(next(iter(drawn.feeds.values())))
    data = {
        name: v
        if v.dtype.kind == "i"
        else np.random.default_rng(5).standard_normal((12 * rows, *v.shape[1:])).astype(v.dtype)
        for name, v in drawn.feeds.items()
    }
    budget = pick.choice([{"target_macs": 0.6}, {"ratio": 0.5}, {"target_params": 0.7}])
    if pick.random() < 0.3:
        budget["allocation"] = pick.choice(["local", "uniform"])
    try:
        result = reap(
            drawn.model,
            data,
            input_shapes=shapes_of(drawn),
            round_to=1,
            joint_refit=pick.choice([0, 2]),
            **budget,
        )
    except ReapError as error:
        assert "report the model" not in str(error), error
        return
    check_finite(result.model)
    check_file(drawn, result.model)
    # With the same data: where samples mix, these tell whether a sample is a row or a whole feed.
    seen = inspect(result.model, data, input_shapes=shapes_of(drawn))
    after = result.report.after
    assert (seen.total.macs, seen.total.params) == (after.macs, after.params)


def check_finite(model: onnx.ModelProto) -> None:
    tensors: Sequence = [*model.graph.initializer]
    tensors += [a.t for n in model.graph.node if n.op_type == "Constant" for a in n.attribute]
    for tensor in tensors:
        array = numpy_helper.to_array(tensor)
        assert array.dtype.kind != "f" or np.isfinite(array).all(), f"{tensor.name} is not finite"
