"""From a forward pass to one that gives a squared error, or its gradients."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import onnx

from onnx_reap.graph.analysis import Analysis
from onnx_reap.graph.ir.domains import STANDARD_DOMAINS
from onnx_reap.graph.ir.names import first_output
from onnx_reap.graph.labels.records import Linear
from onnx_reap.graph.rules.table import TRAITS
from onnx_reap.graph.rules.traits import Trait
from onnx_reap.measure.autodiff.gradient import Step
from onnx_reap.measure.autodiff.older import WRITTEN_IN
from onnx_reap.measure.autodiff.recurrent import PROJECTION
from onnx_reap.measure.autodiff.table import GRADIENTS
from onnx_reap.measure.autodiff.tape import PREFIX, Constants, Shapes, Tape, Value, opset
from onnx_reap.onnxio.extract import names_in_subgraphs
from onnx_reap.onnxio.light_model import LightModel

SIZES = frozenset(op for op, traits in TRAITS.items() if Trait.MEASURES in traits)
"""What they give does not change with values."""


@dataclass(frozen=True)
class Facts:
    """What is known of a model's tensors."""

    shapes: Shapes  # As they were before channels were cut: ranks, spatial sizes and ones are right
    # By the first result of their node. Other convolutions and Gemms let no gradient through.
    layers: Mapping[str, Linear]
    # Tensors of other spatial sizes in some runs, which let no gradient through
    varying: Collection[str] = frozenset()

    @classmethod
    def of(cls, analysis: Analysis) -> Facts:
        """Return what is known of a model that was not cut."""
        model = analysis.model
        results = {model.keys[id(node)]: first_output(node) for node in model.nodes}
        layers = {results[layer.node]: layer for layer in analysis.flow.linears}
        return cls(analysis.probe.shapes, layers, analysis.varying)


class Scores(Protocol):
    """An output that holds scores of classes."""

    @property
    def output(self) -> str:
        """Its name."""
        ...

    def distance(self, y: Value, wanted: Value) -> Value:
        """Write how far distributions are from wanted ones."""
        ...


@dataclass(frozen=True)
class Trainer:
    """A model that returns the gradients of an error."""

    model: LightModel
    targets: Mapping[str, str]  # Inputs to feed what tensors are wanted to be
    gradients: Mapping[str, str]  # Outputs, by what the gradient is of


def reached(part: LightModel, facts: Facts, wanted: Collection[str]) -> set[str]:
    """Tell which tensors of a part get their whole gradient from its outputs."""
    if (version := opset(part)) < WRITTEN_IN:
        return set()
    constants = part.constants
    leading = {value.name for value in part.graph.output}
    blocked: set[str] = set()
    for node in reversed(part.graph.node):
        if node.op_type in SIZES:
            continue
        ahead = any(name in blocked for name in node.output)
        if any(name in leading for name in node.output):
            leading |= {*filter(None, _inputs(node, facts.layers))}
        blocked.update(names_in_subgraphs(node))
        for place, name in enumerate(_inputs(node, facts.layers)):
            if name and (ahead or not _passes(node, place, facts, constants, version)):
                blocked.add(name)
    return (set(wanted) & leading) - blocked


def stopped(part: LightModel, facts: Facts, wanted: Collection[str]) -> set[str]:
    """Tell from which tensors of a part some gradient towards the wanted ones gets lost."""
    constants, version = part.constants, opset(part)
    depend, found = set(wanted), set[str]()
    for node in part.graph.node:
        if node.op_type in SIZES:
            continue
        read = _inputs(node, facts.layers)
        known = [place for place, name in enumerate(read) if name in depend]
        lost = not depend.isdisjoint(names_in_subgraphs(node)) or not found.isdisjoint(read)
        if known or lost:
            depend.update(filter(None, node.output))
        if lost or not all(_passes(node, i, facts, constants, version) for i in known):
            found.update(filter(None, node.output))
    return found


def with_gradients(
    part: LightModel,
    facts: Facts,
    goals: Mapping[str, float],
    wanted: Sequence[str],
) -> Trainer:
    """Append a backward pass from a squared error.

    Parameters
    ----------
    part : LightModel
        Its inputs and outputs stay.
    goals : mapping of str to float
        Tensors whose squared distance from a target counts, with a weight each.
    wanted : sequence of str
        Inputs to differentiate by, all `reached`.
    """
    out, tape = _continued(part, facts)
    targets = _targets(goals)
    starts = {
        name: (tape.value(name) - tape.value(targets[name])) * (2 * weight)
        for name, weight in goals.items()
    }
    found = backpropagate(tape, part.graph.node, starts, wanted)
    given = {name: gradient.name for name, gradient in found.items()}
    return Trainer(_finished(out, part, targets.values(), [*given.values()]), targets, given)


@dataclass(frozen=True)
class Comparison:
    """A model that returns errors by tensor."""

    model: LightModel
    targets: Mapping[str, str]  # Inputs to feed what tensors are wanted to be
    errors: Mapping[str, str]  # Outputs: squared errors, weighted, by tensor
    distance: str | None  # Output: the distance of scores, if there are any


def with_errors(
    part: LightModel, facts: Facts, goals: Mapping[str, float], scores: Sequence[Scores] = ()
) -> Comparison:
    """Append what compares tensors with targets, see `with_gradients`."""
    out, tape = _continued(part, facts)
    targets = _targets([*goals, *(each.output for each in scores)])
    errors, distances = {}, []
    for name, weight in goals.items():
        miss = tape.value(name) - tape.value(targets[name])
        errors[name] = (miss.op("ReduceSumSquare", keepdims=0) * weight).name
    for each in scores:
        y, target = tape.value(each.output), tape.value(targets[each.output])
        distances.append(each.distance(y, target))
    total = tape.sum(distances).name if distances else None
    outputs = [*errors.values(), *filter(None, [total])]
    model = _finished(out, part, targets.values(), outputs)
    return Comparison(model, targets, errors, total)


def _continued(part: LightModel, facts: Facts) -> tuple[onnx.ModelProto, Tape]:
    """Copy a part, to append nodes to it."""
    out = onnx.ModelProto()
    out.CopyFrom(part.proto)
    return out, Tape(replace(part, proto=out), facts.shapes, facts.layers)


def _targets(names: Iterable[str]) -> dict[str, str]:
    return {name: f"{PREFIX}target/{name}" for name in dict.fromkeys(names)}


def _finished(
    out: onnx.ModelProto,
    part: LightModel,
    fed: Iterable[str],
    outputs: Sequence[str],
) -> LightModel:
    """Declare further inputs, and the outputs."""
    floats = onnx.TensorProto.FLOAT
    out.graph.input.extend(onnx.helper.make_tensor_value_info(name, floats, None) for name in fed)
    del out.graph.output[:]
    out.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    return replace(part, proto=out)


def backpropagate(
    tape: Tape,
    nodes: Sequence[onnx.NodeProto],
    starts: Mapping[str, Value],
    wanted: Sequence[str],
) -> dict[str, Value]:
    """Write a backward pass from gradients at some tensors.

    Returns
    -------
    dict of str to Value
        Gradients at the `wanted` tensors, which must all be `reached` from the first ones.
    """
    gradients = {name: [given] for name, given in starts.items()}
    depend = _depending(nodes, wanted, tape.layers)
    for node in reversed(nodes):
        for index, result in enumerate(node.output):
            if result not in depend or result not in gradients:
                continue
            dy = tape.sum(gradients[result])
            gradients[result] = [dy]
            rule = GRADIENTS.get(node.op_type)
            for place, name in enumerate(_inputs(node, tape.layers)):
                if name in depend and rule is not None:
                    found = rule.write(Step(tape, node, dy, place, index))
                    gradients.setdefault(name, []).append(found)
    return {name: tape.sum(gradients[name]) for name in wanted}


def first_result(node: onnx.NodeProto) -> str:
    """Return the name of the first result that a node gives, whatever it leaves out."""
    return next((name for name in node.output if name), "")


def _inputs(node: onnx.NodeProto, layers: Mapping[str, Linear]) -> list[str]:
    """Return what a node reads; a recurrent layer, as if it did, also its projection."""
    layer = layers.get(first_result(node))
    if layer is None or not layer.recurrent:
        return [*node.input]
    return [*node.input, *[""] * (PROJECTION - len(node.input)), layer.y]


def _depending(
    nodes: Sequence[onnx.NodeProto], wanted: Collection[str], layers: Mapping[str, Linear]
) -> set[str]:
    """Return the tensors that depend on the wanted ones, themselves included."""
    depend = set(wanted)
    for node in nodes:
        if depend & {*_inputs(node, layers)} and node.op_type not in SIZES:
            depend |= {*filter(None, node.output)}
    return depend


def _passes(
    node: onnx.NodeProto, place: int, facts: Facts, constants: Constants, version: int
) -> bool:
    rule = GRADIENTS.get(node.op_type) if node.domain in STANDARD_DOMAINS else None
    if rule is None or version < rule.since or _is_training(node, constants):
        return False
    if rule.places is not None and place not in rule.places:
        return False
    if any(node.input[needed] not in constants for needed in rule.constant):
        return False
    result = first_result(node)
    layer = facts.layers.get(result)
    is_layer = layer is not None and not layer.recurrent
    if rule.layer and not is_layer:
        return False
    read = _inputs(node, facts.layers)[place]
    names = [result] if is_layer and place > 0 else [result, read]
    if any(name not in facts.shapes or name in facts.varying for name in names):
        return False
    return is_layer or rule.fits is None or rule.fits(node, constants, facts.shapes)


def _is_training(node: onnx.NodeProto, constants: Constants) -> bool:
    """Whether a node may use statistics of the batch, or drop values."""
    if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
        mode = constants.get(node.input[2])
        return mode is None or bool(mode.any())
    return any(a.name == "training_mode" and a.i for a in node.attribute)
