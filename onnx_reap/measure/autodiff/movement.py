"""Gradients of operators that only move entries, leave some out or add zeros."""

from collections.abc import Mapping

import numpy as np
import onnx

from onnx_reap.measure.autodiff.gradient import EVERY, Gradient
from onnx_reap.measure.autodiff.tape import Constants, Shapes, Tape, attributes


def same(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of what passes its input on as it is."""
    return dy


def gives_float32(node: onnx.NodeProto, constants: Constants, shapes: Shapes) -> bool:
    """Whether a Cast changes nothing: what it takes is float32 too, if a gradient gets past it."""
    result: bool = attributes(node)["to"] == onnx.TensorProto.FLOAT
    return result


def reshape(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of anything that leaves the order of entries as it is."""
    return tape.like(dy, node.input[0])


def transpose(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a Transpose."""
    rank = len(tape.shapes[node.input[0]])
    perm = attributes(node).get("perm", list(range(rank))[::-1])
    return tape.op("Transpose", dy, perm=[perm.index(axis) for axis in range(rank)])


def concat(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a Concat."""
    axis = attributes(node)["axis"] % len(tape.shapes[node.output[0]])
    ends = [tape.ints([0])]
    for x in node.input[: place + 1]:
        ends.append(tape.op("Add", ends[-1], tape.size(x, axis)))
    return tape.op("Slice", dy, ends[-2], ends[-1], tape.ints([axis]))


def split(tape: Tape, node: onnx.NodeProto, dy: str, index: int) -> str:
    """Gradient of a Split at one of its results: zeros on either side."""
    rank = len(tape.shapes[node.input[0]])
    axis = attributes(node).get("axis", 0) % rank
    sides = []
    for others in (node.output[:index], node.output[index + 1 :]):
        width = tape.ints([0])
        for other in others:
            width = tape.op("Add", width, tape.size(other, axis))
        sides += [tape.ints([0] * axis), width, tape.ints([0] * (rank - 1 - axis))]
    return tape.op("Pad", dy, tape.op("Concat", *sides, axis=0))


def pad(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a Pad with a constant: what was added is cut off, what was cut off is zero."""
    axes = ["", *node.input[3:]] if node.input[3:] else []
    return tape.op("Pad", dy, tape.op("Neg", node.input[1]), *axes)


def pads_with_a_constant(node: onnx.NodeProto, constants: Constants, shapes: Shapes) -> bool:
    """Whether `pad` covers a node."""
    result: bool = attributes(node).get("mode", "constant") == "constant"
    return result


def put_back(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of what takes entries, none twice: the node is repeated on their places."""
    x, flat = node.input[0], tape.ints([-1])
    size = tape.op("Size", x)
    places = tape.like(tape.op("Range", tape.ints(0), size, tape.ints(1)), x)
    taken = tape.op(node.op_type, places, *node.input[1:], **attributes(node))
    rows = [tape.op("Reshape", tensor, flat) for tensor in (taken, dy)]
    nothing = tape.op("ConstantOfShape", tape.op("Reshape", size, flat))
    return tape.like(tape.op("ScatterElements", nothing, *rows, axis=0), x)


def takes_nothing_twice(node: onnx.NodeProto, constants: Constants, shapes: Shapes) -> bool:
    """Whether the constant index of a Gather has no entry twice, counted from one end."""
    index = constants[node.input[1]]
    return len(np.unique(index)) == index.size and len(np.unique(index < 0)) <= 1


def depth_to_space(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a DepthToSpace, which is its inverse."""
    given = attributes(node)
    block = given["blocksize"]
    if given.get("mode", "DCR") == "DCR":
        return tape.op("SpaceToDepth", dy, blocksize=block)
    height, width = tape.shapes[node.input[0]][2:]
    # (N, C, H * block, W * block) -> (N, C, H, block, W, block) -> (N, C, block, block, H, W)
    apart = tape.op("Reshape", dy, tape.ints([0, 0, height, block, width, block]))
    return tape.like(tape.op("Transpose", apart, perm=[0, 1, 3, 5, 2, 4]), node.input[0])


def space_to_depth(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a SpaceToDepth, which is its inverse."""
    return tape.op("DepthToSpace", dy, **attributes(node))


MOVEMENT: Mapping[str, Gradient] = {
    "Cast": Gradient(same, fits=gives_float32),
    "Concat": Gradient(concat, EVERY),
    "DepthToSpace": Gradient(depth_to_space),
    "Dropout": Gradient(same),
    "Flatten": Gradient(reshape),
    "Gather": Gradient(put_back, constant=(1,), fits=takes_nothing_twice),
    "Identity": Gradient(same),
    "Pad": Gradient(pad, fits=pads_with_a_constant),
    "Reshape": Gradient(reshape),
    "Slice": Gradient(put_back),
    "SpaceToDepth": Gradient(space_to_depth),
    "Split": Gradient(split, splits=True),
    "Squeeze": Gradient(reshape),
    "Transpose": Gradient(transpose),
    "Unsqueeze": Gradient(reshape),
}
