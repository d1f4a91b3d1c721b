"""Gradient of a Resize, a linear map along either spatial axis, whose matrix it writes itself.

Resizing an identity along one axis gives the matrix, whatever the mode.
"""

from collections.abc import Mapping

import numpy as np
import onnx

from onnx_reap.measure.autodiff.gradient import Gradient, Step
from onnx_reap.measure.autodiff.tape import Constants, Shapes, Value, attributes

ROI, SCALES, SIZES = 1, 2, 3  # inputs


def resize(at: Step) -> Value:
    """Gradient of a Resize of the last two of four axes."""
    across = at.dy.op("MatMul", _matrix(at, 3))
    return _matrix(at, 2).transpose([0, 1, 3, 2]).op("MatMul", across)


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


def _matrix(at: Step, axis: int) -> Value:
    """Write the matrix that the node applies along an axis: (1, 1, size after, size before)."""
    size = at.x.shape[axis]
    given = {k: v for k, v in attributes(at.node).items() if k != "extrapolation_value"}
    inputs = [_changed(at, place, axis) for place in (ROI, SCALES, SIZES)]
    while not inputs[-1]:
        inputs.pop()
    return at.tape.floats(np.eye(size)[None, None]).op("Resize", *inputs, **given)


def _changed(at: Step, place: int, axis: int) -> Value | str:
    """Turn an input of the node into that of a map along the rows of an identity."""
    name = _input(at.node, place)
    values = at.tape.constants[name] if name else np.zeros(0)
    if not values.size or (place == ROI and not _crops(at.node)):
        return name
    if place == SCALES:
        return at.tape.floats([1, 1, values[axis], 1])
    if place == SIZES:
        return at.tape.ints([1, 1, int(values[axis]), at.x.shape[axis]])
    return at.tape.floats([0, 0, values[axis], 0, 1, 1, values[axis + 4], 1])


RESIZE: Mapping[str, Gradient] = {
    "Resize": Gradient(resize, fits=resizes_the_last_two_of_four),
}
