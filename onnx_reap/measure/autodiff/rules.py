"""How gradients pass through operators: one rule an operator.

A rule takes the node, the gradient at its output and the place of one of its inputs, and writes the
gradient at that input. What has no rule lets no gradient through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx

from onnx_reap.measure.autodiff import (
    arithmetic,
    layers,
    movement,
    norms,
    pointwise,
    pooling,
    reductions,
    resize,
)
from onnx_reap.measure.autodiff.tape import Constants, Shapes, Tape

Write = Callable[[Tape, onnx.NodeProto, str, int], str]
Fits = Callable[[onnx.NodeProto, Constants, Shapes], bool]


@dataclass(frozen=True)
class BackwardRule:
    """How to write a gradient.

    Attributes
    ----------
    write : callable
    places : frozenset of int, optional
        Inputs whose gradient can be written; None for all.
    constant : tuple of int
        Inputs that must be constants of the part.
    fits : callable, optional
        Whether the rule covers a node, from it, the part's constants and the shapes of tensors.
    splits : bool
        Whether the node has several results of one input: the rule is then given the place of the
        result that the gradient is at.
    """

    write: Write
    places: frozenset[int] | None = frozenset({0})
    constant: tuple[int, ...] = ()
    fits: Fits | None = None
    splits: bool = False

    def covers(self, place: int) -> bool:
        """Whether the gradient at this input can be written."""
        return self.places is None or place in self.places


_ALL = None
_WEIGHTED = frozenset({0, 1, 2})

RULES: Mapping[str, BackwardRule] = {
    "Abs": BackwardRule(pointwise.absolute),
    "Add": BackwardRule(arithmetic.add, _ALL),
    "AveragePool": BackwardRule(pooling.average_pool, fits=pooling.has_plain_windows),
    "BatchNormalization": BackwardRule(norms.batch_norm, constant=(1, 4)),
    "Cast": BackwardRule(movement.same, fits=movement.gives_float32),
    "Clip": BackwardRule(pointwise.clip),
    "Concat": BackwardRule(movement.concat, _ALL),
    "Conv": BackwardRule(layers.conv, _WEIGHTED),
    "ConvTranspose": BackwardRule(layers.conv_transpose),
    "DepthToSpace": BackwardRule(movement.depth_to_space),
    "Div": BackwardRule(arithmetic.div, _ALL),
    "Dropout": BackwardRule(movement.same),
    "Elu": BackwardRule(pointwise.elu),
    "Erf": BackwardRule(pointwise.erf),
    "Exp": BackwardRule(pointwise.exp),
    "Expand": BackwardRule(arithmetic.add),
    "Flatten": BackwardRule(movement.reshape),
    "Gather": BackwardRule(movement.put_back, constant=(1,), fits=movement.takes_nothing_twice),
    "Gelu": BackwardRule(pointwise.gelu),
    "Gemm": BackwardRule(layers.gemm, _WEIGHTED),
    "GlobalAveragePool": BackwardRule(reductions.global_average),
    "GlobalMaxPool": BackwardRule(reductions.global_max),
    "GroupNormalization": BackwardRule(norms.group_norm),
    "HardSigmoid": BackwardRule(pointwise.hard_sigmoid),
    "HardSwish": BackwardRule(pointwise.hard_swish),
    "Identity": BackwardRule(movement.same),
    "InstanceNormalization": BackwardRule(norms.instance_norm),
    "LayerNormalization": BackwardRule(norms.layer_norm, fits=norms.has_one_result),
    "LeakyRelu": BackwardRule(pointwise.leaky_relu),
    "Log": BackwardRule(pointwise.log),
    "LogSoftmax": BackwardRule(norms.log_softmax),
    "MatMul": BackwardRule(layers.matmul, _ALL, fits=layers.has_matrices),
    "Max": BackwardRule(arithmetic.extreme, _ALL, fits=arithmetic.has_two_operands),
    "MaxPool": BackwardRule(pooling.max_pool, fits=pooling.has_plain_windows),
    "Min": BackwardRule(arithmetic.extreme, _ALL, fits=arithmetic.has_two_operands),
    "Mul": BackwardRule(arithmetic.mul, _ALL),
    "Neg": BackwardRule(pointwise.neg),
    "Pad": BackwardRule(movement.pad, fits=movement.pads_with_a_constant),
    "Pow": BackwardRule(arithmetic.power, constant=(1,), fits=arithmetic.has_no_zero),
    "PRelu": BackwardRule(pointwise.prelu),
    "Reciprocal": BackwardRule(pointwise.reciprocal),
    "ReduceMax": BackwardRule(reductions.extreme, fits=reductions.has_constant_axes),
    "ReduceMean": BackwardRule(reductions.mean, fits=reductions.has_constant_axes),
    "ReduceMin": BackwardRule(reductions.extreme, fits=reductions.has_constant_axes),
    "ReduceSum": BackwardRule(reductions.total, fits=reductions.has_constant_axes),
    "Relu": BackwardRule(pointwise.relu),
    "Reshape": BackwardRule(movement.reshape),
    "Resize": BackwardRule(resize.resize, fits=resize.resizes_the_last_two_of_four),
    "Sigmoid": BackwardRule(pointwise.sigmoid),
    "Slice": BackwardRule(movement.put_back),
    "Softmax": BackwardRule(norms.softmax),
    "Softplus": BackwardRule(pointwise.softplus),
    "SpaceToDepth": BackwardRule(movement.space_to_depth),
    "Split": BackwardRule(movement.split, splits=True),
    "Sqrt": BackwardRule(pointwise.sqrt),
    "Squeeze": BackwardRule(movement.reshape),
    "Sub": BackwardRule(arithmetic.sub, _ALL),
    "Sum": BackwardRule(arithmetic.add, _ALL),
    "Tanh": BackwardRule(pointwise.tanh),
    "Transpose": BackwardRule(movement.transpose),
    "Unsqueeze": BackwardRule(movement.reshape),
    "Where": BackwardRule(arithmetic.where, frozenset({1, 2})),
}
