"""Gradient of a Resize, a linear map along either spatial axis, whose matrix it writes itself.

Resizing an identity along one axis gives the matrix, whatever the mode.
"""

from collections.abc import Mapping

import numpy as np
import onnx

from onnx_reap.measure.autodiff.gradient import Gradient
from onnx_reap.measure.autodiff.tape import Constants, Shapes, Tape, attributes

ROI, SCALES, SIZES = 1, 2, 3  # inputs


def resize(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a Resize of the last two of four axes."""
    rows, columns = _matrix(tape, node, 2), _matrix(tape, node, 3)
    across = tape.op("MatMul", dy, columns)
    return tape.op("MatMul", tape.op("Transpose", rows, perm=[0, 1, 3, 2]), across)


def resizes_the_last_two_of_four(
    node: onnx.NodeProto, constants: Constants, shapes: Shapes
) -> bool:
    """Whether `resize` covers a node."""
    given = attributes(node)
    if given.get("axes") or given.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        return False
    if given.get("coordinate_transformation_mode") == "tf_half_pixel_for_nn":
        return False  # moves entries where the scale is one
    before, after = shapes[node.input[0]], shapes[node.output[0]]
    names = [name for name in node.input[1:] if name]
    if len(before) != 4 or before[:2] != after[:2] or any(n not in constants for n in names):
        return False
    values = {name: constants[name] for name in names}
    scales, roi = (values.get(_input(node, at), np.ones(0)) for at in (SCALES, ROI))
    cropped = _crops(node) and not ((roi[:2] == 0).all() and (roi[4:6] == 1).all())
    return bool((scales[:2] == 1).all()) and not cropped


def _crops(node: onnx.NodeProto) -> bool:
    """Whether the region of interest counts."""
    return attributes(node).get("coordinate_transformation_mode") == "tf_crop_and_resize"


def _input(node: onnx.NodeProto, place: int) -> str:
    result: str = [*node.input, "", "", ""][place]
    return result


def _matrix(tape: Tape, node: onnx.NodeProto, axis: int) -> str:
    """Write the matrix that the node applies along an axis: (1, 1, size after, size before)."""
    size = tape.shapes[node.input[0]][axis]
    given = {k: v for k, v in attributes(node).items() if k != "extrapolation_value"}
    inputs = [_changed(tape, node, place, axis) for place in (ROI, SCALES, SIZES)]
    while not inputs[-1]:
        inputs.pop()
    eye = tape.floats(np.eye(size)[None, None])
    return tape.op("Resize", eye, *inputs, **given)


def _changed(tape: Tape, node: onnx.NodeProto, place: int, axis: int) -> str:
    """Turn an input of the node into that of a map along the rows of an identity."""
    name = _input(node, place)
    values = tape.values(name) if name else np.zeros(0)
    if not values.size or (place == ROI and not _crops(node)):
        return name
    if place == SCALES:
        return tape.floats([1, 1, values[axis], 1])
    if place == SIZES:
        return tape.ints([1, 1, int(values[axis]), tape.shapes[node.input[0]][axis]])
    return tape.floats([0, 0, values[axis], 0, 1, 1, values[axis + 4], 1])


RESIZE: Mapping[str, Gradient] = {
    "Resize": Gradient(resize, fits=resizes_the_last_two_of_four),
}
