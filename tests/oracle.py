"""The oracle: slice = mask (law 1), and what must hold of any cut besides.

A test that only asks for slice = mask is content with rules that freeze everything, so
`assert_slice_is_mask` also wants to know which groups there are, with their widths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_reap.errors import ReapError
from onnx_reap.graph.branches import Branches, find_branches
from onnx_reap.graph.cost import count_macs, count_params
from onnx_reap.graph.edit.cut import cut_graph
from onnx_reap.graph.edit.mask import mask_graph
from onnx_reap.graph.groups import FrozenChannels, Group, find_frozen, find_groups
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.probe import Probe, fold_constants, probe
from onnx_reap.graph.labels.flow import flow
from onnx_reap.graph.labels.records import Flow
from onnx_reap.onnxio.light_model import LightModel
from onnx_reap.onnxio.load import load
from onnx_reap.onnxio.session import run, session
from onnx_reap.solve.cost import Cost

CPU = ["CPUExecutionProvider"]
# Cut and masked model add the same float32 products in another order: a few roundings (6e-8 each)
# per addition chain. Anything that is wrong (a shifted index, a revived bias) is off by parts of 1.
TOLERANCE = 2e-5


@dataclass(frozen=True)
class Studied:
    """A model and what the label flow found in it."""

    proto: onnx.ModelProto
    model: Model
    probe: Probe
    flow: Flow
    groups: tuple[Group, ...]
    frozen: tuple[FrozenChannels, ...]
    branches: Branches

    @property
    def widths(self) -> np.ndarray:
        return np.array([group.width for group in self.groups], int)

    @property
    def macs(self) -> Cost:
        return count_macs(self.model, self.probe, self.flow, self.groups, self.branches)

    @property
    def params(self) -> Cost:
        return count_params(self.model, self.flow, self.groups, self.branches)

    def copy(self) -> Model:
        model = self.model.anew(self.model.light)
        fold_constants(model, CPU)
        return model

    def cut(self, removed: Sequence[int]) -> onnx.ModelProto:
        return self.light_cut(removed).whole()

    def mask(self, removed: Sequence[int]) -> onnx.ModelProto:
        return self.light_mask(removed).whole()

    def light_cut(self, removed: Sequence[int]) -> LightModel:
        model = self.copy()
        cut_graph(model, self.probe, self.flow, removed, self.branches)
        return model.to_file()

    def light_mask(self, removed: Sequence[int]) -> LightModel:
        model = self.copy()
        mask_graph(model, self.flow, removed)
        return model.to_file()


def feed(proto: onnx.ModelProto, batch: int, seed: int = 0, dynamic: int = 8) -> dict:
    """Random inputs; the leading dynamic dimension is the batch, others get `dynamic`."""
    rng = np.random.default_rng(seed)
    held = {tensor.name for tensor in proto.graph.initializer}
    feeds = {}
    for value in proto.graph.input:
        if value.name in held:
            continue
        tensor = value.type.tensor_type
        dims = [
            dim.dim_value if dim.HasField("dim_value") else (dynamic if axis else batch)
            for axis, dim in enumerate(tensor.shape.dim)
        ]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        drawn = rng.standard_normal(dims) if dtype.kind == "f" else rng.integers(0, 2, dims)
        feeds[value.name] = drawn.astype(dtype)
    return feeds


def fixed_batch(proto: onnx.ModelProto) -> int | None:
    """Leading size of the first true input, None where it is open."""
    held = {tensor.name for tensor in proto.graph.initializer}
    first = next(v for v in proto.graph.input if v.name not in held)
    dims = first.type.tensor_type.shape.dim
    return dims[0].dim_value if dims and dims[0].HasField("dim_value") else None


def study(proto: onnx.ModelProto, excluded=lambda key: None, dynamic: int = 8) -> Studied:
    model = Model(load(proto))
    fold_constants(model, CPU)
    seen = _probed(model, proto, dynamic)
    found = flow(model, seen, excluded)
    groups = find_groups(found)
    branches = find_branches(model, seen, found, groups)
    return Studied(proto, model, seen, found, groups, find_frozen(found), branches)


def _probed(model: Model, proto: onnx.ModelProto, dynamic: int) -> Probe:
    batch = fixed_batch(proto)
    if batch is not None:
        return probe(model, [feed(proto, batch, dynamic=dynamic)], CPU)
    try:
        return probe(model, [feed(proto, n, dynamic=dynamic) for n in (2, 3)], CPU)
    except ReapError:  # declared dynamic, but a batch of 1 is baked in
        return probe(model, [feed(proto, 1, dynamic=dynamic)], CPU)


def choose(groups: Sequence[Group], ratio: float, seed: int = 0) -> list[int]:
    """Draw units to remove: the same number from every part of a group, at least one stays."""
    rng = np.random.default_rng(seed)
    removed: list[int] = []
    for group in groups:
        parts = np.array(group.parts or [0] * group.width)
        for part in np.unique(parts):
            units = np.array(group.units)[parts == part]
            count = min(round(len(units) * ratio), len(units) - 1)
            removed += rng.choice(units, count, replace=False).tolist()
    return removed


def widths_left(groups: Sequence[Group], removed: Sequence[int]) -> np.ndarray:
    return np.array([np.isin(g.units, removed, invert=True).sum() for g in groups], int)


def assert_same_function(
    expected: onnx.ModelProto,
    got: onnx.ModelProto,
    batches: Sequence[int] = (1, 3),
    tolerance: float = TOLERANCE,
    dynamic: int = 8,
) -> dict[str, np.ndarray]:
    """Compare all outputs, relative to the largest; return the expected ones of the last batch."""
    batch = fixed_batch(expected)
    sessions = [session(m, CPU, optimize=False) for m in (expected, got)]
    want: dict[str, np.ndarray] = {}
    for size in batches if batch is None else [batch]:
        fed = feed(expected, size, seed=7, dynamic=dynamic)
        want, have = (run(active, None, fed) for active in sessions)
        assert want.keys() == have.keys()
        for name, values in want.items():
            assert_close(name, values, have[name], tolerance)
    return want


def assert_close(name: str, want: np.ndarray, have: np.ndarray, tolerance: float) -> None:
    assert want.shape == have.shape, f"output {name}"
    assert want.dtype == have.dtype, f"output {name}"
    if want.dtype.kind != "f":
        assert np.array_equal(want, have), f"output {name}"
        return
    assert np.isfinite(want).all(), f"output {name} of the masked model is not finite"
    scale = np.abs(want, dtype=np.float64).max(initial=0)
    error = np.abs(want.astype(np.float64) - have).max(initial=0)
    assert error <= tolerance * scale, f"output {name}: off by {error:.2e} of {scale:.2e}"


def assert_differs(a: onnx.ModelProto, b: onnx.ModelProto, dynamic: int = 8) -> None:
    """The removal must show in an output, by far more than rounding, or the oracle is blind."""
    batch = fixed_batch(a) or 1
    outputs = [
        run(session(m, CPU, optimize=False), None, feed(a, batch, seed=7, dynamic=dynamic))
        for m in (a, b)
    ]
    differences = [
        np.abs(values.astype(np.float64) - outputs[1][name]).max(initial=0)
        / max(np.abs(values, dtype=np.float64).max(initial=0), 1e-30)
        for name, values in outputs[0].items()
    ]
    assert max(differences) > 1e-3, "the outputs don't feel the removal"


def assert_keeping_all_changes_nothing(studied: Studied) -> None:
    """Law 2: bit-identical weights, nodes as they were but for copies of shared parameters."""
    kept = studied.cut([])
    before = {n.output[0]: n for n in studied.proto.graph.node}
    weights = {t.name: t for t in studied.proto.graph.initializer}
    tensors = {t.name: t for t in kept.graph.initializer}
    for node in kept.graph.node:
        again, given = onnx.NodeProto(), before[node.output[0]]
        again.CopyFrom(node)
        for index, (name, old) in enumerate(zip(node.input, given.input, strict=True)):
            if name != old and old in tensors:
                assert tensors[name].raw_data == tensors[old].raw_data
                again.input[index] = old
        assert again.SerializeToString() == given.SerializeToString()
    for tensor in kept.graph.initializer:
        if tensor.name in weights:
            assert tensor.SerializeToString() == weights[tensor.name].SerializeToString()
    assert kept.SerializeToString() == studied.cut([]).SerializeToString()


def assert_interface(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """Law 6; initializers that are listed as inputs may change their shapes."""
    held = {tensor.name for tensor in before.graph.initializer}
    for kind in ("input", "output"):
        a, b = ([v for v in getattr(m.graph, kind) if v.name not in held] for m in (before, after))
        assert a == b, kind
    assert list(before.opset_import) == list(after.opset_import)
    assert before.ir_version == after.ir_version
    assert list(before.metadata_props) == list(after.metadata_props)


def assert_costs(studied: Studied, removed: Sequence[int], cut: onnx.ModelProto) -> None:
    """Law 4: costs foretold from widths are those counted on the cut model."""
    again = study(cut)
    left = widths_left(studied.groups, removed)
    assert studied.macs.at(left) == again.macs.at(again.widths)
    assert studied.params.at(left) == again.params.at(again.widths)
    tensors = [*cut.graph.initializer]
    tensors += [a.t for n in cut.graph.node if n.op_type == "Constant" for a in n.attribute]
    arrays = [numpy_helper.to_array(tensor) for tensor in tensors]
    assert studied.params.at(left) == sum(a.size for a in arrays if a.dtype.kind == "f")


def assert_costs_of_real_numbers(
    studied: Studied, removed: Sequence[int], cut: onnx.ModelProto
) -> None:
    """Law 4 for models that store weights as integers: these count as the numbers they are."""
    again = study(cut)
    left = widths_left(studied.groups, removed)
    assert studied.macs.at(left) == again.macs.at(again.widths)
    assert studied.params.at(left) == again.params.at(again.widths)


def assert_slice_is_mask(
    proto: onnx.ModelProto,
    *,
    groups: Mapping[str, int],
    frozen: Mapping[str, str] | None = None,
    ratio: float = 0.5,
    seed: int = 0,
    batches: Sequence[int] = (1, 3),
    tolerance: float = TOLERANCE,
    felt: bool = True,
    check: bool = True,
) -> Studied:
    """Cut at random and compare with the mask.

    Parameters
    ----------
    groups : mapping of str to int
        All groups that must be found, with their widths.
    frozen : mapping of str to str, optional
        Nodes whose channels must be frozen (all or some), with a part of the reason.
    felt : bool
        Whether the outputs must differ from those of the whole model.
    check : bool
        Whether onnx.checker must accept the result (not for custom operators).
    """
    given = proto.SerializeToString()
    studied = study(proto)
    found = {group.name: group.width for group in studied.groups}
    assert found == dict(groups), studied.frozen
    for node, why in (frozen or {}).items():
        reasons = [f"{f.reason} ({f.cause})" for f in studied.frozen if f.node == node]
        assert any(why in reason for reason in reasons), f"{node}: {reasons}"
    assert all(f.reason and f.cause for f in studied.frozen)
    assert_keeping_all_changes_nothing(studied)
    removed = choose(studied.groups, ratio, seed)
    assert bool(removed) == bool(groups)
    masked, cut = studied.mask(removed), studied.cut(removed)
    assert_same_function(masked, cut, batches, tolerance)
    if removed and felt:
        assert_differs(proto, masked)
    if check:
        onnx.checker.check_model(cut, full_check=True)
    assert_interface(proto, cut)
    assert_costs(studied, removed, cut)
    assert proto.SerializeToString() == given, "the input was modified"
    return studied
