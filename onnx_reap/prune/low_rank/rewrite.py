"""Other forms of a model, the same function: layers as two, streams in other bases."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnx_reap.errors import CheckError
from onnx_reap.graph.analysis import Analysis, analyse
from onnx_reap.graph.cost import saved_whole
from onnx_reap.graph.exclusion import exclusion
from onnx_reap.graph.inputs import model_inputs
from onnx_reap.graph.ir.model import Model
from onnx_reap.measure.compare import SAME, compare, comparison_feeds, keep_sound
from onnx_reap.prune.context import Basis, Work
from onnx_reap.prune.low_rank.bases import gaining_ranks
from onnx_reap.prune.low_rank.factor import Factor, insert
from onnx_reap.prune.low_rank.stream import Stream, taken_over
from onnx_reap.prune.low_rank.streams import ends_of, turned
from onnx_reap.prune.low_rank.timing import faster_ranks
from onnx_reap.prune.refit.layerwise import has_bias
from onnx_reap.solve.cost import Cost, Term
from onnx_reap.solve.gates import fewest


def rewritten(work: Work, bases: Sequence[Basis]) -> tuple[Analysis, dict[int, Basis]]:
    """Analyse a model with layers written as two, and streams in other bases.

    Parameters
    ----------
    work : Work
        On the given model.

    Returns
    -------
    analysis : Analysis
        Of which the two cost what they do at all ranks: see `priced`.
    by_group : dict of int to Factor or Stream
    """
    changed = work.analysis
    keys: dict[str, Basis] = {}
    if factors := [basis for basis in bases if isinstance(basis, Factor)]:
        model = changed.copy()
        keys = {insert(model, factor): factor for factor in factors}
        changed = _analysed(work, model, keys)
    streams = {basis.node: basis for basis in bases if isinstance(basis, Stream)}
    if streams:
        changed = _analysed(work, turned(changed, streams.values()), keys)
    by_name = keys | streams
    by_group = {
        index: by_name[group.name]
        for index, group in enumerate(changed.groups)
        if group.name in by_name and group.width == by_name[group.name].rank
    }
    return replace(changed, coordinates=frozenset(by_group)), by_group


def _analysed(work: Work, model: Model, keys: Collection[str]) -> Analysis:
    proto = model.to_proto()
    added = len(proto.graph.node) - len(model.nodes)  # constants of old formats, which come first
    for node, written in zip(model.nodes, proto.graph.node[added:], strict=True):
        written.name = model.keys[id(node)]  # nodes without a name are called by their place
    inputs = model_inputs(proto, work.settings.input_shapes)
    why_not = exclusion(work.settings.include, work.settings.exclude)
    providers = work.analysis.providers
    return analyse(proto, inputs, work.samples.every, providers, why_not, bases=keys)


def priced(
    work: Work,
    analysis: Analysis,
    by_group: Mapping[int, Basis],
    ranks: Mapping[str, np.ndarray],
) -> Analysis:
    """Make groups of coordinates cost what there was before where all of them stay.

    Parameters
    ----------
    work : Work
        On the given model.
    analysis : Analysis
        Of the other form.
    ranks : mapping of str to int array
        By layer, those at which two are worth it.
    """
    linears = {linear.node: linear for linear in analysis.flow.linears}
    factors = _factors_of(by_group)
    pairs = [
        (index, linears[analysis.groups[index].name], linears[factor.node], factor.linear.taps)
        for index, factor in factors.items()
    ]
    macs, params = saved_whole(
        analysis.flow, analysis.probe, analysis.groups, analysis.branches, pairs
    )
    return replace(
        analysis,
        macs=analysis.macs + macs,
        params=analysis.params + params + _folded(work, analysis, by_group),
        unbiased={
            linear.node: index
            for index, stream in by_group.items()
            if isinstance(stream, Stream)
            for linear in ends_of(work.analysis, stream).makers
            if not has_bias(work.analysis.model, linear)
        },
        ranks={
            index: np.append(ranks[factor.node], factor.rank) for index, factor in factors.items()
        },
    )


def _folded(work: Work, analysis: Analysis, by_group: Mapping[int, Basis]) -> Cost:
    """Count the parameters that are saved where a stream is in another basis, if it stays whole."""
    terms, shut = [], np.zeros(len(analysis.groups), np.int64)
    for index, stream in by_group.items():
        if isinstance(stream, Stream):
            shut[index] = stream.rank
            for linear in ends_of(work.analysis, stream).makers:
                spared = taken_over(work.analysis.model, linear, stream.rank)
                there = analysis.branches.of(linear.node)
                in_basis = fewest(way | {index} for way in there)
                terms += [Term(spared, (), there), Term(-spared, (), in_basis)]
    return Cost(terms, len(analysis.groups), shut)


def _factors_of(by_group: Mapping[int, Basis]) -> dict[int, Factor]:
    return {index: basis for index, basis in by_group.items() if isinstance(basis, Factor)}


def sound_ones(work: Work, bases: Sequence[Basis]) -> list[Basis]:
    """Leave out layers and streams that give something else then, all if they do so together."""
    kept, _, _ = keep_sound(bases, lambda some: check_same(work, some))
    return kept


def check_same(work: Work, bases: Sequence[Basis]) -> Analysis:
    """Compare the given model, and its layers, with another form, and return that.

    Parameters
    ----------
    work : Work
        On the given model.

    Raises
    ------
    CheckError
        If an output, one of the layers that are two, or one that reads a stream gives something
        else.
    """
    changed, by_group = rewritten(work, bases)
    there = set(map(id, by_group.values()))
    if missing := [basis.node for basis in bases if id(basis) not in there]:
        raise CheckError("another form of the model: groups are missing", got=", ".join(missing))
    if bases:
        flow, names = work.analysis.flow, {b.node for b in bases if isinstance(b, Stream)}
        units = {unit for g in work.analysis.groups if g.name in names for unit in g.units}
        moved = flow.holders(units)
        seen = [basis.linear.y for basis in bases if isinstance(basis, Factor)]
        seen += [linear.y for linear in flow.linears if linear.x in moved]
        compare(
            work.analysis.model.to_run(),
            changed.model.to_run(),
            comparison_feeds(work.samples.every, work.analysis.fixed_batch, work.settings.seed),
            changed.providers,
            SAME,
            also=[tensor for tensor in dict.fromkeys(seen) if tensor not in moved],
        )
    return changed


def fast_ranks(work: Work, factors: Sequence[Factor]) -> dict[str, np.ndarray]:
    """Return the ranks of every layer that are clearly faster, timed here; none of some layers."""
    changed, by_group = rewritten(work, factors)
    linears, groups = {x.node: x for x in changed.flow.linears}, _factors_of(by_group)
    ranks = {
        f.node: gaining_ranks(work.analysis, f.linear, f.scheme, work.settings)
        for f in groups.values()
    }
    layers = [
        (f.linear, linears[changed.groups[index].name], linears[f.node], ranks[f.node])
        for index, f in groups.items()
    ]
    with work.clock("time ranks"):
        faster = faster_ranks(work.analysis, changed, layers, work.progress)
    return {f.node: r for f, r in zip(groups.values(), faster, strict=True) if len(r)}
