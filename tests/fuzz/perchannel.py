"""Draws of the operators that treat each channel alone, and of those that run along an axis."""

from __future__ import annotations

import numpy as np
from fuzz.grower import Grower, UnfitError
from fuzz.weighted import _image, _window


def _pool(op: str):
    def make(g: Grower) -> str:
        x = _image(g)
        attributes = _window(g, x)
        if op != "MaxPool":
            attributes.pop("dilations", None)
        if g.opset >= 10 and op != "LpPool" and g.chance(0.3) and "auto_pad" not in attributes:
            attributes["ceil_mode"] = 1
        if op == "AveragePool" and g.chance(0.3):
            attributes["count_include_pad"] = 1
        if op == "MaxPool" and g.chance(0.1):
            return g(op, x, outputs=2, **attributes)  # where the largest were, too
        return g(op, x, **attributes)

    return make


def _global_pool(op: str):
    return lambda g: g(op, _image(g))


def _reduction(op: str):
    def make(g: Grower) -> str:
        x = g.tensor(lambda v: v.ndim >= 2)
        rank = len(g.shape(x))
        first = 1 if rank == 2 or g.chance(0.15) else 2
        axes = sorted({g.pick.randrange(first, rank) for _ in range(g.pick.choice([1, 2]))})
        if first == 2 and g.chance(0.4):
            axes = list(range(2, rank))
        axes = [g.signed(axis, rank) for axis in axes]
        keep = {"keepdims": g.pick.choice([0, 1])} if g.chance(0.6) else {}
        x = g("Softplus", x) if op == "ReduceLogSum" else x
        if g.chance(0.03) and not g.open_batch:
            return g(op, x, **keep)
        if g.opset >= (13 if op == "ReduceSum" else 18):
            return g(op, x, g.ints(*axes), **keep)
        return g(op, x, axes=axes, **keep)

    return make


def _along(op: str, **more):
    """An operator that runs along one axis, that of the channels now and then."""

    def make(g: Grower) -> str:
        x = g.tensor(lambda v: v.ndim >= 2)
        rank = len(g.shape(x))
        default = op != "LpNormalization" and g.chance(0.1) and g.opset >= 13
        axis = g.axis(x, 1 if g.chance(0.2) else min(2, rank - 1))
        where = {} if default and "Arg" not in op else {"axis": g.signed(axis, rank)}
        y = g(op, x, **where, **more)
        if "Arg" in op:
            return g("Cast", y, to=1)
        return y

    return make


def _cumsum(g: Grower) -> str:
    x = g.tensor(lambda v: v.ndim >= 2)
    axis = g.axis(x, 1 if g.chance(0.2) else len(g.shape(x)) - 1)
    return g("CumSum", x, g.constant(np.array(axis, np.int64)))


def _reverse_sequence(g: Grower) -> str:
    x = g.tensor(lambda v: v.ndim >= 2)
    time, batch = g.pick.choice([(0, 1), (1, 0)])
    size = g("Shape", x)
    count = g("Slice", size, g.constant(np.array([batch])), g.constant(np.array([batch + 1])))
    length = g("Slice", size, g.constant(np.array([time])), g.constant(np.array([time + 1])))
    return g("ReverseSequence", x, g("Expand", length, count), time_axis=time, batch_axis=batch)


def _lrn(g: Grower) -> str:
    return g("LRN", g.tensor(lambda v: v.ndim == 4), size=g.pick.choice([1, 3]), alpha=0.1)


def layer_norm(g: Grower) -> str:
    x = g.tensor(lambda v: v.ndim >= 2)
    shape = g.shape(x)
    axis = g.axis(x, 1 if g.chance(0.2) else len(shape) - 1)
    scale = shape[axis:] if g.chance(0.8) else shape[-1:]
    bias = [g.weight(*scale)] if g.chance(0.7) else []
    return g(
        "LayerNormalization",
        x,
        g.positive(*scale),
        *bias,
        axis=g.signed(axis, len(shape)),
        epsilon=0.1,
    )


def batch_norm(g: Grower) -> str:
    x = g.tensor(lambda v: v.ndim >= 2)
    c = g.shape(x)[1]
    parameters = [g.positive(c), g.weight(c), g.weight(c), g.positive(c)]
    return g("BatchNormalization", x, *parameters)


def _instance_norm(g: Grower) -> str:
    x = g.tensor(lambda v: v.ndim >= 3 and v[0, 0].size > 1)
    c = g.shape(x)[1]
    return g("InstanceNormalization", x, g.positive(c), g.weight(c), epsilon=0.1)


def _resize(g: Grower) -> str:
    x = g.tensor(lambda v: v.ndim in (3, 4))
    shape = g.shape(x)
    mode = g.pick.choice(["nearest", "nearest", "linear"])
    factors = [1.0, 1.0, *(g.pick.choice([1.0, 2.0, 2.0, 0.5]) for _ in shape[2:])]
    if g.chance(0.05):
        factors[1] = 2.0
    if g.opset < 11:
        return g("Resize", x, g.constant(np.array(factors, np.float32)), mode=mode)
    if g.chance(0.6) or (g.open_batch and g.opset < 18):
        scales = g.constant(np.array(factors, np.float32))
        roi = "" if g.opset >= 13 else g.constant(np.zeros(0, np.float32))
        return g("Resize", x, roi, scales, mode=mode)
    empty = "" if g.opset >= 13 else g.constant(np.zeros(0, np.float32))
    sizes = [max(int(s * f), 1) for s, f in zip(shape, factors, strict=True)]
    if g.opset >= 18 and (g.open_batch or g.chance(0.5)):
        first = g.pick.choice([1, 2])
        axes = list(range(first, len(shape)))
        return g("Resize", x, "", "", g.ints(*sizes[first:]), mode=mode, axes=axes)
    return g("Resize", x, empty, empty, g.ints(*sizes), mode=mode)


def _upsample(g: Grower) -> str:
    x = g.tensor(lambda v: v.ndim == 4)
    scales = np.array([1, 1, g.pick.choice([1, 2]), g.pick.choice([1, 2])], np.float32)
    return g("Upsample", x, g.constant(scales), mode=g.pick.choice(["nearest", "linear"]))


def _rms_norm(g: Grower) -> str:
    x = g.tensor(lambda v: v.ndim >= 2)
    shape = g.shape(x)
    axis = g.axis(x, 1 if g.chance(0.2) else len(shape) - 1)
    where = {"axis": g.signed(axis, len(shape)), "epsilon": 0.1}
    return g("RMSNormalization", x, g.positive(*shape[axis:]), **where)


def _mean_variance(g: Grower) -> str:
    x = g.tensor(lambda v: v.ndim >= 3 and v[0, 0].size > 1)
    axes = [*range(2, len(g.shape(x)))]
    return g("MeanVarianceNormalization", x, axes=[1, *axes] if g.chance(0.1) else axes)


def _group_norm(g: Grower) -> str:
    if g.opset < 21:
        raise UnfitError("deprecated before")
    x = g.tensor(lambda v: v.ndim >= 3)
    c = g.shape(x)[1]
    groups = g.pick.choice([d for d in range(1, c + 1) if c % d == 0])
    more = {"num_groups": groups, "epsilon": 0.1}
    return g("GroupNormalization", x, g.positive(c), g.weight(c), **more)


def group_norm(g: Grower) -> str:
    """The operator, or what stood for it before there was one."""
    x = g.tensor(lambda v: v.ndim == 4 and v.shape[1] in (4, 6, 8, 9, 12))
    c = g.shape(x)[1]
    groups = g.pick.choice([d for d in (1, 2, 3, 4, c) if c % d == 0])
    if g.opset >= 21:
        return g("GroupNormalization", x, g.positive(c), g.weight(c), num_groups=groups)
    y = g("Reshape", x, g.ints(0, groups, -1))
    y = g("InstanceNormalization", y, g.positive(groups), g.weight(groups), epsilon=0.1)
    y = g("Reshape", y, g("Shape", x))
    return g("Add", g("Mul", y, g.positive(c, 1, 1)), g.weight(c, 1, 1))


def gate(g: Grower) -> str:
    """Squeeze and excitation."""
    x = g.tensor(lambda v: v.ndim == 4)
    c = g.shape(x)[1]
    inner = g.pick.choice([1, 2, 3])
    y = g("GlobalAveragePool", x)
    y = g("Relu", g("Conv", y, g.weight(inner, c, 1, 1), g.weight(inner)))
    return g("Mul", x, g("Sigmoid", g("Conv", y, g.weight(c, inner, 1, 1), g.weight(c))))


def bottleneck(g: Grower) -> str:
    """A residual branch of two convolutions."""
    x = g.tensor(lambda v: v.ndim == 4)
    c, inner = g.shape(x)[1], g.pick.choice([2, 3, 4])
    y = g("Conv", x, g.weight(inner, c, 3, 3), g.weight(inner), pads=[1] * 4)
    y = g(g.pick.choice(["Relu", "Sigmoid", "Elu"]), y)
    y = g("Conv", y, g.weight(c, inner, 1, 1), *([g.weight(c)] if g.chance(0.7) else []))
    if g.chance(0.5):
        y = g("BatchNormalization", y, g.positive(c), g.weight(c), g.weight(c), g.positive(c))
    return g("Add", *((x, y) if g.chance(0.5) else (y, x)))


_REDUCTIONS = (
    "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
    "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp",
)  # fmt: skip

PER_CHANNEL = {
    **{op: _pool(op) for op in ("MaxPool", "AveragePool", "LpPool")},
    **{op: _global_pool(op) for op in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")},
    **{op: _reduction(op) for op in _REDUCTIONS},
    **{op: _along(op) for op in ("Softmax", "LogSoftmax", "Hardmax", "LpNormalization")},
    **{op: _along(op, keepdims=keep) for op, keep in (("ArgMax", 1), ("ArgMin", 0))},
    "CumSum": _cumsum,
    "ReverseSequence": _reverse_sequence,
    "LRN": _lrn,
    "LayerNormalization": layer_norm,
    "BatchNormalization": batch_norm,
    "InstanceNormalization": _instance_norm,
    "RMSNormalization": _rms_norm,
    "MeanVarianceNormalization": _mean_variance,
    "GroupNormalization": _group_norm,
    "Resize": _resize,
    "Upsample": _upsample,
}
