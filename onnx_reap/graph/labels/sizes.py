"""Shape arithmetic: numbers that are computed from the sizes of tensors."""

from collections.abc import Mapping, Set

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx_reap.graph.ir.domains import STANDARD_DOMAINS
from onnx_reap.graph.ir.export import tensor_proto
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.probe import Probe
from onnx_reap.graph.labels.kept import Kept
from onnx_reap.graph.labels.labels import LabelArray, varying_axes
from onnx_reap.graph.labels.site import Findings, SizeSite
from onnx_reap.graph.rules.rule import Rule
from onnx_reap.graph.rules.traits import Trait, traits_of
from onnx_reap.onnxio.dtypes import is_float
from onnx_reap.onnxio.session import run, session


def computed_from_sizes(node: gs.Node, probe: Probe, of_sizes: Set[str]) -> bool:
    """Whether a node's (small) outputs follow from the shapes of tensors alone."""
    traits = traits_of(node.op)
    if node.domain not in STANDARD_DOMAINS or Trait.RANDOM in traits:
        return False
    if Trait.FILLS in traits and is_float(probe.dtypes[node.outputs[0].name]):
        return False
    if any(t.name not in probe.values for t in node.outputs if t.name):
        return False
    if Trait.MEASURES in traits:
        return True
    names = [t.name for t in node.inputs if t.name and not isinstance(t, gs.Constant)]
    bodies = any(isinstance(value, gs.Graph) for value in node.attrs.values())
    return bool(names) and not bodies and all(name in of_sizes for name in names)


def flow_of_sizes(node: gs.Node, rule: Rule | None, findings: Findings) -> None:
    """Follow the sizes that each number of a tensor is computed from.

    Labels of such tensors are negative; `findings.sizes` tells the axes that each stands for.
    """
    site = SizeSite(node, findings)
    if Trait.MEASURES in traits_of(node.op):
        site.set_labels(_counts(site, findings))
    elif rule is not None and Trait.MOVES in traits_of(node.op):
        rule.flow(site)
    else:
        arriving = [findings.measured(site.labels(index)) for index in site.inputs()]
        number = findings.new_size(axis for axes in arriving for axis in axes)
        for index in range(len(node.outputs)):
            site.set_labels(np.array(number), index)


def _counts(site: SizeSite, findings: Findings) -> LabelArray:
    if site.name() in findings.of_sizes:  # whose own sizes never change
        return np.array(0)
    labels = site.labels()
    axes = varying_axes(labels)
    if site.op == "Size":
        return np.array(findings.new_size((site.name(), axis) for axis in axes))
    counts = np.zeros(labels.ndim, np.int64)
    for axis in axes:
        counts[axis] = findings.new_size([(site.name(), axis)])
    return counts[site.attribute("start", 0) : site.attribute("end", labels.ndim)]


def sizes_after(
    model: Model, probe: Probe, of_sizes: Set[str], kept: Kept
) -> dict[str, np.ndarray]:
    """Recompute tensors that follow from sizes; return those that change, as in the probe."""
    given: dict[str, np.ndarray] = {}
    nodes = []
    for node in model.nodes:
        if not any(t.name in of_sizes for t in node.outputs):
            continue
        if Trait.MEASURES in traits_of(node.op):
            given[node.outputs[0].name] = _measure(node, probe, kept)
        else:
            nodes.append(node)
    new = _changed(given, probe)
    if not new or not nodes:
        return new
    wanted = [t.name for node in nodes for t in node.outputs if t.name]
    proto = model.light.proto
    part = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import)
    part.graph.name = "sizes"
    part.graph.node.extend(model.node_proto(node) for node in nodes)
    constants = {t.name: t for n in nodes for t in n.inputs if isinstance(t, gs.Constant)}
    part.graph.initializer.extend(tensor_proto(tensor) for tensor in constants.values())
    used = {t.name for node in nodes for t in node.inputs}
    given = {name: value for name, value in given.items() if name in used}
    part.graph.input.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, value.shape)
        for name, value in given.items()
    )
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    active = session(part, ["CPUExecutionProvider"], optimize=False)
    results = run(active, wanted, given)
    return new | _changed(results, probe)


def _measure(node: gs.Node, probe: Probe, kept: Kept) -> np.ndarray:
    name = node.inputs[0].name
    shape = list(probe.shapes[name])
    if name in kept:
        axis, stays = kept[name]
        shape[axis] = len(stays)
    if node.op == "Size":
        return np.array(np.prod(shape), np.int64)
    end = node.attrs.get("end", len(shape))
    return np.array(shape[node.attrs.get("start", 0) : end], np.int64)


def _changed(values: Mapping[str, np.ndarray], probe: Probe) -> dict[str, np.ndarray]:
    return {n: v for n, v in values.items() if not np.array_equal(v, probe.values[n])}


def corrections_needed(node: gs.Node, kept: Kept, values: Mapping[str, np.ndarray]) -> bool:
    """Whether a cut touches a node's tensors."""
    names = [t.name for t in (*node.inputs, *node.outputs)]
    return any(name in kept or name in values for name in names)
