"""What tuning moves: fed to a part it is the model, and written it is what was fed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from differences import analysed
from net import Net
from nets import NETS
from precision import converted
from small_models import images, run

from onnx_reap.graph.analysis import Analysis
from onnx_reap.prune.refit.parameters import Parameters, find_parameters
from onnx_reap.prune.refit.step_sizes import step_sizes

CPU = ["CPUExecutionProvider"]
FLOAT32 = 1e-5  # relative: some sums of products in another order


def dense() -> onnx.ModelProto:
    """Dense layers of all kinds, and normalisations along the features."""
    n = Net({"x": ("N", 6, 10)}, opset=23)
    h = n.node("Add", n.node("MatMul", "x", n.random(10, 16, scale=0.3)), n.random(16))
    h = n.node("LayerNormalization", h, n.random(16), n.random(16))
    h = n.node("MatMul", n.node("Relu", h), n.random(16, 12, scale=0.3))
    h = n.node("RMSNormalization", h, n.random(12))
    h = n.node("Reshape", h, n.constant(np.array([-1, 72])))
    h = n.gemm(h, 72, 8, alpha=0.5, beta=2.0)
    h = n.node("Gemm", n.node("Relu", h), n.random(5, 8), n.random(1, 5), transB=1)
    return n.model(h)


def scaled() -> onnx.ModelProto:
    """Maps per channel of several kinds behind convolutions, one channel scaled by nothing."""
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.node("Mul", n.conv("x", 3, 8), n.random(1, 8, 1, 1))
    h = n.node("Add", n.norm(h, 8), n.random(8, 1, 1))
    n.weights[n.nodes[-2].input[1]][2] = 0
    h = n.node("Sub", n.conv(n.node("Relu", h), 8, 6, bias=False), n.random(1, 6, 1, 1))
    h = n.node("InstanceNormalization", n.node("Relu", h), n.random(6), n.random(6))
    return n.model(n.head(n.block(h, 6, 6), 6, 5))


MODELS = NETS | {"dense": dense, "scaled": scaled}


def feed_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    (value,) = model.graph.input
    shape = [d.dim_value for d in value.type.tensor_type.shape.dim[1:]]
    if len(shape) == 3:
        return {"x": images(4, size=shape[1], channels=shape[0])}
    return {"x": np.random.default_rng(4).standard_normal((4, *shape)).astype(np.float32)}


def parameters_of(analysis: Analysis, needed: list[str] | None = None) -> Parameters:
    linears = analysis.flow.linears
    every = [linear.node for linear in linears]
    outputs = [tensor.name for tensor in analysis.model.graph.outputs]
    return find_parameters(analysis.model, linears, [*outputs, *(needed or [])], every)


def fed_part(parameters: Parameters, analysis: Analysis, feed, values) -> np.ndarray:
    outputs = [tensor.name for tensor in analysis.model.graph.outputs]
    part = parameters.part({name: x.dtype for name, x in feed.items()}, outputs).whole()
    taken = {value.name for value in part.graph.input}
    return run(part, {name: x for name, x in {**feed, **values}.items() if name in taken})[0]


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_a_part_that_is_fed_its_parameters_is_the_model(build: Callable):
    model = build()
    feed = feed_of(model)
    analysis = analysed(model, feed)
    parameters = parameters_of(analysis)
    found = fed_part(parameters, analysis, feed, parameters.values)
    assert_close(found, run(model, feed)[0], FLOAT32)


@pytest.mark.parametrize("kind", [np.float32, np.float16])
@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_what_is_written_is_what_was_fed(build: Callable, kind: type):
    model = converted(build(), np.dtype(kind))
    feed = feed_of(model)
    analysis = analysed(model, {name: x.astype(kind) for name, x in feed.items()})
    parameters = parameters_of(analysis)
    rng = np.random.default_rng(0)
    steps = parameters.steps(dict.fromkeys(results(parameters), 1.0), zeros_stay=False)
    moved = {
        name: (x + 0.1 * steps[name] * rng.standard_normal(x.shape)).astype(np.float32)
        for name, x in parameters.values.items()
    }
    # As asked for; halves are rounded.
    values = moved if kind is np.float32 else parameters.as_stored(moved)
    wanted = fed_part(parameters, analysis, feed, values)
    untouched = run(analysis.model.to_run().whole(), feed)[0]
    parameters.write(moved)
    found = run(analysis.model.to_run().whole(), feed)[0]
    assert_close(found, wanted, FLOAT32)
    assert np.abs(found - untouched).max() > 0.01 * np.abs(untouched).max()


def test_every_weight_and_shift_moves():
    analysis = analysed(dense(), feed_of(dense()))
    sizes = sorted(x.size for x in parameters_of(analysis).values.values())
    assert sizes == sorted([160, 16, 16, 16, 192, 12, 576, 8, 40, 5])


def test_writing_what_is_there_changes_no_digit():
    model = scaled()
    analysis = analysed(model, feed_of(model))
    before = {name: c.values for name, c in analysis.model.constants().items()}
    parameters = parameters_of(analysis)
    parameters.write(parameters.values)
    after = analysis.model.constants()
    assert before.keys() == after.keys()
    assert all(after[name].values is array for name, array in before.items())


def test_tensors_between_a_layer_and_what_is_behind_stay_where_they_are_needed():
    model = scaled()
    feed = feed_of(model)
    analysis = analysed(model, feed)
    inner = analysis.flow.linears[0].y
    parameters = parameters_of(analysis, [inner])
    part = parameters.part({"x": np.dtype(np.float32)}, [inner]).whole()
    taken = {value.name for value in part.graph.input}
    values = {**feed, **parameters.values}
    found = run(part, {name: x for name, x in values.items() if name in taken})[0]
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    whole.graph.output.append(onnx.ValueInfoProto(name=inner))
    assert_close(found, run(whole, feed)[1], FLOAT32)


def test_weights_that_are_zero_take_no_step():
    """Biases that are zero do."""
    model = dense()
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor).copy()
        if array.ndim == 2:
            array[::2, 1::2] = 0
        else:
            array[::2] = 0
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    parameters = parameters_of(analysed(model, feed_of(model)))
    ones = dict.fromkeys(results(parameters), 1.0)
    steps = parameters.steps(ones, zeros_stay=True)
    for name, x in parameters.values.items():
        stay = (x == 0) & (x.ndim > 1)
        moves = np.broadcast_to(steps[name], x.shape)
        assert not moves[stay].any()
        assert (moves[~stay] > 0).all()


def test_a_layer_gets_no_bias_unless_it_may_have_one():
    n = Net({"x": ("N", 3, 8, 8)})
    model = n.model(n.head(n.node("Relu", n.conv("x", 3, 8, bias=False)), 8, 5))
    analysis = analysed(model, feed_of(model))
    outputs = [tensor.name for tensor in analysis.model.graph.outputs]
    for may_grow, count in (([], 3), ([analysis.flow.linears[0].node], 4)):
        found = find_parameters(analysis.model, analysis.flow.linears, outputs, may_grow)
        assert len(found.values) == count


def results(parameters: Parameters) -> list[str]:
    return [each.result for each in parameters.every]


def assert_close(found: np.ndarray, wanted: np.ndarray, tolerance: float) -> None:
    scale = np.abs(wanted).max()
    assert np.isfinite(found).all()
    assert np.abs(found.astype(np.float64) - wanted).max() <= tolerance * scale


def test_weights_are_matrices_where_a_step_tells_their_directions_apart():
    n = Net({"x": ("N", 3, 6, 6)}, opset=23)
    h = n.node("Relu", n.conv("x", 3, 8))
    h = n.node("Relu", n.conv(h, 8, 8, group=8))
    h = n.node("Relu", n.conv(h, 8, 12, group=2))
    h = n.node(
        "Transpose", n.node("Reshape", h, n.constant(np.array([-1, 12, 36]))), perm=[0, 2, 1]
    )
    h = n.node("MatMul", h, n.random(12, 10))
    n.gemm(n.node("ReduceMean", h, n.constant(np.array([1])), keepdims=0), 10, 20)
    model = n.model(n.nodes[-1].output[0])
    feed = feed_of(model)
    parameters = parameters_of(analysed(model, feed))
    plain, depthwise, grouped, matmul, head = (
        node.input[1] for node in model.graph.node if node.op_type in ("Conv", "MatMul", "Gemm")
    )
    assert {plain, depthwise, grouped, matmul, head} <= parameters.values.keys()
    # 4 samples in a batch: the head's 20 x 10 take 10 positions, which three batches have.
    few, enough = (step_sizes(parameters, feed, together, CPU) for together in (2, 3))
    assert few.matrices == {plain: 1, grouped: 2, matmul: 1}
    assert enough.matrices == {**few.matrices, head: 1}
    assert few.scales.keys() == parameters.values.keys()
