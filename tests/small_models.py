"""Small networks with random weights, and what tests do with them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from net import Net


def chain(channels: int = 16, seed: int = 0, batch: int | str = "N", size: int | str = 8, **net):
    """Image -> three blocks -> classes; the first two blocks can be pruned, the third too."""
    n = Net({"x": (batch, 3, size, size)}, seed, **net)
    h = n.block("x", 3, channels)
    h = n.block(h, channels, channels)
    h = n.block(h, channels, channels)
    y = n.head(h, channels, 5)
    return n.model(y)


def stateful() -> onnx.ModelProto:
    """Image and the state of an LSTM, whose batch lies along its second axis -> classes, state."""
    n = Net({"x": ("N", 3, 8, 8), "state": (2, "N", 8)})
    h = n.node("GlobalAveragePool", n.block(n.block("x", 3, 8), 8, 8))
    h = n.node("Unsqueeze", n.node("Flatten", h), n.constant([0]))
    first = [n.node("Gather", "state", n.constant(np.array([i])), axis=0) for i in (0, 1)]
    weights = [n.random(1, 32, 8, scale=0.3) for _ in "wr"]
    _, h, c = n.node("LSTM", h, *weights, "", "", *first, outputs=3, hidden_size=8, name="lstm")
    y = n.gemm(n.node("Squeeze", h, n.constant([0])), 8, 5)
    return n.model(y, n.node("Concat", h, c, axis=0, name="last"))


def images(count: int = 24, size: int = 8, seed: int = 1, channels: int = 3) -> np.ndarray:
    """Smooth random images, (count, channels, size, size) float32."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((count, channels, size, size))
    smooth = noise + np.roll(noise, 1, 2) + np.roll(noise, 1, 3)
    return smooth.astype(np.float32)


def weights_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


def run(model: onnx.ModelProto, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Run in onnxruntime without optimization."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, dict(feed))


def bare(model: onnx.ModelProto) -> bytes:
    """The model without metadata, which names the settings."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    del out.metadata_props[:]
    return out.SerializeToString(deterministic=True)
