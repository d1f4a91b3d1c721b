"""The oracle of gradients: central differences of the squared error, one entry at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from small_models import run

from onnx_reap.data import open_calibration
from onnx_reap.graph.analysis import Analysis, analyse
from onnx_reap.graph.inputs import model_inputs
from onnx_reap.graph.ir.model import Model
from onnx_reap.measure.autodiff.backward import (
    Facts,
    first_result,
    with_errors,
    with_gradients,
)
from onnx_reap.measure.autodiff.tape import PREFIX
from onnx_reap.onnxio.extract import bodies_of, names_in_subgraphs
from onnx_reap.onnxio.light_model import LightModel

WEIGHT = 0.7  # of the one goal
STEP = 1 / 64  # of differences


def analysed(model: onnx.ModelProto, data: Mapping[str, np.ndarray]) -> Analysis:
    inputs = model_inputs(model)
    return analyse(model, inputs, open_calibration(dict(data), inputs))


def facts_of(analysis: Analysis, model: Model | None = None) -> Facts:
    """What is known of the original; layers by the first result of their node."""
    model = model or analysis.model
    linears = analysis.flow.linears
    nodes = ((layer, model.node_proto(model.node(layer.node))) for layer in linears)
    layers = {first_result(node): layer for layer, node in nodes}
    return Facts(analysis.probe.shapes, layers)


def part_of(model: Model, fed: Mapping[str, np.ndarray], goals: Sequence[str]) -> onnx.ModelProto:
    return model.part({name: array.dtype for name, array in fed.items()}, goals).whole()


def gradients_of(
    part: onnx.ModelProto,
    facts: Facts,
    fed: Mapping[str, np.ndarray],
    wanted: Sequence[str],
    step: float = STEP,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], float]:
    """Return gradients as the backward pass has them, differences, and the error as it has it."""
    goal = part.graph.output[0].name
    y = run(part, fed)[0]
    target = np.random.default_rng(7).standard_normal(y.shape).astype(np.float32)
    trainer = with_gradients(LightModel(part), facts, {goal: WEIGHT}, wanted)
    check_nodes(trainer.model.whole())
    fed_both = {**fed, trainer.targets[goal]: target}
    found = run(trainer.model.whole(), fed_both)
    (error,) = run(with_errors(LightModel(part), facts, {goal: WEIGHT}).model.whole(), fed_both)
    gradients = dict(zip(wanted, found, strict=True))
    return gradients, differences(part, fed, target, wanted, step), float(error)


def check_nodes(model: onnx.ModelProto) -> None:
    """See that every node of the backward pass is legal in the model's operator set."""
    context = onnx.checker.C.CheckerContext()
    context.ir_version = model.ir_version
    context.opset_imports = {o.domain: o.version for o in model.opset_import}
    for node in model.graph.node:
        if node.output[0].startswith(PREFIX):
            onnx.checker.check_node(_on_its_own(node), context)


def _on_its_own(node: onnx.NodeProto) -> onnx.NodeProto:
    """Give bodies what they read from outside, which the checker of nodes does not know."""
    alone = onnx.NodeProto()
    alone.CopyFrom(node)
    read = dict.fromkeys(names_in_subgraphs(node))
    for body in bodies_of(alone):
        body.initializer.extend(onnx.numpy_helper.from_array(np.float32([]), n) for n in read)
    return alone


def differences(
    part: onnx.ModelProto,
    fed: Mapping[str, np.ndarray],
    target: np.ndarray,
    wanted: Sequence[str],
    step: float,
) -> dict[str, np.ndarray]:
    """Differentiate by every entry; the step is a power of two, so that it is exact."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        part.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    slopes = {}
    for name in wanted:
        slope = np.zeros(fed[name].shape)
        for index in np.ndindex(slope.shape):
            errors = []
            for sign in (1, -1):
                moved = fed[name].copy()
                moved[index] += sign * step
                y = session.run(None, {**fed, name: moved})[0].astype(np.float64)
                errors.append(WEIGHT * float(np.square(y - target).sum()))
            slope[index] = (errors[0] - errors[1]) / (2 * step)
        slopes[name] = slope
    return slopes


def assert_close(found: np.ndarray, slope: np.ndarray, tolerance: float) -> None:
    """Compare a gradient with differences, relative to the largest entry."""
    assert found.shape == slope.shape
    largest = np.abs(slope).max()
    assert largest > 1e-3
    np.testing.assert_allclose(found, slope, rtol=0, atol=tolerance * largest)
