"""What a model in another form costs: what there was before, where all coordinates stay."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from onnx_reap.graph.analysis import Analysis
from onnx_reap.graph.cost import saved_whole
from onnx_reap.graph.labels.records import Linear
from onnx_reap.prune.budgets import added_biases
from onnx_reap.prune.low_rank.rewrite import Rewritten
from onnx_reap.prune.low_rank.stream import taken_over
from onnx_reap.prune.low_rank.streams import ends_of
from onnx_reap.prune.refit.layerwise import has_bias
from onnx_reap.solve.cost import Cost, Term
from onnx_reap.solve.gates import Paths, fewest


def priced(original: Analysis, form: Rewritten) -> Analysis:
    """Make groups of coordinates cost what there was before where all of them stay."""
    analysis = form.analysis
    linears = {linear.node: linear for linear in analysis.flow.linears}
    pairs = [
        (index, linears[analysis.groups[index].name], linears[factor.node], factor.linear.taps)
        for index, factor in form.factors.items()
    ]
    macs, params = saved_whole(
        analysis.flow, analysis.probe, analysis.groups, analysis.branches, pairs
    )
    params = analysis.params + params + _folded(original, form)
    return replace(analysis, macs=analysis.macs + macs, params=params)


def _folded(original: Analysis, form: Rewritten) -> Cost:
    """Count the parameters that are saved where a stream is in another basis, if it stays whole."""
    analysis, terms = form.analysis, []
    closed_at = np.zeros(len(analysis.groups), np.int64)
    for index, stream in form.streams.items():
        closed_at[index] = stream.rank
        for linear in ends_of(original, stream).makers:
            spared = taken_over(original.model, linear, stream.rank)
            paths = analysis.branches.of(linear.node)
            in_basis = fewest(path | {index} for path in paths)
            terms += [Term(spared, (), paths), Term(-spared, (), in_basis)]
    return Cost(terms, len(analysis.groups), closed_at)


def added_in_form(original: Analysis, form: Rewritten) -> Cost:
    """Count the parameters that a refit adds, see `added_biases`.

    A layer that stays whole has no other in front of it, and a stream that stays whole leaves its
    layers without the biases that another basis brings.
    """
    analysis = form.analysis
    bases = {analysis.groups[index].name: index for index in form.factors}
    unbiased = {
        linear.node: index
        for index, stream in form.streams.items()
        for linear in ends_of(original, stream).makers
        if not has_bias(original.model, linear)
    }

    def present(linear: Linear) -> Iterator[tuple[float, Paths]]:
        stream = unbiased.get(linear.node)
        if stream is None and has_bias(analysis.model, linear):
            return
        paths = analysis.branches.of(linear.node)
        if linear.node in bases:
            paths = fewest(path | {bases[linear.node]} for path in paths)
        yield 1.0, paths
        if stream is not None:  # it has one in another basis
            yield -1.0, fewest(path | {stream} for path in paths)

    closed_at = np.zeros(len(analysis.groups), np.int64)
    for index in {*form.factors, *unbiased.values()}:
        closed_at[index] = analysis.groups[index].width
    return added_biases(analysis, present, closed_at)
