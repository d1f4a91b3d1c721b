"""Gradients of normalizations and of softmax."""

from collections.abc import Mapping, Sequence

import numpy as np

from onnx_reap.measure.autodiff.gradient import Gradient, Step
from onnx_reap.measure.autodiff.tape import Value


def batch_norm(at: Step) -> Value:
    """Gradient of a BatchNormalization that does not train, towards all but its statistics."""
    if at.place == 2:
        return _over_channels(at, at.dy)
    mean, variance = (at.tape.constants[at.node.input[place]] for place in (3, 4))
    shape = _by_channel(at)
    root = at.tape.floats(1 / np.sqrt(variance + at.get("epsilon", 1e-5)).reshape(shape))
    if at.place == 1:
        return _over_channels(at, at.dy * (at.x - at.tape.floats(mean.reshape(shape))) * root)
    return at.dy * (at.input(1).reshape(shape) * root)


def layer_norm(at: Step) -> Value:
    """Gradient of a LayerNormalization."""
    axes = range(at.get("axis", -1) % at.rank, at.rank)
    if at.place == 2:
        return at.folded(at.dy)
    if at.place == 1:
        return at.folded(at.dy * _normal(at, at.x, axes)[0])
    return _normalized(at, at.x, at.dy * at.input(1), axes)


def instance_norm(at: Step) -> Value:
    """Gradient of an InstanceNormalization."""
    if at.place == 2:
        return _over_channels(at, at.dy)
    if at.place == 1:
        return _over_channels(at, at.dy * _normal(at, at.x, range(2, at.rank))[0])
    scaled = at.dy * at.input(1).reshape(_by_channel(at))
    return _normalized(at, at.x, scaled, range(2, at.rank))


def group_norm(at: Step) -> Value:
    """Gradient of a GroupNormalization, whose scale was one number a group before version 21."""
    scale, apart = at.input(1), [0, at.get("num_groups", 1), -1]
    by_group = at.tape.opset < 21
    if at.place:
        normal = _normal(at, at.x.reshape(apart), [2])[0]
        found = at.dy if at.place == 2 else at.dy * normal.like(at.x)
        return (
            found.reshape(apart).sum([0, 2], keep=False) if by_group else _over_channels(at, found)
        )
    if by_group:
        scaled = at.dy.reshape(apart) * scale.reshape([-1, 1])
    else:
        scaled = (at.dy * scale.reshape(_by_channel(at))).reshape(apart)
    return _normalized(at, at.x.reshape(apart), scaled, [2]).like(at.x)


def local_response(at: Step) -> Value:
    """Gradient of an LRN: sums over neighbours are products with a matrix of as many channels."""
    size, beta = at.get("size", 1), at.get("beta", 0.75)
    channels = np.arange(at.x.shape[1])
    ahead = channels - channels[:, None]
    near = (ahead >= -((size - 1) // 2)) & (ahead <= size // 2)
    window = near * (at.get("alpha", 1e-4) / size)
    x, y, dy = (each.reshape([0, 0, -1]) for each in (at.x, at.y, at.dy))
    base = at.tape.floats(window).op("MatMul", x * x) + at.get("bias", 1.0)
    back = at.tape.floats(window.T).op("MatMul", dy * y / base)
    scale = base.op("Pow", at.tape.floats(-beta))
    return (dy * scale - x * back * (2 * beta)).like(at.x)


def softmax(at: Step) -> Value:
    """Gradient of a Softmax."""
    return at.y * (at.dy - (at.dy * at.y).sum(_softmax_axes(at), keep=True))


def log_softmax(at: Step) -> Value:
    """Gradient of a LogSoftmax."""
    return at.dy - at.y.exp() * at.dy.sum(_softmax_axes(at), keep=True)


def _softmax_axes(at: Step) -> Sequence[int]:
    """Return the axes whose entries add up to one: the last ones before version 13."""
    if at.tape.opset < 13:
        return range(at.get("axis", 1) % at.rank, at.rank)
    return [at.get("axis", -1) % at.rank]


def _by_channel(at: Step) -> list[int]:
    """Return the shape of one number a channel."""
    return [-1, *[1] * (at.rank - 2)]


def rms_norm(at: Step) -> Value:
    """Gradient of an RMSNormalization."""
    axes = range(at.get("axis", -1) % at.rank, at.rank)
    root = ((at.x * at.x).mean(axes) + at.get("epsilon", 1e-5)).op("Sqrt")
    if at.place == 1:
        return at.folded(at.dy * (at.x / root))
    result, dy = at.x / root, at.dy * at.input(1)
    return (dy - result * (dy * result).mean(axes)) / root


def mean_variance(at: Step) -> Value:
    """Gradient of a MeanVarianceNormalization, whose epsilon is too small to matter."""
    return _normalized(at, at.x, at.dy, at.get("axes", [0, 2, 3]))


def _over_channels(at: Step, gradient: Value) -> Value:
    """Sum a gradient over all axes but that of the channels."""
    return gradient.sum([0, *range(2, at.rank)], keep=False)


def _normal(at: Step, x: Value, axes: Sequence[int]) -> tuple[Value, Value]:
    """Write what has mean 0 and variance 1 along axes, and the deviation that was divided by."""
    centred = x - x.mean(axes)
    variance = (centred * centred).mean(axes)
    small = 0.0 if at.node.op_type == "MeanVarianceNormalization" else 1e-5
    deviation = (variance + at.get("epsilon", small)).op("Sqrt")
    return centred / deviation, deviation


def _normalized(at: Step, x: Value, dy: Value, axes: Sequence[int]) -> Value:
    """Pass a gradient at what has mean 0 and variance 1 along axes."""
    result, deviation = _normal(at, x, axes)
    return (dy - dy.mean(axes) - result * (dy * result).mean(axes)) / deviation


AFFINE = frozenset({0, 1, 2})
"""What is normalised, its scale and its shift."""

NORMS: Mapping[str, Gradient] = {
    "BatchNormalization": Gradient(batch_norm, AFFINE, constant=(3, 4)),
    "GroupNormalization": Gradient(group_norm, AFFINE),
    "InstanceNormalization": Gradient(instance_norm, AFFINE),
    "LRN": Gradient(local_response),
    # With further results it returns statistics.
    "LayerNormalization": Gradient(
        layer_norm, AFFINE, fits=lambda node, *_: not any(node.output[1:])
    ),
    "LogSoftmax": Gradient(log_softmax),
    "MeanVarianceNormalization": Gradient(mean_variance),
    "RMSNormalization": Gradient(rms_norm, frozenset({0, 1})),
    "Softmax": Gradient(softmax),
}

PARAMETERS: Mapping[str, frozenset[int]] = {
    op: each.places - {0} for op, each in NORMS.items() if each.places is not None
}
"""Inputs that are scale and shift, as far as gradients towards them are known."""
