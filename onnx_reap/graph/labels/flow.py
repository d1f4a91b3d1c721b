"""The interpreter: lets labels flow through the graph by the rules, then closes the sets."""

from collections.abc import Callable, Iterable

import numpy as np
import onnx_graphsurgeon as gs

from onnx_reap.graph.ir.domains import STANDARD_DOMAINS
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.order import captured_tensors
from onnx_reap.graph.ir.probe import Probe
from onnx_reap.graph.labels.constraints import close
from onnx_reap.graph.labels.labels import ZERO, LabelArray, Reason, collapse, varying_axes
from onnx_reap.graph.labels.records import Flow
from onnx_reap.graph.labels.site import Findings, Site
from onnx_reap.graph.labels.sizes import computed_from_sizes, flow_of_sizes
from onnx_reap.graph.rules.table import RULES
from onnx_reap.graph.rules.traits import Trait, traits_of


def flow(
    model: Model, probe: Probe, excluded: Callable[[str], str | None] = lambda key: None
) -> Flow:
    """Find which channels belong together, and why the others must stay.

    Parameters
    ----------
    excluded : callable
        Takes a node's key; returns why its channels must stay, or None.
    """
    findings = Findings(model, probe)
    outputs = {tensor.name for tensor in model.graph.outputs}
    read = outputs | set(captured_tensors(model.nodes))
    for node in model.nodes:
        _visit(node, findings, read)
        _unite_trips(node, findings)
    for name in outputs & findings.labels.keys():
        findings.sets.freeze(findings.channels(name), Reason(name, "graph output"))
    for key, labels in findings.makers.items():
        if (why := excluded(key)) is not None:
            findings.sets.freeze(labels, Reason(key, why))
    close(findings)
    return _summary(findings)


def _visit(node: gs.Node, findings: Findings, read: set[str]) -> None:
    """Apply a node's rule; freeze what it leaves unsaid."""
    rule = RULES.get(node.op) if node.domain in STANDARD_DOMAINS else None
    if computed_from_sizes(node, findings.probe, findings.of_sizes):
        findings.of_sizes.update(t.name for t in node.outputs if t.name)
        flow_of_sizes(node, rule, findings)
        return
    site = Site(node, findings)
    shapes = findings.probe.shapes
    if rule is not None and all(t.name in shapes for t in (*node.inputs, *node.outputs) if t.name):
        rule.flow(site)
        unused = [index for index in site.inputs() if index not in site.used]
        if not all(np.prod(site.shape(index)) == 1 for index in unused):
            unused = site.inputs()
        site.freeze_inputs(f"{node.op} takes a parameter that is computed", unused)
        if Trait.MOVES not in traits_of(node.op):
            _freeze_lost(site, findings)
        for tensor in node.outputs:
            if tensor.name not in findings.labels and (tensor.outputs or tensor.name in read):
                site.freeze_inputs(f"no rule for output {tensor.name} of {node.op}")
        return
    name = node.op if node.domain in STANDARD_DOMAINS else f"{node.domain}::{node.op}"
    known = [index for index in site.inputs() if site.name(index) in shapes]
    site.freeze_inputs(f"no rule for operator {name}", known)
    why = f"used inside the body of {node.op}"
    if findings.model.origin.is_settled(node):
        why = "result of If, or used in its other branch"
    for name in captured_tensors([node]).keys() & findings.labels.keys():
        site.freeze(findings.channels(name), why)


def _unite_trips(node: gs.Node, findings: Findings) -> None:
    """Unite what the trips of a Loop or Scan make with what the first makes: all are one body."""
    sets, key, labels_of = findings.sets, findings.model.keys[id(node)], findings.labels
    in_first = findings.model.origin.in_first_trip
    for name in (tensor.name for tensor in node.outputs if tensor.name in in_first):
        both = (name, in_first[name])
        known = {each for each in both if each in labels_of and each not in findings.of_sizes}
        if not known:
            continue
        here, there = (labels_of[each] if each in known else ZERO for each in both)
        if known == {*both} and here.shape == there.shape:
            labels_of[name] = there  # so that results don't vary from trip to trip
        if here.shape != there.shape:  # a state may grow, but not along channels
            here, there = collapse(here), collapse(there)
        if here.shape == there.shape:
            sets.unite(here, there, Reason(key, "another trip meets frozen channels"))
            continue
        for labels in (here, there):
            sets.freeze(labels, Reason(key, "their number differs from trip to trip"))


def _freeze_lost(site: Site, findings: Findings) -> None:
    """Freeze channels that arrive along an axis which the node neither mixes nor passes on."""
    arriving, leaving = (
        {
            tensor.name: findings.sets.roots(findings.labels[tensor.name])
            for tensor in side
            if tensor.name in findings.labels and tensor.name not in findings.of_sizes
        }
        for side in (site.node.inputs, site.node.outputs)
    )
    mixed = {(each.x, each.x_axis) for each in findings.linears[-1:] if each.node == site.key}
    lost = [x for name, x in arriving.items() if {(name, a) for a in varying_axes(x)} - mixed]
    if lost:
        ended = np.setdiff1d(_distinct(lost), _distinct(leaving.values()))
        site.freeze(ended, f"{site.op} neither mixes nor passes channels along this axis")


def _distinct(arrays: Iterable[LabelArray]) -> LabelArray:
    return np.unique(
        np.concatenate([np.zeros(0, np.int64), *(collapse(x).ravel() for x in arrays)])
    )


def _summary(findings: Findings) -> Flow:
    sets, frozen = findings.sets, np.int64(0)
    roots = {n: np.broadcast_to(frozen, s) for n, s in findings.probe.shapes.items()}
    roots |= {name: sets.roots(labels) for name, labels in findings.data().items()}
    return Flow(
        labels=roots,
        axes={name: axes[0] for name, x in roots.items() if (axes := varying_axes(x))},
        linears=tuple(findings.linears),
        products=tuple(findings.products),
        bindings=tuple(findings.bindings),
        equal_counts=tuple(findings.equal_counts),
        makers={key: sets.roots(labels) for key, labels in findings.makers.items()},
        members=findings.makers,
        reasons=sets.reasons,
        of_sizes=frozenset(findings.of_sizes),
    )
