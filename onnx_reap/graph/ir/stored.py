"""Constants that a file stores as integers with a scale and a zero point.

In the graph they are the real numbers that the integers stand for, so that layers, rules, refits
and costs are those of a model in floating point. `Stored` remembers how they are written.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx_reap.graph.ir.domains import STANDARD_DOMAINS
from onnx_reap.graph.ir.export import Source
from onnx_reap.onnxio.dtypes import is_float, is_integers, range_of
from onnx_reap.solve.grid import Grid

WIDE = 2**30
"""Integers beyond are those of biases: sums of products, of which no range is used up."""

Names = tuple[str, str, str]
"""Of the integers, the scale and the zero point."""


@dataclass(frozen=True)
class Stored:
    """How a constant of the graph is stored."""

    nodes: tuple[onnx.NodeProto, ...]  # DequantizeLinear, perhaps behind QuantizeLinear
    inputs: tuple[gs.Constant, ...]  # What they read in the file as given
    names: Names  # For other integers, scales and zero points than those of the file
    values: np.ndarray  # As given
    kind: np.dtype  # Of the integers
    grid: Grid
    scale_shape: tuple[int, ...]  # As given
    has_zero: bool

    @property
    def is_bias(self) -> bool:
        """Whether the integers are as wide as sums of products, which fixes their scale."""
        return self.grid.high > WIDE

    def renamed(self, name: str, unused: Callable[[str], str]) -> "Stored":
        """Return how a copy of the constant is stored."""
        roles = ("integers", "scale", "zero_point")
        names = [unused(f"{name}_{role}") for role in roles]
        return replace(self, names=(names[0], names[1], names[2]))


def find_stored(
    nodes: Sequence[gs.Node],
    sources: Mapping[int, Source],
    taken: Set[str],
    unused: Callable[[str], str],
) -> dict[str, Stored]:
    """Find the results of DequantizeLinear of constants, by name.

    Parameters
    ----------
    sources : mapping of int to Source
        What nodes were in the file, or in a function, by `id(node)`.
    taken : set of str
        Tensors that have another use than as nodes' inputs.
    unused : callable
        Makes a new name of a name.
    """
    readers = Counter(t.name for node in nodes for t in node.inputs)
    shared = {name for name, count in readers.items() if count > 1}
    found = {}
    for node in nodes:
        name = node.outputs[0].name if node.outputs else ""
        known = node.op == "DequantizeLinear" and node.domain in STANDARD_DOMAINS
        if not known or name in taken or node.attrs.get("block_size", 0):
            continue
        stored = _read(node, sources)
        if stored is not None:
            own = [t.name for t in node.inputs if isinstance(t, gs.Constant)]
            names = [
                given.name
                if given is not None and given.name in own and given.name not in shared | taken
                else unused(f"{name}_{role}")
                for given, role in zip(
                    [*node.inputs, None][:3], ("integers", "scale", "zero_point"), strict=True
                )
            ]
            found[name] = replace(stored, names=(names[0], names[1], names[2]))
    return found


def find_transposed(
    nodes: Sequence[gs.Node],
    stored: Mapping[str, Stored],
    taken: Set[str],
    unused: Callable[[str], str],
) -> dict[str, Stored]:
    """Find constants that are stored as integers and then transposed, see `find_stored`."""
    found = {}
    for node in nodes:
        name = node.outputs[0].name if node.outputs else ""
        source = stored.get(node.inputs[0].name) if node.inputs else None
        if node.op != "Transpose" or source is None or name in taken:
            continue
        rank, grid = source.values.ndim, source.grid
        perm = list(node.attrs.get("perm", range(rank)[::-1]))
        turned = Grid(
            grid.scale.transpose(perm),
            grid.zero.transpose(perm),
            grid.low,
            grid.high,
            None if grid.axis is None else perm.index(grid.axis),
            grid.symmetric,
        )
        values = np.ascontiguousarray(source.values.transpose(perm))
        found[name] = replace(source, grid=turned, values=values).renamed(name, unused)
    return found


def _read(node: gs.Node, sources: Mapping[int, Source]) -> Stored | None:
    """Read a DequantizeLinear, with the QuantizeLinear in front of it where that is of a constant.

    None where they are of something else.
    """
    source, chain = node.inputs[0], [node]
    if source.inputs and source.inputs[0].op == "QuantizeLinear" and len(source.outputs) == 1:
        chain.insert(0, source.inputs[0])
    read = [chain[0].inputs[0], *(t for each in chain for t in each.inputs[1:] if t.name)]
    constants = [constant for t in read if (constant := _constant(t)) is not None]
    if len(constants) < len(read) or any(id(each) not in sources for each in chain):
        return None
    first = constants[0]
    has_zero = len(node.inputs) > 2 and bool(node.inputs[2].name)
    scale = np.asarray(constants[-2 if has_zero else -1].values)
    zero = np.asarray(constants[-1].values) if has_zero else None
    default = first.values.dtype if len(chain) == 1 else np.dtype(np.uint8)
    kind = default if zero is None else zero.dtype
    if not (is_integers(kind) and is_float(scale.dtype) and scale.ndim <= 1):
        return None
    real = np.asarray(first.values)
    axis = int(node.attrs.get("axis", 1)) % max(1, real.ndim) if scale.size > 1 else None
    grid = _grid(scale, zero, kind, axis, real.shape)
    integers = real if len(chain) == 1 else grid.nearest(real)
    return Stored(
        tuple(sources[id(each)].proto for each in chain),
        tuple(constants),
        ("", "", ""),
        grid.real(integers),
        kind,
        _in_use(grid, integers),
        scale.shape,
        has_zero,
    )


def _constant(tensor: gs.Tensor) -> gs.Constant | None:
    """Return a tensor if it is a constant, or the product of two scales."""
    maker = tensor.inputs[0] if tensor.inputs else None
    if isinstance(tensor, gs.Constant) or maker is None or maker.op != "Mul":
        return tensor if isinstance(tensor, gs.Constant) else None
    if not all(isinstance(t, gs.Constant) for t in maker.inputs):
        return None
    return gs.Constant(tensor.name, np.asarray(maker.inputs[0].values * maker.inputs[1].values))


def _grid(
    scale: np.ndarray,
    zero: np.ndarray | None,
    kind: np.dtype,
    axis: int | None,
    shape: tuple[int, ...],
) -> Grid:
    low, high = range_of(kind)
    zeros = np.zeros((), np.int64) if zero is None else zero.astype(np.int64)
    full = [_spread(numbers, axis, shape) for numbers in (scale, zeros)]
    symmetric = bool((zeros == (low + high + 1) // 2).all())
    return Grid(full[0], full[1], low, high, axis, symmetric)


def _in_use(grid: Grid, integers: np.ndarray) -> Grid:
    """Return the grid with the bounds that a quantiser kept to, as 7 of 8 bits.

    On both sides of a zero point in the middle there are as many.
    """
    wide = integers.astype(np.int64)
    if not wide.size or grid.high > WIDE:
        return grid
    low, high = min(wide.min(), grid.zero.min()), max(wide.max(), grid.zero.max())
    if grid.symmetric:
        zero, steps = int(grid.zero.max()), int(np.abs(wide - grid.zero).max())
        low, high = zero - steps, zero + steps
    if low == high:
        return grid
    return replace(grid, low=max(grid.low, int(low)), high=min(grid.high, int(high)))


def _spread(numbers: np.ndarray, axis: int | None, shape: tuple[int, ...]) -> np.ndarray:
    if axis is not None and numbers.size > 1:
        numbers = numbers.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    else:
        numbers = numbers.reshape(())
    return np.broadcast_to(numbers, shape)
