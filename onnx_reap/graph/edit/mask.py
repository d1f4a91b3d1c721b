"""Masking: the original graph with removed channels' rows set to zero in their consumers."""

from collections.abc import Iterable

import numpy as np

from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.labels.kept import kept_positions
from onnx_reap.graph.labels.records import Flow, Linear


def mask_graph(model: Model, flow: Flow, removed: Iterable[int]) -> None:
    """Zero, in every weight that mixes channels, the entries that read removed ones; in place."""
    kept = kept_positions(flow, removed)
    constants = model.constants()
    for linear in flow.linears:
        cut = kept.get(linear.x)
        if linear.depthwise or cut is None or cut[0] != linear.x_axis:
            continue
        constant = constants[linear.weight]
        masked = np.ones(flow.labels[linear.x].shape[linear.x_axis], bool)
        masked[cut[1]] = False
        constant.values = _zeroed(constant.values, linear, masked)
    for product in flow.products:
        if product.weight is not None and product.over in kept:
            constant, (_, stays) = constants[product.weight], kept[product.over]
            zeroed = np.zeros_like(constant.values)
            zeroed[..., stays] = constant.values[..., stays]
            constant.values = zeroed


def _zeroed(weight: np.ndarray, linear: Linear, masked: np.ndarray) -> np.ndarray:
    """Return the weight with zeros where it reads inputs marked in `masked`, shape (inputs,)."""
    weight = weight.copy()
    view = np.moveaxis(weight, linear.weight_in, 0)
    if linear.group == 1 or linear.transposed:
        view[masked] = 0
        return weight
    outputs = weight.shape[0] // linear.group
    for g, part in enumerate(np.split(masked, linear.group)):
        weight[g * outputs : (g + 1) * outputs, part] = 0
    return weight
