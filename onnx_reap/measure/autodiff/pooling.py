"""Gradients of pooling over windows: what is shared among entries is put back by a ConvTranspose.

Channels are taken for samples there, so that it does not matter how many are left.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnx_reap.measure.autodiff.gradient import Gradient, Step, share_of_extremes
from onnx_reap.measure.autodiff.tape import Constants, Shapes, Value, attributes

MOST_TAPS = 64  # of a window: there is a kernel of its size for each
FAR_BELOW = -3e38  # float32 still holds it, and what it is added to does not matter


@dataclass(frozen=True)
class _Windows:
    """Where the windows of a pooling lie, along every spatial axis."""

    sizes: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]

    @property
    def way(self) -> np.ndarray:
        """How far a window can move in what is padded."""
        reach = np.multiply(self.dilations, np.subtract(self.kernel, 1)) + 1
        return np.asarray(np.add(self.sizes, np.reshape(self.pads, (2, -1)).sum(0)) - reach)

    @property
    def counts(self) -> tuple[int, ...]:
        """How many windows there are."""
        return tuple((self.way // self.strides + 1).tolist())

    @property
    def rests(self) -> tuple[int, ...]:
        """How many entries no window reaches at the ends."""
        return tuple((self.way % self.strides).tolist())

    @property
    def geometry(self) -> dict[str, tuple[int, ...]]:
        """Attributes of a convolution with these windows."""
        return {"strides": self.strides, "dilations": self.dilations, "pads": self.pads}

    def inside(self) -> np.ndarray:
        """Tell which tap of which window is no pad: (taps, *counts)."""
        inside = np.ones(1, bool)
        for axis, size in enumerate(self.sizes):
            first = np.arange(self.counts[axis]) * self.strides[axis] - self.pads[axis]
            places = first + np.arange(self.kernel[axis])[:, None] * self.dilations[axis]
            seen = ((places >= 0) & (places < size)).reshape(-1, *[1] * axis, self.counts[axis])
            inside = inside[:, None, ..., None] & seen
            inside = inside.reshape(-1, *inside.shape[2:])
        return inside

    def put_back(self, shares: Value, kernel: np.ndarray, x: Value) -> Value:
        """Add up what belongs to every entry of x."""
        taps = x.tape.floats(kernel)
        spread = shares.op("ConvTranspose", taps, output_padding=self.rests, **self.geometry)
        return spread.like(x)


def _windows(node: onnx.NodeProto, before: Sequence[int], after: Sequence[int]) -> _Windows:
    """Tell where windows lie, from the sizes in front of a node and behind it.

    Where windows reach further than the pads say, as they are placed by `auto_pad` or `ceil_mode`,
    pads are as wide as they reach.
    """
    given = attributes(node)
    kernel = tuple(given["kernel_shape"])
    ones = [1] * len(kernel)
    strides, dilations = given.get("strides", ones), given.get("dilations", ones)
    first, last = np.reshape(given.get("pads", [0, 0] * len(kernel)), (2, -1))
    reach = np.multiply(np.subtract(after, 1), strides) + np.multiply(
        dilations, np.subtract(kernel, 1)
    )
    way = given.get("auto_pad", "NOTSET")
    if way != "NOTSET":
        whole = np.maximum(reach + 1 - before, 0) * (way != "VALID")
        first = whole // 2 if way == "SAME_UPPER" else whole - whole // 2
        last = whole - first
    last = np.maximum(last, reach + 1 - before - first)
    return _Windows(
        tuple(before), kernel, tuple(strides), tuple(dilations), (*first.tolist(), *last.tolist())
    )


def _of_node(node: onnx.NodeProto, shapes: Shapes) -> _Windows:
    return _windows(node, shapes[node.input[0]][2:], shapes[node.output[0]][2:])


def has_small_windows(node: onnx.NodeProto, constants: Constants, shapes: Shapes) -> bool:
    """Whether windows are small, as many as there are results, and places are not returned."""
    windows = _of_node(node, shapes)
    if math.prod(windows.kernel) > MOST_TAPS:
        return False
    return not any(node.output[1:]) and windows.counts == shapes[node.output[0]][2:]


def averages_plainly(node: onnx.NodeProto, constants: Constants, shapes: Shapes) -> bool:
    """Whether the same is true, and pads that count are those that the node names."""
    given = attributes(node)
    pads = tuple(given.get("pads", [0, 0] * len(given["kernel_shape"])))
    named = _of_node(node, shapes).pads == pads or not given.get("count_include_pad", 0)
    return named and has_small_windows(node, constants, shapes)


def max_pool(at: Step) -> Value:
    """Gradient of a MaxPool: equal entries share it."""
    windows = _of_node(at.node, at.tape.shapes)
    taps = math.prod(windows.kernel)
    pick = np.eye(taps).reshape(taps, 1, *windows.kernel)
    apart = at.x.reshape([-1, 1, *windows.sizes])
    seen = apart.op("Conv", at.tape.floats(pick), **windows.geometry)
    if any(windows.pads):
        seen = seen + at.tape.floats(np.where(windows.inside(), 0, FAR_BELOW))
    # Not the node's own results: convolutions may round, all entries alike.
    largest = seen.reduced("ReduceMax", [1])
    shares = share_of_extremes(seen, largest, at.dy.like(largest), [1])
    return windows.put_back(shares, pick, at.x)


def average_pool(at: Step) -> Value:
    """Gradient of an AveragePool: every entry has an equal share."""
    windows = _of_node(at.node, at.tape.shapes)
    with_pads = at.get("count_include_pad", 0)
    counts = math.prod(windows.kernel) if with_pads else windows.inside().sum(axis=0)
    shares = (at.dy / at.tape.floats(counts)).reshape([-1, 1, *windows.counts])
    return windows.put_back(shares, np.ones((1, 1, *windows.kernel)), at.x)


POOLING: Mapping[str, Gradient] = {
    "AveragePool": Gradient(average_pool, fits=averages_plainly),
    "MaxPool": Gradient(max_pool, fits=has_small_windows),
}
