"""The interpreter: lets labels flow through the graph by the rules, then closes the sets.

Closing makes every cut expressible: in each tensor the surviving entries must form a box again, so
units may vary along one axis only; constants that several nodes share must be cut alike; parts of
grouped convolutions must stay equally long.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from .labels import LabelArray, Labels, Reason, collapse, first_along, varying_axes
from .model import STANDARD_DOMAINS, Model, captured_tensors
from .probe import Probe
from .records import Binding, EqualCounts, Flow
from .rules import RULES
from .site import Findings, Site


def flow(
    model: Model, probe: Probe, excluded: Callable[[str], str | None] = lambda key: None
) -> Flow:
    """Find which channels belong together, and why the others must stay.

    Parameters
    ----------
    excluded : callable
        Takes a node's key; returns why its channels must stay, or None.
    """
    sets, findings = Labels(), Findings()
    of_sizes: set[str] = set()
    for node in model.nodes:
        _visit(node, model, probe, sets, findings, of_sizes)
    for tensor in model.graph.outputs:
        if tensor.name in findings.labels and tensor.name not in of_sizes:
            reason = Reason(tensor.name, "graph output")
            sets.freeze(findings.labels[tensor.name], reason)
    for key, labels in findings.makers.items():
        if (why := excluded(key)) is not None:
            sets.freeze(labels, Reason(key, why))
    tensors = {name: x for name, x in findings.labels.items() if name not in of_sizes}
    _freeze_unbound_uses(model, sets, findings, tensors)
    while _close(sets, findings, tensors, probe):
        pass
    none = np.int64(0)
    roots = {name: np.broadcast_to(none, shape) for name, shape in probe.shapes.items()}
    roots |= {name: sets.roots(labels) for name, labels in tensors.items()}
    return Flow(
        labels=roots,
        axes={name: axes[0] for name, x in roots.items() if (axes := varying_axes(x))},
        linears=tuple(findings.linears),
        bindings=tuple(findings.bindings),
        equal_counts=tuple(findings.equal_counts),
        makers={key: sets.roots(labels) for key, labels in findings.makers.items()},
        members=findings.makers,
        reasons=sets.reasons,
        of_sizes=frozenset(of_sizes),
    )


def _visit(
    node: gs.Node,
    model: Model,
    probe: Probe,
    sets: Labels,
    findings: Findings,
    of_sizes: set[str],
) -> None:
    standard = node.domain in STANDARD_DOMAINS
    rule = RULES.get(node.op) if standard else None
    sized = standard and _computed_from_sizes(node, probe, of_sizes)
    site = Site(node, model.keys[id(node)], model.opset, probe, sets, findings, of_sizes=sized)
    if sized:
        of_sizes.update(t.name for t in node.outputs if t.name)
        _sizes(site, findings, moves=rule is not None and rule.moves)
        return
    if rule is None or any(t.name and t.name not in probe.shapes for t in node.outputs):
        name = f"{node.domain}::{node.op}" if not standard else node.op
        site.freeze_inputs(f"no rule for operator {name}")
        for name in captured_tensors([node]):
            if name in findings.labels:
                site.freeze(findings.labels[name], f"used inside the body of {node.op}")
        return
    rule.flow(site)


def _computed_from_sizes(node: gs.Node, probe: Probe, of_sizes: set[str]) -> bool:
    """Whether a node's outputs follow from the shapes of tensors alone."""
    if any(t.name not in probe.values for t in node.outputs if t.name):
        return False
    if node.op in ("Shape", "Size"):
        return True
    names = [t.name for t in node.inputs if t.name and not isinstance(t, gs.Constant)]
    return bool(names) and all(name in of_sizes for name in names)


def _sizes(site: Site, findings: Findings, *, moves: bool) -> None:
    """Follow the channels behind each number of a tensor that is computed from sizes.

    Such a tensor's labels are negative; `findings.sizes` tells the channels that each stands for.
    """
    if site.op in ("Shape", "Size"):
        site.of_sizes = False
        labels = site.labels(0)
        axes = varying_axes(labels)
        counts = np.zeros(labels.ndim, np.int64)
        for axis in axes:
            counts[axis] = _new_size(findings, np.unique(collapse(labels)))
        if site.op == "Size":
            site.set_labels(counts.min(initial=0))
        else:
            start, end = site.attribute("start", 0), site.attribute("end", labels.ndim)
            site.set_labels(counts[start:end])
    elif moves and all(site.probe.shapes.get(t.name) is not None for t in site.node.inputs if t.name):
        RULES[site.op].flow(site)
    else:
        arriving = [site.labels(i) for i in range(len(site.node.inputs)) if site.has_input(i)]
        ids = np.unique(np.concatenate([np.ravel(collapse(x)) for x in arriving]))
        behind = [findings.sizes[int(i)] for i in ids if i < 0]
        new = _new_size(findings, np.unique(np.concatenate(behind))) if behind else 0
        for index in range(len(site.node.outputs)):
            site.set_labels(np.int64(new), index)


def _new_size(findings: Findings, labels: LabelArray) -> int:
    number = -1 - len(findings.sizes)
    findings.sizes[number] = labels
    return number


def _freeze_unbound_uses(
    model: Model, sets: Labels, findings: Findings, tensors: dict[str, LabelArray]
) -> None:
    """Freeze what a constant follows if some other use of the constant can't follow."""
    bound: dict[str, list[Binding]] = {}
    for binding in findings.bindings:
        bound.setdefault(binding.constant, []).append(binding)
    captured = captured_tensors(model.nodes)
    outputs = {t.name for t in model.graph.outputs}
    for node in model.nodes:
        for index, tensor in enumerate(node.inputs):
            if tensor.name in bound and (id(node), index) not in findings.bound_uses:
                reason = Reason(model.keys[id(node)], f"{node.op} uses the same weights otherwise")
                _freeze_bound(bound[tensor.name], sets, tensors, reason)
    for name in bound:
        if name in captured or name in outputs:
            _freeze_bound(bound[name], sets, tensors, Reason(name, "weights used elsewhere too"))


def _freeze_bound(
    bindings: list[Binding], sets: Labels, tensors: dict[str, LabelArray], reason: Reason
) -> None:
    for binding in bindings:
        if binding.tensor in tensors:
            sets.freeze(tensors[binding.tensor], reason)


def _close(
    sets: Labels, findings: Findings, tensors: dict[str, LabelArray], probe: Probe
) -> bool:
    """Apply every closing condition once; return whether a set changed."""
    changed = False
    for name, labels in tensors.items():
        changed |= _close_tensor(name, sets.roots(labels), sets, probe)
    shared: dict[tuple[str, int], list[Binding]] = {}
    for binding in findings.bindings:
        shared.setdefault((binding.constant, binding.constant_axis), []).append(binding)
    for same in shared.values():
        changed |= _close_shared(same, sets, tensors)
    for ties in findings.equal_counts:
        changed |= _close_counts(ties, sets, tensors)
    return changed or _close_joint_counts(findings.equal_counts, sets, tensors)


def _close_tensor(name: str, roots: LabelArray, sets: Labels, probe: Probe) -> bool:
    axes = varying_axes(roots)
    if not axes:
        reason = Reason(name, "removing them would leave nothing of a tensor")
        return sets.unite(roots, np.zeros(1, np.int64), reason)
    if len(axes) > 1:
        keep = max(axes, key=lambda axis: (_slabs(roots, axis), -axis))
        first = first_along(roots, [axis for axis in axes if axis != keep])
        reason = Reason(name, "no box of the tensor would be left; it also holds frozen channels")
        return sets.unite(roots, first, reason)
    if axes[0] in probe.dynamic.get(name, ()):
        reason = Reason(name, "lie along an axis whose length depends on the batch")
        return sets.unite(roots, np.zeros(1, np.int64), reason)
    return False


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
            return len(np.unique(slab[(core != 0).all(axis=1)]))
        slab = joined


def _close_shared(
    bindings: list[Binding], sets: Labels, tensors: dict[str, LabelArray]
) -> bool:
    """Make all tensors that one axis of a constant follows agree."""
    changed = False
    vectors = [_bound_labels(binding, sets, tensors) for binding in bindings]
    for vector, binding in zip(vectors[1:], bindings[1:], strict=True):
        reason = Reason(binding.tensor, f"weights {binding.constant} are shared with frozen channels")
        if vector.shape != vectors[0].shape:
            zero = np.zeros(1, np.int64)
            changed |= sets.unite(vector, zero, reason) | sets.unite(vectors[0], zero, reason)
        else:
            changed |= sets.unite(vector, vectors[0], reason)
    return changed


def _bound_labels(
    binding: Binding, sets: Labels, tensors: dict[str, LabelArray]
) -> LabelArray:
    labels = tensors.get(binding.tensor)
    if labels is None:
        return np.zeros(1, np.int64)
    roots = sets.roots(labels)
    index = tuple(slice(None) if i == binding.tensor_axis else 0 for i in range(roots.ndim))
    if varying_axes(roots) not in ((binding.tensor_axis,), ()):
        return np.zeros(roots.shape[binding.tensor_axis], np.int64)
    return roots[index]


def _close_counts(
    ties: EqualCounts, sets: Labels, tensors: dict[str, LabelArray]
) -> bool:
    """Freeze the channels of a grouped convolution whose parts can't be kept equally long."""
    roots = sets.roots(tensors[ties.tensor]) if ties.tensor in tensors else None
    if roots is None:
        return False
    index = tuple(slice(None) if i == ties.axis else 0 for i in range(roots.ndim))
    if part_of_units(roots[index], ties.parts) is not None:
        return False
    reason = Reason(ties.node, f"its {ties.parts} groups could not keep equally many channels")
    return sets.unite(roots, np.zeros(1, np.int64), reason)


def _close_joint_counts(
    all_ties: list[EqualCounts], sets: Labels, tensors: dict[str, LabelArray]
) -> bool:
    """Freeze units whose several grouped convolutions can't all be kept balanced at once."""
    vectors = [
        sets.roots(tensors[ties.tensor])[
            tuple(slice(None) if i == ties.axis else 0 for i in range(tensors[ties.tensor].ndim))
        ]
        for ties in all_ties
        if ties.tensor in tensors
    ]
    ties_here = [ties for ties in all_ties if ties.tensor in tensors]
    parts = joint_parts([(v, t.parts) for v, t in zip(vectors, ties_here, strict=True)])
    stuck = np.array([unit for unit, part in parts.items() if part is None], np.int64)
    if not stuck.size:
        return False
    reason = Reason(all_ties[0].node, "grouped convolutions divide the channels differently")
    return sets.unite(stuck, np.zeros(1, np.int64), reason)


def joint_parts(
    ties: list[tuple[LabelArray, int]],
) -> dict[int, tuple[int, int] | None]:
    """Combine the balances that several grouped convolutions ask of the same units.

    Parameters
    ----------
    ties : list of (units along an axis, parts)

    Returns
    -------
    dict
        For each unit that needs a balance: the set of units that it is balanced in, and its part
        there; None where no single partition serves all convolutions.
    """
    asked: dict[int, dict[int, int]] = {}
    for number, (units, count) in enumerate(ties):
        for unit, part in (part_of_units(units, count) or {}).items():
            asked.setdefault(unit, {})[number] = part
    together: dict[tuple[int, ...], dict[int, tuple[int, ...]]] = {}
    for unit, by_tie in asked.items():
        together.setdefault(tuple(by_tie), {})[unit] = tuple(by_tie.values())
    result: dict[int, tuple[int, int] | None] = {}
    for place, (numbers, units) in enumerate(together.items()):
        classes = sorted(set(units.values()))
        sizes = np.bincount([classes.index(key) for key in units.values()])
        per_part = [np.unique([key[i] for key in classes], return_counts=True)[1] for i in range(len(numbers))]
        alone = all(set(other) == set(numbers) or not set(other) & set(numbers) for other in together)
        balanced = (sizes == sizes[0]).all() and all((n == n[0]).all() for n in per_part)
        for unit, key in units.items():
            result[unit] = (place, classes.index(key)) if alone and balanced else None
    return result


def part_of_units(units: LabelArray, parts: int) -> dict[int, int] | None:
    """Tell in which part of an axis each unit lies.

    Parameters
    ----------
    units : (C,) LabelArray
        Units along the axis, C divisible by `parts`.

    Returns
    -------
    dict or None
        Unit to part; units that lie in all parts alike are left out, since they need no balance.
        None if removing equally many units from every part would not keep the parts equal.
    """
    present, inverse = np.unique(units, return_inverse=True)
    counts = np.zeros((len(present), parts), int)
    np.add.at(counts, (inverse, np.arange(len(units)) // (len(units) // parts)), 1)
    counts = counts[present != 0]
    present = present[present != 0]
    uneven = (counts != counts[:, :1]).any(axis=1)
    if not uneven.any():
        return {}
    patterns, which = np.unique(counts[uneven], axis=0, return_inverse=True)
    which = which.ravel()
    per_pattern = np.bincount(which)
    balanced = (per_pattern == per_pattern[0]).all() and (patterns.sum(0) == patterns.sum(0)[0]).all()
    if not balanced:
        return None
    return dict(zip(present[uneven].tolist(), which.tolist(), strict=True))
