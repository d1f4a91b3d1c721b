"""Draws of the operators that move data or pick parts of it."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx
from fuzz.grower import Grower, UnfitError


def _plain(op: str):
    return lambda g: g(op, g.tensor())


def _cast(g: Grower) -> str:
    if g.chance(0.8):
        return g("Cast", g.tensor(), to=onnx.TensorProto.FLOAT)
    wide = g("Cast", g.tensor(), to=onnx.TensorProto.DOUBLE)
    return g("Cast", wide, to=onnx.TensorProto.FLOAT)


def _cast_like(g: Grower) -> str:
    return g("CastLike", g.tensor(), g.tensor() if g.chance(0.5) else g.weight(1))


def _target(g: Grower, shape: list[int]) -> str:
    """Sizes for a Reshape, the batch left open, and one more now and then."""
    sizes = list(shape)
    if g.open_batch or g.chance(0.5):
        sizes[0] = 0
    if g.chance(0.4) and len(sizes) > 1:
        sizes[g.pick.randrange(1, len(sizes))] = -1
    return g.ints(*sizes)


def _new_shape(g: Grower, shape: list[int]) -> list[int]:
    """Merge neighbouring axes or divide one, behind the batch."""
    rank = len(shape)
    if rank > 2 and g.chance(0.5):
        at = g.pick.randrange(1, rank - 1)
        return [*shape[:at], shape[at] * shape[at + 1], *shape[at + 2 :]]
    at = g.pick.randrange(1, rank)
    parts = [d for d in range(1, shape[at] + 1) if shape[at] % d == 0]
    part = g.pick.choice(parts)
    return [*shape[:at], part, shape[at] // part, *shape[at + 1 :]]


def _reshape(g: Grower) -> str:
    x = g.tensor(lambda v: 2 <= v.ndim <= 5)
    shape = list(g.shape(x))
    form = g.pick.choice(["once", "once", "flat", "twice", "measured"])
    if form == "flat":
        return g("Reshape", x, _target(g, [shape[0], prod(shape[1:])]))
    if form == "measured":
        return _measured(g, x)
    new = _new_shape(g, shape)
    if form == "twice" and len(new) < 5:
        new = _new_shape(g, new)
    return g("Reshape", x, _target(g, new))


def _measured(g: Grower, x: str) -> str:
    """A target that is computed from sizes, as exporters write it."""
    shape = g.shape(x)
    sizes = g("Shape", x)
    keep = g.pick.randrange(1, len(shape) + 1)
    axes = {"axes": [0]} if g.opset < 13 else {}
    named = []
    for axis in range(keep):
        number = g("Gather", sizes, g.constant(np.array(axis, np.int64)))
        more = [g.ints(0)] if g.opset >= 13 else []
        named.append(g("Unsqueeze", number, *more, **axes))
    target = g("Concat", *named, g.ints(-1), axis=0)
    return g("Reshape", x, target)


def _flatten(g: Grower) -> str:
    x = g.tensor(lambda v: v.ndim >= 2)
    fixed = not g.open_batch and g.chance(0.2)
    axis = g.pick.randrange(0, len(g.shape(x)) + 1) if fixed else 1
    return g("Flatten", x, axis=axis)


def _with_axes(g: Grower, op: str, x: str, axes: list[int]) -> str:
    return g(op, x, axes=axes) if g.opset < 13 else g(op, x, g.ints(*axes))


def _squeeze(g: Grower) -> str:
    x = g.tensor(lambda v: 1 in v.shape[1:] and v.ndim > 2)
    if not g.open_batch and g.batch > 1 and g.chance(0.5):
        return g("Squeeze", x)
    axis = g.axis(x, only=lambda size: size == 1)
    return _with_axes(g, "Squeeze", x, [g.signed(axis, len(g.shape(x)))])


def _unsqueeze(g: Grower) -> str:
    x = g.tensor(lambda v: v.ndim < 5)
    rank = len(g.shape(x))
    axes = [g.pick.randrange(1, rank + 1)]
    if rank < 4 and g.chance(0.3):
        axes = [rank, rank + 1]
    return _with_axes(g, "Unsqueeze", x, axes)


def _transpose(g: Grower) -> str:
    x = g.tensor(lambda v: v.ndim >= 3)
    rest = list(range(1, len(g.shape(x))))
    g.pick.shuffle(rest)
    lead = [0]
    if not g.open_batch and g.chance(0.1):
        return g("Transpose", x) if g.chance(0.3) else g("Transpose", x, perm=[*rest, 0])
    return g("Transpose", x, perm=lead + rest)


def _depth_to_space(g: Grower) -> str:
    x = g.tensor(lambda v: v.ndim == 4 and v.shape[1] % 4 == 0)
    mode = {"mode": g.pick.choice(["DCR", "CRD"])} if g.opset >= 11 else {}
    return g("DepthToSpace", x, blocksize=2, **mode)


def _space_to_depth(g: Grower) -> str:
    x = g.tensor(lambda v: v.ndim == 4 and v.shape[2] % 2 == v.shape[3] % 2 == 0)
    return g("SpaceToDepth", x, blocksize=2)


def _expand(g: Grower) -> str:
    x = g.tensor()
    shape = list(g.shape(x))
    target = [g.pick.choice([2, 3]) if size == 1 and g.chance(0.8) else size for size in shape]
    if g.open_batch or g.chance(0.3):
        target[0] = 1
    target = [1 if g.chance(0.3) and t == s else t for t, s in zip(target, shape, strict=True)]
    if g.chance(0.15) and not g.open_batch:
        target = [2, *target]
    return g("Expand", x, g.ints(*target))


def _tile(g: Grower) -> str:
    x = g.tensor()
    repeats = [1, *(g.pick.choice([1, 1, 2, 3]) for _ in g.shape(x)[1:])]
    return g("Tile", x, g.ints(*repeats))


def _concat(g: Grower) -> str:
    x = g.tensor(lambda v: v.ndim >= 2)
    shape, axis = g.shape(x), g.axis(x)

    def beside(v: np.ndarray) -> bool:
        return (
            v.ndim == len(shape)
            and v.shape[:axis] == shape[:axis]
            and (v.shape[axis + 1 :] == shape[axis + 1 :])
        )

    parts = [x, *(g.tensor(beside) for _ in range(g.pick.choice([1, 1, 2])))]
    if not g.open_batch and g.chance(0.2):
        parts.append(g.weight(*shape[:axis], 2, *shape[axis + 1 :], scale=1.0))
    g.pick.shuffle(parts)
    return g("Concat", *parts, axis=g.signed(axis, len(shape)))


def _slice(g: Grower) -> str:
    x = g.tensor(lambda v: v.ndim >= 2)
    rank = len(g.shape(x))
    axes = {g.axis(x) for _ in range(g.pick.choice([1, 1, 2]))}
    starts, ends, steps, named = [], [], [], []
    for axis in sorted(axes):
        size = g.shape(x)[axis]
        start = g.pick.randrange(0, size)
        end = g.pick.choice([size, 2**31 - 1, g.pick.randrange(start + 1, size + 1)])
        step = g.pick.choice([1, 1, 1, 2])
        if g.opset >= 10 and g.chance(0.2):
            start, end, step = -1, -(2**31) + 1 - g.pick.randrange(2), -g.pick.choice([1, 2])
        elif g.chance(0.2):
            start -= size
        for column, entry in zip((starts, ends, steps), (start, end, step), strict=True):
            column.append(entry)
        named.append(g.signed(axis, rank))
    if g.opset < 10:
        return g("Slice", x, starts=starts, ends=ends, axes=named)
    inputs = [g.ints(*starts), g.ints(*ends), g.ints(*named)]
    plain = all(step == 1 for step in steps)
    return g("Slice", x, *inputs, *([] if plain and g.chance(0.5) else [g.ints(*steps)]))


def _split(g: Grower) -> list[str]:
    x = g.tensor(lambda v: v.ndim >= 2)
    axis = g.axis(x, only=lambda size: size > 1)
    size, where = g.shape(x)[axis], {"axis": g.signed(axis, len(g.shape(x)))}
    if g.chance(0.4):
        cut = g.pick.randrange(1, size)
        if g.opset < 13:
            return g("Split", x, outputs=2, split=[cut, size - cut], **where)
        return g("Split", x, g.ints(cut, size - cut), outputs=2, **where)
    count = g.pick.choice([2, 3, 4])
    if g.opset >= 18:
        return g("Split", x, outputs=count, num_outputs=count, **where)
    if size % count:
        raise UnfitError("no equal parts")
    return g("Split", x, outputs=count, **where)


def _gather(g: Grower) -> str:
    x = g.tensor(lambda v: v.ndim >= 2)
    axis = g.axis(x)
    size = g.shape(x)[axis]
    low = -size if g.opset >= 11 else 0
    form = g.pick.choice(["order", "some", "one", "table"])
    if form == "order":
        chosen = np.array(g.pick.sample(range(size), size), np.int64)
    elif form == "some":
        count = g.pick.randrange(1, size + 1)
        chosen = np.array([g.pick.randrange(low, size) for _ in range(count)], np.int64)
    elif form == "one":
        chosen = np.array(g.pick.randrange(low, size), np.int64)
    else:
        chosen = g.rng.integers(0, size, (2, 2))
    return g("Gather", x, g.constant(chosen), axis=g.signed(axis, len(g.shape(x))))


def _pad(g: Grower) -> str:
    x = g.tensor(lambda v: v.ndim >= 2)
    rank = len(g.shape(x))
    before, after = [0] * rank, [0] * rank
    for axis in {g.axis(x) for _ in range(g.pick.choice([1, 1, 2]))}:
        before[axis], after[axis] = g.pick.randrange(3), g.pick.randrange(3)
        if g.chance(0.05):
            after[axis] = -1
    mode = g.pick.choice(["constant", "constant", "constant", "reflect", "edge"])
    if g.opset < 11:
        return g("Pad", x, pads=before + after, mode=mode)
    value = [g.constant(np.array(0.5, np.float32))] if g.chance(0.5) else []
    if g.opset >= 18 and g.chance(0.3):
        axes = [a for a in range(rank) if before[a] or after[a]] or [1]
        pads = [before[a] for a in axes] + [after[a] for a in axes]
        axes = [g.signed(a, rank) for a in axes]
        return g("Pad", x, g.ints(*pads), *(value or [""]), g.ints(*axes), mode=mode)
    return g("Pad", x, g.ints(*before, *after), *value, mode=mode)


def shuffle(g: Grower) -> str:
    """Channels in groups, the groups taken by turns."""
    x = g.tensor(lambda v: v.ndim == 4 and v.shape[1] in (4, 6, 8, 9, 12))
    n, c, h, w = g.shape(x)
    groups = g.pick.choice([d for d in (2, 3, 4) if c % d == 0])
    lead = -1 if g.open_batch else n
    y = g("Reshape", x, g.ints(lead, groups, c // groups, h, w))
    y = g("Transpose", y, perm=[0, 2, 1, 3, 4])
    return g("Reshape", y, g.ints(lead, c, h, w))


def tokens(g: Grower) -> str:
    """Positions as a sequence."""
    x = g.tensor(lambda v: v.ndim == 4)
    _, c, h, w = g.shape(x)
    return g("Transpose", g("Reshape", x, g.ints(0, c, h * w)), perm=[0, 2, 1])


def _constant_of_shape(g: Grower) -> str:
    """Add a tensor of one number, as large as another."""
    x = g.tensor()
    value = onnx.numpy_helper.from_array(np.array([g.pick.choice([0.0, 0.5])], np.float32))
    return g("Add", x, g("ConstantOfShape", g("Shape", x), value=value))


MOVING = {
    "ConstantOfShape": _constant_of_shape,
    "Identity": _plain("Identity"),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Expand": _expand,
    "Tile": _tile,
    "Concat": _concat,
    "Slice": _slice,
    "Split": _split,
    "Gather": _gather,
    "Pad": _pad,
}
