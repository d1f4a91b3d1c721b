"""Operators with a weight: they end the channels that arrive and begin new ones."""

from typing import Any

import numpy as np

from onnx_reap.graph.labels.labels import first_along
from onnx_reap.graph.labels.records import Linear
from onnx_reap.graph.labels.site import Site
from onnx_reap.graph.rules.correction import Correction
from onnx_reap.graph.rules.products import einsum, matmul_of_two
from onnx_reap.graph.rules.rule import Rule
from onnx_reap.graph.rules.traits import Trait


def _conv(site: Site) -> None:
    """End the channels that arrive and begin new ones; let them pass if depthwise."""
    labels = site.labels(0)
    if not site.is_constant(1) or (site.has_input(2) and not site.is_constant(2)):
        site.freeze_inputs(f"{site.op} with a computed weight or bias")
        return
    transposed = site.op == "ConvTranspose"
    group = int(site.attribute("group", 1))
    inputs, outputs = site.shape(0)[1], site.output_shape()[1]
    depthwise = 1 < group == inputs
    kernel = site.shape(1)[2:]
    linear = _layer(
        site,
        1,
        weight_in=0 if transposed else 1,
        weight_out=1 if transposed else 0,
        group=group,
        depthwise=depthwise,
        kernel=kernel,
        strides=tuple(site.attribute("strides", [1] * len(kernel))),
        dilations=tuple(site.attribute("dilations", [1] * len(kernel))),
        pads=_pads(site, kernel),
    )
    thin = site.uniform(labels, range(2, labels.ndim))
    if depthwise:
        # Every output belongs to the channel that it is made of.
        site.set_labels(np.repeat(thin, outputs // inputs, axis=1))
        site.bind(1, 0, *((linear.x, 1) if transposed else (linear.y, 1)))
    else:
        site.fresh(axis=1)
        y_blocks, x_blocks = (group, 1) if transposed else (1, group)
        site.bind(1, linear.weight_out, linear.y, 1, y_blocks)
        site.bind(1, linear.weight_in, linear.x, 1, x_blocks)
        if group > 1:
            site.equal_counts(linear.x, 1, group)
            site.equal_counts(linear.y, 1, group)
    if linear.bias:
        site.bind(2, 0, linear.y, 1)
    site.linear(linear)


def _layer(site: Site, axis: int, **more: Any) -> Linear:
    """Describe a layer that makes channels along the axis along which it reads them."""
    return Linear(
        site.key,
        site.op,
        site.name(0),
        site.output_name(),
        x_axis=axis,
        y_axis=axis,
        weight=site.name(1),
        bias=site.name(2) if site.has_input(2) else None,
        **more,
    )


def _pads(site: Site, kernel: tuple[int, ...]) -> tuple[int, ...]:
    """Resolve padding, `auto_pad` and `output_shape` included, from the sizes in the probe."""
    rank = len(kernel)
    automatic = site.attribute("auto_pad", "NOTSET")
    strides = site.attribute("strides", [1] * rank)
    dilations = site.attribute("dilations", [1] * rank)
    transposed = site.op == "ConvTranspose"
    if automatic == "VALID":
        return (0,) * (2 * rank)
    if automatic == "NOTSET" and not (transposed and site.attribute("output_shape")):
        return tuple(site.attribute("pads", [0] * (2 * rank)))
    before, after = [], []
    sizes = (
        (site.output_shape(), site.shape(0)) if transposed else (site.shape(0), site.output_shape())
    )
    extra = site.attribute("output_padding", [0] * rank) if transposed else [0] * rank
    for i in range(rank):
        large, small = sizes[0][2 + i], sizes[1][2 + i]
        reach = (kernel[i] - 1) * dilations[i] + 1
        total = max((small - 1) * strides[i] + reach + extra[i] - large, 0)
        less, more = total // 2, total - total // 2
        # NOTSET with an output shape pads more at the begin, SAME_UPPER at the end.
        upper = automatic == "SAME_UPPER"
        before.append(less if upper else more)
        after.append(more if upper else less)
    return (*before, *after)


def _correct_conv(node: Correction) -> None:
    """Count the groups of a depthwise convolution: one per channel."""
    if 1 < node.attribute("group", 1) == node.before.shape()[1] != node.shape()[1]:
        node.node.attrs["group"] = node.shape()[1]


def _gemm(site: Site) -> None:
    transposed_a, transposed_b = (bool(site.attribute(f"trans{x}", 0)) for x in "AB")
    if not site.is_constant(1) or (site.has_input(2) and not site.is_constant(2)):
        site.freeze_inputs("Gemm with a computed weight or bias")
        return
    if transposed_a:
        site.freeze(site.labels(0), "Gemm that transposes its input")
        return
    linear = _layer(
        site,
        1,
        weight_in=1 if transposed_b else 0,
        weight_out=0 if transposed_b else 1,
        alpha=float(site.attribute("alpha", 1.0)),
        beta=float(site.attribute("beta", 1.0)),
    )
    _dense(site, linear)
    if linear.bias:
        site.bind_aligned(2)


def _matmul(site: Site) -> None:
    if site.is_constant(1) and len(site.shape(1)) == 2:
        _dense(site, _layer(site, len(site.shape(0)) - 1, weight_in=0, weight_out=1))
    elif site.is_constant(1) or site.is_constant(0):
        _matmul_elsewhere(site, 0 if site.is_constant(1) else 1)
    else:
        matmul_of_two(site)


def _dense(site: Site, linear: Linear) -> None:
    """Flow of a matrix product over the last axis."""
    labels = site.labels(0)
    axes = set(site.varying(labels)) - {linear.x_axis}
    if axes and linear.x_axis not in site.varying(labels):
        # Channels lie along another axis and pass; mixing happens between their positions.
        thin = site.uniform(labels, [linear.x_axis])
        site.set_labels(thin)
        site.bind(1, linear.weight_in, linear.x, linear.x_axis)
        site.bind(1, linear.weight_out, linear.y, linear.y_axis)
        site.product(labels.shape[linear.x_axis])
        return
    site.uniform(labels, [a for a in range(labels.ndim) if a != linear.x_axis])
    site.fresh(axis=linear.y_axis)
    site.bind(1, linear.weight_in, linear.x, linear.x_axis)
    site.bind(1, linear.weight_out, linear.y, linear.y_axis)
    site.linear(linear)


def _matmul_elsewhere(site: Site, data: int) -> None:
    """Products with a stacked or a left constant: channels along untouched axes pass."""
    labels = site.labels(data)
    rank, out_rank = labels.ndim, len(site.output_shape())
    summed = rank - 1 if data == 0 else max(rank - 2, 0)
    site.ignore(1 - data)
    site.product(labels.shape[summed])
    if summed in site.varying(labels) or rank != out_rank or len(site.shape(1 - data)) > 2:
        site.freeze(labels, "MatMul with a constant of this form")
        return
    site.set_labels(first_along(labels, [summed]))


_LAYER = Trait.WEIGHTED | Trait.KEEPS_CONSTANTS

MIXING: dict[str, Rule] = {
    "Conv": Rule(_conv, _correct_conv, _LAYER),
    "ConvTranspose": Rule(_conv, _correct_conv, Trait.WEIGHTED),
    "Gemm": Rule(_gemm, traits=_LAYER),
    "MatMul": Rule(_matmul, traits=_LAYER),
    "Einsum": Rule(einsum),
}
