"""Closing: the conditions that make every cut expressible, applied until nothing changes.

In each tensor the surviving entries must form a box again, so units vary along one axis only and
something is left in any case; constants that several nodes share must be cut alike; parts of
grouped convolutions must stay equally long.
"""

from collections.abc import Mapping

import numpy as np

from onnx_reap.graph.ir.order import captured_tensors
from onnx_reap.graph.labels.balances import (
    joint_parts,
    occurrences,
    part_of_units,
    stays_balanced,
    surplus,
)
from onnx_reap.graph.labels.labels import (
    FROZEN,
    ZERO,
    LabelArray,
    Reason,
    collapse,
    first_along,
    varying_axes,
    vector_along,
)
from onnx_reap.graph.labels.records import Binding, EqualCounts
from onnx_reap.graph.labels.site import Findings
from onnx_reap.graph.rules.table import RULES

Tensors = Mapping[str, LabelArray]


def close(findings: Findings) -> None:
    """Unite and freeze units until every removal of whole units can be written as a graph."""
    tensors = findings.data()
    _freeze_other_uses(findings, tensors)
    while _close_once(findings, tensors):
        pass


def _close_once(findings: Findings, tensors: Tensors) -> bool:
    """Apply every condition once; return whether a set changed."""
    changed = [_close_tensor(name, findings) for name in tensors]
    shared: dict[tuple[str, int], list[Binding]] = {}
    for binding in findings.bindings:
        shared.setdefault((binding.constant, binding.constant_axis), []).append(binding)
    changed += [_close_shared(same, findings, tensors) for same in shared.values()]
    changed += [_close_counts(tie, findings, tensors) for tie in findings.equal_counts]
    return any(changed) or _close_sizes(findings) or _close_balances(findings, tensors)


# Constants.


def _freeze_other_uses(findings: Findings, tensors: Tensors) -> None:
    """Freeze what an axis of a constant follows if some other use of the constant can't follow."""
    bound: dict[str, dict[int, list[Binding]]] = {}
    for binding in findings.bindings:
        axes = bound.setdefault(binding.constant, {})
        axes.setdefault(binding.constant_axis, []).append(binding)
    model = findings.model
    outside = set(captured_tensors(model.nodes)) | {t.name for t in model.graph.outputs}
    reasons = {
        (name, axis): Reason(name, "weights used elsewhere too")
        for name, axes in bound.items()
        for axis in axes
        if name in outside
    }
    for node in model.nodes:
        for index, tensor in enumerate(node.inputs):
            text = f"{node.op} uses the same weights otherwise"
            covered = findings.bound_uses.get((id(node), index), set())
            for axis in bound.get(tensor.name, {}).keys() - covered:
                reasons[tensor.name, axis] = Reason(model.keys[id(node)], text)
    for (name, axis), reason in reasons.items():
        for binding in bound[name][axis]:
            if binding.tensor in tensors:
                findings.sets.freeze(tensors[binding.tensor], reason)


def _close_shared(same: list[Binding], findings: Findings, tensors: Tensors) -> bool:
    """Make all tensors that one axis of a constant follows agree."""
    changed = False
    sets = findings.sets
    first, *others = [_bound_labels(binding, findings, tensors) for binding in same]
    for labels, binding in zip(others, same[1:], strict=True):
        reason = Reason(
            binding.tensor, f"weights {binding.constant} are shared with frozen channels"
        )
        if labels.shape == first.shape:
            changed |= sets.unite(labels, first, reason)
        else:
            changed |= sets.freeze(labels, reason) | sets.freeze(first, reason)
    return changed


def _bound_labels(binding: Binding, findings: Findings, tensors: Tensors) -> LabelArray:
    labels = tensors.get(binding.tensor)
    if labels is None:
        return ZERO
    roots = findings.sets.roots(labels)
    if varying_axes(roots) not in ((binding.tensor_axis,), ()):
        return np.zeros(roots.shape[binding.tensor_axis], np.int64)
    return vector_along(roots, binding.tensor_axis)


# Boxes.


def _close_tensor(name: str, findings: Findings) -> bool:
    sets = findings.sets
    roots = sets.roots(findings.labels[name])
    axes = varying_axes(roots)
    if not axes:
        return sets.freeze(roots, Reason(name, "removing them would leave nothing of a tensor"))
    if len(axes) > 1:
        keep = max(axes, key=lambda axis: (_slabs(roots, axis), -axis))
        first = first_along(roots, [axis for axis in axes if axis != keep])
        reason = Reason(name, "no box of the tensor would be left; it also holds frozen channels")
        return sets.unite(roots, first, reason)
    dynamic = axes[0] in findings.probe.dynamic.get(name, ())
    if dynamic and not _is_same_in_every_sample(name, vector_along(roots, axes[0]), findings):
        reason = Reason(name, "lie along an axis whose length depends on the batch")
        return sets.freeze(roots, reason)
    return False


def _is_same_in_every_sample(name: str, units: LabelArray, findings: Findings) -> bool:
    """Whether samples and channels were joined to one axis, and nothing names places along it.

    As for products of matrices, one for each head of each sample.
    """
    batch = findings.probe.batch
    if len(units) % batch or (units.reshape(batch, -1) != units[: len(units) // batch]).any():
        return False
    tensor = findings.model.graph.tensors()[name]
    touching = [node.op for node in (*tensor.inputs, *tensor.outputs)]
    return all(op == "Reshape" or (op in RULES and RULES[op].correct is None) for op in touching)


def _slabs(roots: LabelArray, axis: int) -> int:
    """Count the units that would be left if units varied along one axis alone."""
    core = np.moveaxis(collapse(roots), axis, 0)
    core = core.reshape(core.shape[0], -1)
    _, inverse = np.unique(core, return_inverse=True)
    inverse = inverse.reshape(core.shape)
    slab = np.arange(core.shape[0])
    while True:
        lowest = np.full(inverse.max() + 1, core.shape[0])
        np.minimum.at(lowest, inverse, slab[:, None])
        joined = lowest[inverse].min(axis=1)
        if np.array_equal(joined, slab):
            return len(np.unique(slab[(core != FROZEN).all(axis=1)]))
        slab = joined


# Counts.


def _close_sizes(findings: Findings) -> bool:
    """Freeze channels whose number enters the computation.

    Of a tensor that can lose something along one axis alone, the sizes of all others may be read.
    """
    sets, changed = findings.sets, False
    for labels, reason in findings.fixed_sizes:
        for tensor, axis in sorted(findings.measured(labels)):
            roots = sets.roots(findings.labels[tensor])
            if axis in varying_axes(roots):
                changed |= sets.freeze(roots, reason)
    return changed


def _close_counts(tie: EqualCounts, findings: Findings, tensors: Tensors) -> bool:
    """Freeze channels of a grouped convolution until its parts can be kept equally long."""
    if tie.tensor not in tensors:
        return False
    units = vector_along(findings.sets.roots(tensors[tie.tensor]), tie.axis)
    if part_of_units(units, tie.parts) is not None:
        return False
    text = f"its {tie.parts} groups could not keep equally many channels"
    return findings.sets.freeze(surplus(units, tie.parts), Reason(tie.node, text))


def _close_balances(findings: Findings, tensors: Tensors) -> bool:
    """Unite channels across the groups of convolutions where no free choice in each would do.

    That is where several convolutions divide the same channels in ways that don't fit together, or
    where a group takes channels of several branches. A set of one channel from each group leaves
    the groups equally long when it goes; the sets are formed by the convolution whose sets upset no
    other.
    """
    ties = [tie for tie in findings.equal_counts if tie.tensor in tensors]
    if not ties:
        return False
    roots = {name: findings.sets.roots(labels) for name, labels in tensors.items()}
    counted = [(vector_along(roots[tie.tensor], tie.axis), tie.parts) for tie in ties]
    kinds = occurrences(roots)
    _, stuck = joint_parts(counted, kinds)
    ways = [
        (tie, _one_of_each(of, kinds))
        for (units, parts), tie in zip(counted, ties, strict=True)
        if np.isin(units, stuck).any() and (of := part_of_units(units, parts))
    ]
    if not ways:
        return False
    tie, sets = next((way for way in ways if stays_balanced(way[1], counted)), ways[0])
    reason = Reason(tie.node, f"its {tie.parts} groups lose channels together")
    for units in sets:
        findings.sets.unite(np.array(units), np.array(units[:1]), reason)
    return True


def _one_of_each(of: Mapping[int, int], kinds: Mapping[int, str]) -> list[list[int]]:
    """Make sets of one unit from each part, of one kind where that goes."""
    parts: dict[int, list[int]] = {}
    for unit in sorted(of, key=lambda unit: (kinds[unit], unit)):
        parts.setdefault(of[unit], []).append(unit)
    return [list(units) for units in zip(*parts.values(), strict=True)]
