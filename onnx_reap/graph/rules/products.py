"""Products of two activations, as in attention."""

from collections.abc import Set
from string import ascii_lowercase

import numpy as np

from onnx_reap.graph.labels.labels import LabelArray, first_along
from onnx_reap.graph.labels.site import Site


def matmul_of_two(site: Site) -> None:
    """Flow of a product whose matrices, or stacks of them, are both activations."""
    rank = len(site.output_shape())
    if len(site.shape(0)) != rank or len(site.shape(1)) != rank or rank < 2:
        site.freeze_inputs("MatMul of two activations")
        return
    lead = ascii_lowercase[: rank - 2]
    _contract(site, f"{lead}MK", f"{lead}KN", f"{lead}MN")


def einsum(site: Site) -> None:
    """Products of two activations; letters that are there twice in one term are not understood."""
    left, arrow, out = site.attribute("equation").replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow:
        out = "".join(sorted(letter for letter in {*left} - {","} if left.count(letter) == 1))
    simple = all(term.isalpha() and len({*term}) == len(term) for term in (*terms, out))
    if len(terms) == 2 and simple and not any(site.is_constant(index) for index in (0, 1)):
        _contract(site, terms[0], terms[1], out)
        return
    site.freeze_inputs("Einsum of this form")


def _contract(site: Site, a: str, b: str, out: str) -> None:
    """Flow of sums of products of two activations, a letter for each axis.

    Channels along an axis that both have and the result keeps are blocks, such as the heads of
    attention: no product crosses from one to another, so a block goes as one, on both sides. Else
    channels pass along an axis that one side alone has; what is summed over must stay.
    """
    why = f"{site.op} of two activations"
    sizes = dict(zip(a + b, site.shape(0) + site.shape(1), strict=True))
    site.product(int(np.prod([sizes[letter] for letter in {*a, *b} - {*out}])))
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
