"""Draws of the operators that pick or write entries at places that data tell."""

from __future__ import annotations

import math

import numpy as np
import onnx
from fuzz.grower import Grower, UnfitError

LENGTH = 7  # of an input that holds places, which no batch is as large as


def _indices(g: Grower, size: int, *shape: int) -> str:
    """Places that an input tells, the same for all samples."""
    count = math.prod(shape)
    if count > LENGTH:
        raise UnfitError("too many places")
    given = g.input([LENGTH], g.rng.integers(0, 100, LENGTH))
    some = g("Slice", given, g.ints(0), g.ints(count))
    return g("Mod", g("Reshape", some, g.ints(*shape)), g.constant(np.array(size, np.int64)))


def _plane(g: Grower) -> tuple[str, tuple[int, ...], int]:
    """A tensor, its shape, and an axis that holds no batch."""
    if g.opset < 11:
        raise UnfitError("older operators")
    x = g.tensor(lambda v: v.ndim >= 3)
    shape = g.shape(x)
    return x, shape, g.pick.randrange(1 if g.chance(0.2) else 2, len(shape))


def gather_by_data(g: Grower) -> str:
    x, shape, axis = _plane(g)
    return g("Gather", x, _indices(g, shape[axis], *([3] if g.chance(0.7) else [2, 2])), axis=axis)


def _beside(g: Grower, x: str, shape: tuple[int, ...], axis: int, count: int) -> str:
    """Indices as long as a tensor along all axes but one."""
    line = _indices(g, shape[axis], *(count if a == axis else 1 for a in range(len(shape))))
    sizes = g("Shape", x)
    if count != shape[axis]:
        place = g.constant(np.arange(len(shape)) == axis)
        sizes = g("Where", place, g.ints(count), sizes)
    return g("Expand", line, sizes)


def _gather_elements(g: Grower) -> str:
    x, shape, axis = _plane(g)
    return g("GatherElements", x, _beside(g, x, shape, axis, g.pick.choice([2, 3])), axis=axis)


def _scatter_elements(g: Grower) -> str:
    x, shape, axis = _plane(g)
    where = _beside(g, x, shape, axis, shape[axis])
    more = {"reduction": "add"} if g.opset >= 16 else {}
    if not more and shape[axis] > 7:
        raise UnfitError("places may repeat")
    return g("ScatterElements", x, where, g("Neg", x), axis=axis, **more)


def _gather_nd(g: Grower) -> str:
    if g.opset < 12:
        raise UnfitError("no batches before")
    x = g.tensor(lambda v: v.ndim >= 3)
    shape = g.shape(x)
    y = g("Transpose", x, perm=[0, *range(2, len(shape)), 1])
    count = g.pick.randrange(1, len(shape) - 1)
    columns = [_indices(g, shape[2 + i], 1, 3, 1) for i in range(count)]
    places = g("Concat", *columns, axis=2)
    lead = g("Shape", y)
    lead = g("Gather", lead, g.ints(0))
    places = g("Expand", places, g("Concat", lead, g.ints(3, count), axis=0))
    return g("GatherND", y, places, batch_dims=1)


def _scatter_nd(g: Grower) -> str:
    """Add rows to a table of which each has all channels."""
    if g.opset < 18:
        raise UnfitError("no sums before")
    x = g.tensor(lambda v: v.ndim == 3)
    y = g("Transpose", x, perm=[2, 0, 1])
    where = _indices(g, g.shape(y)[0], 1, 1)
    row = g("Slice", y, g.ints(0), g.ints(1), g.ints(0))
    y = g("ScatterND", y, where, row, reduction="add")
    return g("Transpose", y, perm=[1, 2, 0])


def _top_k(g: Grower) -> str:
    x, shape, axis = _plane(g)
    count = g.ints(g.pick.randrange(1, shape[axis] + 1))
    values, places = g("TopK", x, count, axis=axis, outputs=2)
    return values if g.chance(0.7) else g("Cast", places, to=onnx.TensorProto.FLOAT)


INDEXING = {
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "TopK": _top_k,
}
