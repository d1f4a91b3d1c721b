"""Operators with a weight: they end the channels that arrive and begin new ones."""

from __future__ import annotations

from collections.abc import Set
from string import ascii_lowercase

import numpy as np

from onnx_reap.graph.correction import Correction
from onnx_reap.graph.labels import LabelArray, first_along
from onnx_reap.graph.records import Linear
from onnx_reap.graph.rules.rule import Rule
from onnx_reap.graph.site import Site


def _conv(site: Site) -> None:
    labels = site.labels(0)
    if not site.is_constant(1) or (site.has_input(2) and not site.is_constant(2)):
        site.freeze_inputs(f"{site.op} with a computed weight or bias")
        site.product(int(np.prod(site.shape(1)[1:])))
        return
    transposed = site.op == "ConvTranspose"
    group = int(site.attribute("group", 1))
    inputs, outputs = site.shape(0)[1], site.output_shape()[1]
    depthwise = 1 < group == inputs
    kernel = site.shape(1)[2:]
    linear = Linear(
        site.key,
        site.op,
        site.name(0),
        site.output_name(),
        x_axis=1,
        y_axis=1,
        weight=site.name(1),
        bias=site.name(2) if site.has_input(2) else None,
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
        if site.is_constant(0) or site.is_constant(1):
            site.product(site.shape(0)[0 if transposed_a else 1])
        return
    if transposed_a:
        site.freeze(site.labels(0), "Gemm that transposes its input")
        site.product(site.shape(0)[0])
        return
    weight_in, weight_out = (1, 0) if transposed_b else (0, 1)
    linear = Linear(
        site.key,
        site.op,
        site.name(0),
        site.output_name(),
        x_axis=1,
        y_axis=1,
        weight=site.name(1),
        bias=site.name(2) if site.has_input(2) else None,
        weight_in=weight_in,
        weight_out=weight_out,
        alpha=float(site.attribute("alpha", 1.0)),
        beta=float(site.attribute("beta", 1.0)),
    )
    _dense(site, linear)
    if linear.bias:
        site.bind_aligned(2)


def _matmul(site: Site) -> None:
    if site.is_constant(1) and len(site.shape(1)) == 2 and len(site.shape(0)) >= 2:
        rank = len(site.shape(0))
        linear = Linear(
            site.key,
            site.op,
            site.name(0),
            site.output_name(),
            x_axis=rank - 1,
            y_axis=rank - 1,
            weight=site.name(1),
            bias=None,
            weight_in=0,
            weight_out=1,
        )
        _dense(site, linear)
    elif site.is_constant(1) or site.is_constant(0):
        _matmul_elsewhere(site, 0 if site.is_constant(1) else 1)
    else:
        _matmul_of_two(site)


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


def _matmul_of_two(site: Site) -> None:
    rank = len(site.output_shape())
    if len(site.shape(0)) != rank or len(site.shape(1)) != rank or rank < 2:
        site.freeze_inputs("MatMul of two activations")
        return
    lead = ascii_lowercase[: rank - 2]
    _contract(site, f"{lead}MK", f"{lead}KN", f"{lead}MN")


def _einsum(site: Site) -> None:
    """Products of two activations; letters that are there twice in one term are not understood."""
    left, _, out = site.attribute("equation").replace(" ", "").partition("->")
    terms = left.split(",")
    simple = all(term.isalpha() and len({*term}) == len(term) for term in (*terms, out))
    if len(terms) != 2 or not simple or any(site.is_constant(index) for index in (0, 1)):
        site.freeze_inputs("Einsum of this form")
        return
    _contract(site, terms[0], terms[1], out)


def _contract(site: Site, a: str, b: str, out: str) -> None:
    """Flow of sums of products of two activations, a letter for each axis.

    Channels along an axis that both have and the result keeps are blocks, such as the heads of
    attention: no product crosses from one to another, so a block goes as one, on both sides. Else
    channels pass along an axis that one side alone has; what is summed over must stay.
    """
    why = f"{site.op} of two activations"
    terms = [(site.labels(index), letters) for index, letters in enumerate((a, b))]
    varying = [{letters[axis] for axis in site.varying(x)} for x, letters in terms]
    blocks = (varying[0] | varying[1]) & {*a} & {*b} & {*out}
    if blocks:
        ways = [_spread(site.uniform(x, _but(blocks, t)), t, out) for x, t in terms]
        if ways[0].shape != ways[1].shape:
            site.freeze_inputs(f"{why} that repeats a block")
            return
        site.unite(ways[0], ways[1])
        site.set_labels(ways[0])
        return
    free = [({*a} - {*b}) & {*out}, ({*b} - {*a}) & {*out}]
    for (x, _), axes, own in zip(terms, varying, free, strict=True):
        if axes - own or not axes:
            site.freeze(x, why)
    passing = [bool(axes & own) for axes, own in zip(varying, free, strict=True)]
    if all(passing):
        site.freeze_inputs(f"{why} with channels on both sides")
    elif any(passing):
        index = passing.index(True)
        x, letters = terms[index]
        site.set_labels(_spread(first_along(x, _but(free[index], letters)), letters, out))


def _but(kept: Set[str], letters: str) -> list[int]:
    return [axis for axis, letter in enumerate(letters) if letter not in kept]


def _spread(labels: LabelArray, letters: str, out: str) -> LabelArray:
    """Bring axes into another order; those that `out` lacks are of length 1 and go."""
    order = [letters.index(letter) for letter in out if letter in letters]
    gone = tuple(axis for axis, letter in enumerate(letters) if letter not in out)
    left = labels.transpose([*gone, *order]).reshape([labels.shape[axis] for axis in order])
    return np.expand_dims(left, tuple(_but({*letters}, out)))


MIXING: dict[str, Rule] = {
    "Conv": Rule(_conv, _correct_conv),
    "ConvTranspose": Rule(_conv, _correct_conv),
    "Gemm": Rule(_gemm),
    "MatMul": Rule(_matmul),
    "Einsum": Rule(_einsum),
}
