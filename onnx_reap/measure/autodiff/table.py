"""The gradients of all operators that have one; what has none lets no gradient through."""

from collections.abc import Mapping

from onnx_reap.measure.autodiff.arithmetic import ARITHMETIC
from onnx_reap.measure.autodiff.attention import ATTENTION
from onnx_reap.measure.autodiff.gradient import Gradient
from onnx_reap.measure.autodiff.layers import LAYERS
from onnx_reap.measure.autodiff.movement import MOVEMENT
from onnx_reap.measure.autodiff.norms import NORMS
from onnx_reap.measure.autodiff.pointwise import POINTWISE
from onnx_reap.measure.autodiff.pooling import POOLING
from onnx_reap.measure.autodiff.recurrent import RECURRENT
from onnx_reap.measure.autodiff.reductions import REDUCTIONS
from onnx_reap.measure.autodiff.resize import RESIZE

GRADIENTS: Mapping[str, Gradient] = {
    **ARITHMETIC,
    **ATTENTION,
    **LAYERS,
    **MOVEMENT,
    **NORMS,
    **POINTWISE,
    **POOLING,
    **RECURRENT,
    **REDUCTIONS,
    **RESIZE,
}
