"""Whole runs, refit included, on models whose graph or numbers are out of the ordinary."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from net import Net
from small_models import chain, images, run

import onnx_reap
from onnx_reap.graph.epilogue import Epilogue
from onnx_reap.prune.refit.layer import Rows, Use, fit_layer
from onnx_reap.solve.backend import Backend


def better_than_the_cut(model: onnx.ModelProto, data: np.ndarray, **settings) -> onnx_reap.Result:
    """Prune, and see that the refit brought the outputs nearer to the original's."""
    result = onnx_reap.reap(model, data, target_macs=0.6, round_to=1, **settings)
    batch = {"x": data[: model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or len(data)]}
    want = run(model, batch)[0]
    repaired, cut = (run(m, batch)[0] for m in (result.model, onnx_reap.cut(model, result.plan)))
    assert np.square(repaired - want).sum() < np.square(cut - want).sum()
    return result


@pytest.mark.parametrize("ir", [3, 8])
def test_initializers_that_are_listed_as_inputs(ir):
    model = chain()
    model.ir_version = ir
    model.graph.input.extend(
        onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims)
        for t in model.graph.initializer
    )
    better_than_the_cut(model, images())


def test_nodes_that_the_cut_inserts():
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.node("LRN", n.block("x", 3, 16), size=5)
    h = n.block(h, 16, 16)
    starts, ends, axes, steps = (n.constant(np.array([v])) for v in (0, 16, 1, 2))
    h = n.block(n.node("Slice", h, starts, ends, axes, steps), 8, 8)
    better_than_the_cut(n.model(n.head(h, 8, 5)), images())


def test_indices_that_the_cut_corrects():
    n = Net({"x": ("N", 3, 8, 8)})
    twice = np.array([0, *range(8), -1])  # whose gradients add up
    h = n.node("Gather", n.block("x", 3, 8), twice, axis=1, name="taken")
    model = n.model(n.head(n.block(h, 10, 8), 8, 5))
    result = onnx_reap.reap(model, images(), ratio=0.5, round_to=1, joint_refit=2)
    index = next(node.input[1] for node in result.model.graph.node if node.name == "taken")
    assert index not in {tensor.name for tensor in model.graph.initializer}


def test_float16_with_large_activations():
    model = chain(dtype=np.float16)
    data = (images() * 30).astype(np.float16)
    report = onnx_reap.reap(model, data, target_macs=0.6).report
    assert all(np.isfinite(layer.error_after) for layer in report.refits)


def test_a_fixed_batch_that_the_samples_do_not_fill():
    model, data = chain(batch=8), images(33)
    padded = np.concatenate([data, *[data[-1:]] * 7])
    result = better_than_the_cut(model, data, seed=3)
    # Were copies of the last image samples too, the padded set would give the same weights.
    assert result.model != onnx_reap.reap(model, padded, target_macs=0.6, round_to=1, seed=3).model


def test_dead_outputs_say_nothing():
    """A BatchNormalization whose scale is zero gives a constant: its layer must not aim at it."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 300, 40)).astype(np.float32)
    weight = rng.standard_normal((1, 40, 6))
    y = x @ weight + 8 * rng.standard_normal((1, 300, 6))
    bias, live = np.zeros((1, 6)), np.array([1.0] * 4 + [0.0] * 2)
    backend = Backend.cpu()
    epilogue = Epilogue(live, np.array([0.0] * 4 + [5.0, 5.0]), "u")
    wanted = (y * live + epilogue.shift).astype(np.float32)
    fitted = fit_layer(
        [Use(Rows(x, wanted, None, 240), bias, epilogue)], weight, backend, on_all=True
    )
    alone = fit_layer(
        [
            Use(
                Rows(x, wanted[..., :4], None, 240),
                bias[:, :4],
                Epilogue(live[:4], epilogue.shift[:4], "u"),
            )
        ],
        weight[..., :4],
        backend,
        on_all=True,
    )
    assert fitted.damping == alone.damping
    assert fitted.error_after == pytest.approx(alone.error_after)
    np.testing.assert_allclose(fitted.weight[..., :4], alone.weight, rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(fitted.weight[..., 4:], weight[..., 4:])


def test_a_matmul_whose_result_is_an_output_keeps_its_own_bias():
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.block(n.block("x", 3, 16), 16, 16)
    h = n.node("Flatten", n.node("GlobalAveragePool", h))
    raw = n.node("MatMul", h, n.random(16, 5))
    shifted = n.node("Add", raw, n.random(5))
    model, data = n.model(raw, shifted), images()
    result = onnx_reap.reap(model, data, target_macs=0.6, round_to=1)
    gap = [
        b - a for a, b in zip(*(run(m, {"x": data}) for m in (model, result.model)), strict=True)
    ]
    np.testing.assert_allclose(gap[0], gap[1], atol=1e-5)  # float32 sums
    assert np.abs(gap[0].mean(0)).max() < 0.1 * run(model, {"x": data})[0].std()


@pytest.mark.parametrize("op", ["Add", "Sum"])
def test_both_ways_to_write_a_shortcut_are_corrected(op):
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.block("x", 3, 16)
    for _ in range(3):
        h = n.node("Relu", n.node(op, n.conv(n.block(h, 16, 16), 16, 16), h))
    report = onnx_reap.reap(n.model(n.head(h, 16, 5)), images(), target_macs=0.6).report
    errors = [layer.error_after for layer in report.refits]
    assert max(errors) < 0.2


@pytest.mark.parametrize("passes", [0, 2])
@pytest.mark.parametrize("op", ["Compress", "NonZero"])
def test_layers_behind_as_many_rows_as_values_say(op: str, passes: int):
    """Both models may have other rows there: layers in front of them are repaired."""
    n = Net({"x": ("N", 6)})
    h = n.node("Relu", n.node("MatMul", "x", n.random(6, 16, scale=0.3)))
    h = n.node("Relu", n.node("MatMul", h, n.random(16, 16, scale=0.3)))
    score = n.node("ReduceMax", n.node("MatMul", h, n.random(16, 3)), axes=[1], keepdims=0)
    large = n.node("Greater", score, n.constant(np.float32(0.1)))
    if op == "Compress":
        rows = n.node("Compress", h, large, axis=0)
    else:
        rows = n.node("Gather", h, n.node("Squeeze", n.node("NonZero", large), n.constant([0])))
    inner = n.node("Relu", n.node("MatMul", rows, n.random(16, 12, scale=0.3), name="behind"))
    model = n.model(n.node("MatMul", inner, n.random(12, 4, scale=0.3)), h)
    data = np.random.default_rng(0).standard_normal((200, 6)).astype(np.float32)
    settings = {"target_macs": 0.6, "round_to": 1, "joint_refit": passes, "tune": passes}
    report = onnx_reap.reap(model, data, **settings).report
    told = "behind was not refitted: how many rows it receives depends on what other layers give"
    assert told in report.notes and not any("onnxruntime" in note for note in report.notes)
    refitted = {each.node for each in report.refits}
    assert refitted and "behind" not in refitted
