"""Gradient of a Resize, a linear map along either spatial axis, whose matrix it writes itself.

Resizing an identity along one axis gives the matrix, whatever the mode. Sizes and scales may be
computed: what follows from shapes is the same on every sample.
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
    if given.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        return False
    if given.get("coordinate_transformation_mode") == "tf_half_pixel_for_nn":
        return False  # moves entries where the scale is one
    before, after = shapes[node.input[0]], shapes[node.output[0]]
    if len(before) != 4 or before[:2] != after[:2]:
        return False
    leading = [at for axis in (0, 1) if (at := _entry(node, axis)) is not None]
    scales, roi = (constants.get(_input(node, at)) for at in (SCALES, ROI))
    if scales is not None and scales.size and (scales[leading] != 1).any():
        return False
    if not _crops(node):
        return True
    if roi is None:
        return False
    starts, ends = np.split(roi, 2)
    return bool((starts[leading] == 0).all() and (ends[leading] == 1).all())


def _crops(node: onnx.NodeProto) -> bool:
    """Whether the region of interest counts."""
    return attributes(node).get("coordinate_transformation_mode") == "tf_crop_and_resize"


def _input(node: onnx.NodeProto, place: int) -> str:
    result: str = [*node.input, "", "", ""][place]
    return result


def _entry(node: onnx.NodeProto, axis: int) -> int | None:
    """Return where a node's scales and sizes tell of one of four axes; None if nowhere."""
    axes = [each % 4 for each in attributes(node).get("axes", range(4))]
    return axes.index(axis) if axis in axes else None


def _matrix(at: Step, axis: int) -> Value:
    """Write the matrix that the node applies along an axis: (1, 1, size after, size before)."""
    size = at.x.shape[axis]
    left_out = ("extrapolation_value", "axes")
    given = {k: v for k, v in attributes(at.node).items() if k not in left_out}
    inputs = [_changed(at, place, axis) for place in (ROI, SCALES, SIZES)]
    while not inputs[-1]:
        inputs.pop()
    return at.tape.floats(np.eye(size)[None, None]).op("Resize", *inputs, **given)


def _changed(at: Step, place: int, axis: int) -> Value | str:
    """Turn an input of the node into that of a map along the rows of an identity."""
    name, tape, entry = _input(at.node, place), at.tape, _entry(at.node, axis)
    values = tape.constants.get(name)
    if not name or (values is not None and not values.size):
        return name
    if place != ROI:
        constant, same = (tape.ints, at.x.shape[axis]) if place == SIZES else (tape.floats, 1)
        own = constant([same])
        if entry is not None:
            # The sum keeps shape inference from following computed sizes through the slice: it
            # loses their number on the way and refuses the Resize.
            own = tape.op("Slice", name, [entry], [entry + 1]).sum([0], keep=True)
        return tape.op("Concat", constant([1, 1]), own, constant([same]), axis=0)
    if not _crops(at.node):
        return name
    assert values is not None  # see `resizes_the_last_two_of_four`
    start, end = (0.0, 1.0) if entry is None else values[[entry, entry + len(values) // 2]]
    return tape.floats([0, 0, start, 0, 1, 1, end, 1])


RESIZE: Mapping[str, Gradient] = {
    "Resize": Gradient(resize, fits=resizes_the_last_two_of_four),
}
