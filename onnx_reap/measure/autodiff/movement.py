"""Gradients of operators that only move entries, leave some out or add zeros."""

from collections.abc import Mapping

import numpy as np
import onnx

from onnx_reap.measure.autodiff.gradient import EVERY, Gradient, Step
from onnx_reap.measure.autodiff.tape import Constants, Shapes, Value, attributes


def reverse_sequence(at: Step) -> Value:
    """Gradient of a ReverseSequence: once more turns it back."""
    return at.dy.op("ReverseSequence", at.node.input[1], **attributes(at.node))


def transpose(at: Step) -> Value:
    """Gradient of a Transpose."""
    perm = at.get("perm", list(range(at.rank))[::-1])
    return at.dy.transpose([perm.index(axis) for axis in range(at.rank)])


def concat(at: Step) -> Value:
    """Gradient of a Concat."""
    axis = at.get("axis", 0) % len(at.y.shape)
    ends = [at.tape.ints([0])]
    for place in range(at.place + 1):
        ends.append(ends[-1] + at.input(place).size(axis))
    return at.dy.op("Slice", ends[-2], ends[-1], [axis])


def split(at: Step) -> Value:
    """Gradient of a Split at one of its results: zeros on either side."""
    axis = at.get("axis", 0) % at.rank
    sides: list[Value | list[int]] = []
    for others in (at.node.output[: at.index], at.node.output[at.index + 1 :]):
        width = at.tape.ints([0])
        for other in others:
            width = width + at.tape.value(other).size(axis)
        sides += [[0] * axis, width, [0] * (at.rank - 1 - axis)]
    return at.dy.op("Pad", at.tape.op("Concat", *sides, axis=0))


def pad(at: Step) -> Value:
    """Gradient of a Pad with a constant: what was added is cut off, what was cut off is zero."""
    axes = ["", *at.node.input[3:]] if at.node.input[3:] else []
    return at.dy.op("Pad", -at.input(1), *axes)


def put_back(at: Step) -> Value:
    """Gradient of what takes entries, none twice: the node is repeated on their places."""
    size = at.x.op("Size")
    places = at.tape.op("Range", at.tape.ints(0), size, at.tape.ints(1)).like(at.x)
    taken = places.op(at.node.op_type, *at.node.input[1:], **attributes(at.node))
    nothing = size.reshape([-1]).op("ConstantOfShape")
    rows = [tensor.reshape([-1]) for tensor in (taken, at.dy)]
    return nothing.op("ScatterElements", *rows, axis=0).like(at.x)


def gather_elements(at: Step) -> Value:
    """Gradient of a GatherElements: entries add up where they were taken."""
    return _added_up(at, "ScatterElements", axis=at.get("axis", 0))


def gather_nd(at: Step) -> Value:
    """Gradient of a GatherND."""
    return _added_up(at, "ScatterND")


def gather(at: Step) -> Value:
    """Gradient of a Gather: what was taken once is put back, what was taken often adds up."""
    if takes_nothing_twice(at.node, at.tape.constants):
        return put_back(at)
    # A cut may have put another index in place, of which no shape is known.
    axis, taken = at.get("axis", 0) % at.rank, len(at.y.shape) - at.rank + 1
    order = [axis, *(a for a in range(at.rank) if a != axis)]
    lead = range(axis, axis + taken)
    rest = [a for a in range(len(at.y.shape)) if a not in lead]
    indices, behind = at.input(1).reshape([-1]), at.x.transpose(order)
    rows = at.dy.transpose([*lead, *rest]).op("Reshape", indices.size_and_rest())
    chosen = indices.op("OneHot", behind.size(0), at.tape.floats([0, 1]), axis=0)
    back = chosen.op("MatMul", rows).like(behind)
    return back.transpose([order.index(a) for a in range(at.rank)])


def scatter(at: Step) -> Value:
    """Gradient of what adds updates to entries of a tensor."""
    if at.place == 0:
        return at.dy
    kind = "GatherND" if at.node.op_type == "ScatterND" else "GatherElements"
    where = {} if kind == "GatherND" else {"axis": at.get("axis", 0)}
    return at.dy.op(kind, at.input(1), **where)


def of_one_batch(node: onnx.NodeProto, constants: Constants, shapes: Shapes) -> bool:
    """Whether indices name places in the whole tensor; of several batches ScatterND knows none."""
    return not attributes(node).get("batch_dims")


def adds(node: onnx.NodeProto, constants: Constants, shapes: Shapes) -> bool:
    """Whether updates are added to what is there."""
    return bool(attributes(node).get("reduction", "none") == "add")


def _added_up(at: Step, kind: str, **where: int) -> Value:
    return at.x.zeros().op(kind, at.input(1), at.dy, reduction="add", **where)


def takes_nothing_twice(node: onnx.NodeProto, constants: Constants) -> bool:
    """Whether the index of a Gather is constant and has no entry twice, counted from one end."""
    index = constants.get(node.input[1])
    if index is None or len(np.unique(index)) < index.size:
        return False
    return len(np.unique(index < 0)) <= 1


def tile(at: Step) -> Value:
    """Gradient of a Tile: copies add up."""
    repeats = at.tape.constants[at.node.input[1]].tolist()
    pairs = [part for axis, times in enumerate(repeats) for part in ([times], at.x.size(axis))]
    apart = at.dy.op("Reshape", at.tape.op("Concat", *pairs, axis=0))
    return apart.sum(range(0, 2 * at.rank, 2), keep=False)


def top(at: Step) -> Value:
    """Gradient of a TopK at its values: they are put back where they were."""
    axis = at.get("axis", -1)
    return at.x.zeros().op("ScatterElements", at.node.output[1], at.dy, axis=axis)


def depth_to_space(at: Step) -> Value:
    """Gradient of a DepthToSpace, which is its inverse."""
    block = at.get("blocksize", 1)
    if at.get("mode", "DCR") == "DCR":
        return at.dy.op("SpaceToDepth", blocksize=block)
    height, width = at.x.shape[2:]
    # (N, C, H * block, W * block) -> (N, C, H, block, W, block) -> (N, C, block, block, H, W)
    apart = at.dy.reshape([0, 0, height, block, width, block])
    return apart.transpose([0, 1, 3, 5, 2, 4]).like(at.x)


SAME = Gradient(lambda at: at.dy)
"""Of what passes its input on as it is."""

RESHAPED = Gradient(lambda at: at.dy.like(at.x))
"""Of anything that leaves the order of entries as it is."""

MOVEMENT: Mapping[str, Gradient] = {
    # What it takes is float32 too, if a gradient gets past it.
    "Cast": Gradient(SAME.write, fits=lambda n, *_: attributes(n)["to"] == onnx.TensorProto.FLOAT),
    "Concat": Gradient(concat, EVERY),
    "DepthToSpace": Gradient(depth_to_space),
    "Dropout": SAME,
    "Flatten": RESHAPED,
    "Gather": Gradient(gather),
    "GatherElements": Gradient(gather_elements, since=16),
    # Of several batches it would have to name each.
    "GatherND": Gradient(
        gather_nd, since=16, fits=lambda n, *_: not attributes(n).get("batch_dims")
    ),
    "ScatterElements": Gradient(scatter, frozenset({0, 2}), fits=adds),
    "ScatterND": Gradient(scatter, frozenset({0, 2}), fits=adds),
    "Identity": SAME,
    "Pad": Gradient(pad, fits=lambda n, *_: attributes(n).get("mode", "constant") == "constant"),
    "Reshape": RESHAPED,
    "ReverseSequence": Gradient(reverse_sequence),
    "Slice": Gradient(put_back),
    "SpaceToDepth": Gradient(lambda at: at.dy.op("DepthToSpace", **attributes(at.node))),
    "Split": Gradient(split),
    "Squeeze": RESHAPED,
    "Tile": Gradient(tile, constant=(1,)),
    "TopK": Gradient(top),
    "Transpose": Gradient(transpose),
    "Unsqueeze": RESHAPED,
}
