"""Rows times matrix must be what onnxruntime computes, for every kind of linear node."""

import numpy as np
import onnx
import pytest
from onnx import helper

from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.probe import probe
from onnx_reap.graph.labels.flow import flow
from onnx_reap.measure.activations.rows import (
    input_rows,
    matrix_to_weight,
    output_rows,
    sample_positions,
    weight_to_matrix,
)
from onnx_reap.onnxio.extract import with_outputs
from onnx_reap.onnxio.session import run, session

CPU = ["CPUExecutionProvider"]

CASES = {
    "conv": ("Conv", (2, 6, 9, 8), (4, 6, 3, 3), {"pads": [1, 1, 1, 1]}),
    "strided": ("Conv", (2, 6, 9, 8), (4, 6, 3, 2), {"strides": [2, 3], "pads": [0, 1, 2, 0]}),
    "dilated": ("Conv", (2, 6, 11, 12), (4, 6, 3, 3), {"dilations": [2, 3], "pads": [2, 3, 2, 3]}),
    "grouped": ("Conv", (2, 6, 9, 8), (4, 3, 3, 3), {"group": 2}),
    "depthwise": ("Conv", (2, 6, 9, 8), (12, 1, 3, 3), {"group": 6, "pads": [1, 1, 1, 1]}),
    "one": ("Conv", (2, 1, 9, 8), (3, 1, 3, 3), {}),
    "1d": ("Conv", (2, 6, 20), (4, 6, 5), {"strides": [2], "pads": [2, 2]}),
    "3d": ("Conv", (1, 3, 5, 6, 7), (4, 3, 3, 2, 1), {"pads": [1, 0, 0, 1, 1, 0]}),
    "same upper": (
        "Conv",
        (1, 3, 8, 9),
        (4, 3, 3, 2),
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    ),
    "same lower": ("Conv", (1, 3, 8, 9), (4, 3, 3, 2), {"auto_pad": "SAME_LOWER"}),
    "transposed": (
        "ConvTranspose",
        (2, 6, 5, 4),
        (6, 4, 3, 2),
        {"strides": [2, 3], "pads": [1, 0, 1, 1]},
    ),
    "transposed dilated": ("ConvTranspose", (1, 6, 5, 4), (6, 4, 3, 2), {"dilations": [2, 3]}),
    "transposed grouped": (
        "ConvTranspose",
        (1, 6, 5, 4),
        (6, 2, 3, 3),
        {"group": 3, "strides": [2, 2], "output_padding": [1, 0], "pads": [2, 2, 2, 2]},
    ),
    "transposed 1d": ("ConvTranspose", (1, 6, 7), (6, 2, 4), {"strides": [4]}),
    "transposed depthwise": ("ConvTranspose", (1, 6, 5, 4), (6, 1, 3, 3), {"group": 6}),
    "transposed sized": (
        "ConvTranspose",
        (1, 6, 5, 4),
        (6, 2, 3, 3),
        {"strides": [2, 2], "output_shape": [10, 8]},
    ),
    "transposed same": (
        "ConvTranspose",
        (1, 6, 5, 4),
        (6, 2, 3, 3),
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
    ),
    "gemm": ("Gemm", (5, 6), (6, 4), {"alpha": 0.5}),
    "gemm transposed": ("Gemm", (5, 6), (4, 6), {"transB": 1}),
    "matmul": ("MatMul", (2, 3, 6), (6, 4), {}),
}


def one_node(op, x_shape, w_shape, attributes):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal(w_shape).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "w"], ["y"], "node", **attributes)],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x_shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model, rng.standard_normal(x_shape).astype(np.float32), weight


@pytest.mark.parametrize("limit", [3, 10**6], ids=["sampled", "all"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_rows_times_matrix_is_what_onnxruntime_computes(case, limit):
    proto, x, weight = one_node(*case)
    model = Model(proto)
    (linear,) = flow(model, probe(model, [{"x": x}], CPU)).linears
    y = run(session(with_outputs(proto, ["y"]), CPU), ["y"], {"x": x})["y"]
    at = sample_positions(linear, y.shape, limit, np.random.default_rng(1))
    rows = input_rows(linear, x, y.shape, at)
    matrix = weight_to_matrix(linear, weight)
    np.testing.assert_allclose(
        rows @ matrix, output_rows(linear, y, at), rtol=1e-4, atol=1e-4
    )  # float32 sums of up to 54 terms
    np.testing.assert_array_equal(matrix_to_weight(linear, matrix, weight), weight)


def test_positions_are_distinct_and_seeded():
    proto, x, _ = one_node(*CASES["conv"])
    model = Model(proto)
    (linear,) = flow(model, probe(model, [{"x": x}], CPU)).linears
    first, again = (
        sample_positions(linear, (2, 4, 9, 8), 7, np.random.default_rng(5)) for _ in range(2)
    )
    np.testing.assert_array_equal(first, again)
    assert all(len(set(row)) == 7 for row in first.tolist())


@pytest.mark.parametrize("total", [36, 49, 1000])
def test_every_position_is_as_likely_as_the_others(total: int):
    proto, x, _ = one_node(*CASES["one"])
    model = Model(proto)
    (layer,) = flow(model, probe(model, [{"x": x}], CPU)).linears
    rng = np.random.default_rng(0)
    at = sample_positions(layer, (20_000, 3, total, 1), 32, rng)
    chances = np.bincount(at.ravel(), minlength=total) / len(at)
    np.testing.assert_allclose(chances, 32 / total, atol=0.02)  # 4 standard deviations and more
