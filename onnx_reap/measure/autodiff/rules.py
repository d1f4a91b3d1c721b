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
class Rule:
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

RULES: Mapping[str, Rule] = {
    "Abs": Rule(pointwise.absolute),
    "Add": Rule(arithmetic.add, _ALL),
    "AveragePool": Rule(pooling.average_pool, fits=pooling.has_plain_windows),
    "BatchNormalization": Rule(norms.batch_norm, constant=(1, 4)),
    "Cast": Rule(movement.same, fits=movement.gives_float32),
    "Clip": Rule(pointwise.clip),
    "Concat": Rule(movement.concat, _ALL),
    "Conv": Rule(layers.conv, _WEIGHTED),
    "ConvTranspose": Rule(layers.conv_transpose),
    "DepthToSpace": Rule(movement.depth_to_space),
    "Div": Rule(arithmetic.div, _ALL),
    "Dropout": Rule(movement.same),
    "Elu": Rule(pointwise.elu),
    "Erf": Rule(pointwise.erf),
    "Exp": Rule(pointwise.exp),
    "Expand": Rule(arithmetic.add),
    "Flatten": Rule(movement.reshape),
    "Gather": Rule(movement.put_back, constant=(1,), fits=movement.takes_nothing_twice),
    "Gelu": Rule(pointwise.gelu),
    "Gemm": Rule(layers.gemm, _WEIGHTED),
    "GlobalAveragePool": Rule(reductions.global_average),
    "GlobalMaxPool": Rule(reductions.global_max),
    "GroupNormalization": Rule(norms.group_norm),
    "HardSigmoid": Rule(pointwise.hard_sigmoid),
    "HardSwish": Rule(pointwise.hard_swish),
    "Identity": Rule(movement.same),
    "InstanceNormalization": Rule(norms.instance_norm),
    "LayerNormalization": Rule(norms.layer_norm, fits=norms.has_one_result),
    "LeakyRelu": Rule(pointwise.leaky_relu),
    "Log": Rule(pointwise.log),
    "LogSoftmax": Rule(norms.log_softmax),
    "MatMul": Rule(layers.matmul, _ALL, fits=layers.has_matrices),
    "Max": Rule(arithmetic.extreme, _ALL, fits=arithmetic.has_two_operands),
    "MaxPool": Rule(pooling.max_pool, fits=pooling.has_plain_windows),
    "Min": Rule(arithmetic.extreme, _ALL, fits=arithmetic.has_two_operands),
    "Mul": Rule(arithmetic.mul, _ALL),
    "Neg": Rule(pointwise.neg),
    "Pad": Rule(movement.pad, fits=movement.pads_with_a_constant),
    "Pow": Rule(arithmetic.power, constant=(1,), fits=arithmetic.has_no_zero),
    "PRelu": Rule(pointwise.prelu),
    "Reciprocal": Rule(pointwise.reciprocal),
    "ReduceMax": Rule(reductions.extreme, fits=reductions.has_constant_axes),
    "ReduceMean": Rule(reductions.mean, fits=reductions.has_constant_axes),
    "ReduceMin": Rule(reductions.extreme, fits=reductions.has_constant_axes),
    "ReduceSum": Rule(reductions.total, fits=reductions.has_constant_axes),
    "Relu": Rule(pointwise.relu),
    "Reshape": Rule(movement.reshape),
    "Resize": Rule(resize.resize, fits=resize.resizes_the_last_two_of_four),
    "Sigmoid": Rule(pointwise.sigmoid),
    "Slice": Rule(movement.put_back),
    "Softmax": Rule(norms.softmax),
    "Softplus": Rule(pointwise.softplus),
    "SpaceToDepth": Rule(movement.space_to_depth),
    "Split": Rule(movement.split, splits=True),
    "Sqrt": Rule(pointwise.sqrt),
    "Squeeze": Rule(movement.reshape),
    "Sub": Rule(arithmetic.sub, _ALL),
    "Sum": Rule(arithmetic.add, _ALL),
    "Tanh": Rule(pointwise.tanh),
    "Transpose": Rule(movement.transpose),
    "Unsqueeze": Rule(movement.reshape),
    "Where": Rule(arithmetic.where, frozenset({1, 2})),
}
