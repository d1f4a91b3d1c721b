"""Low rank as channels: layers are written as two, exactly, and what lies between is pruned.

A layer and two that make the same of it, with as many coordinates between as its rank, are the same
function. So the model with all such layers written as two goes through the stages like any other:
the coordinates are a group of channels, whose removal path, sensitivity and width are found as
those of others are. At its full width such a group stands for the layer as it was, and costs what
that costs; a model that is made has two layers only where fewer coordinates stay.

References
----------
Y. Xu et al., "TRP: Trained Rank Pruning for Efficient Deep Neural Networks", IJCAI 2020.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from onnx_reap.analysis import Analysis, analyse, model_inputs
from onnx_reap.bases import find_factors, gaining_ranks
from onnx_reap.choice import Choice
from onnx_reap.equivalence import check_unchanged
from onnx_reap.errors import CheckError, ReapError
from onnx_reap.factorise.factor import Factor, insert
from onnx_reap.graph.cost import saved_whole
from onnx_reap.graph.merge import Merge
from onnx_reap.planning import make_plan, removed_by, widths_left
from onnx_reap.rank_times import faster_ranks
from onnx_reap.trial_feeds import trial_feeds
from onnx_reap.work import Factored, Work


def factored(work: Work) -> Work:
    """Write every layer as two that may gain by it, and return the work on that model.

    Raises
    ------
    ReapError
        If there is none, and nothing else is to be done.
    CheckError
        If the model's function changed.
    """
    if work.settings.low_rank is None:
        return work
    analysis = work.analysis
    factors = find_factors(work)
    changed, groups = _with_two(analysis, factors, work)
    ranks = _timed(analysis, changed, groups, work)
    slow = [factor.node for factor in factors if not len(ranks.get(factor.node, ()))]
    notes: tuple[str, ...] = ()
    if slow:
        notes = (
            f"{len(slow)} of {len(factors)} layers that could be two stay one: timed on this "
            "machine, two would not be clearly faster",
        )
        factors = [factor for factor in factors if factor.node not in slow]
        changed, groups = _with_two(analysis, factors, work)
    if not factors:
        return _unfactored(work, *notes)
    with work.clock("factorise"):
        sound = _sound(work, changed, factors)
    if len(sound) < len(factors):
        notes += (
            f"{len(factors) - len(sound)} of {len(factors)} layers that could be two stay one: "
            "rounding would change what they give",
        )
        factors = sound
        changed, groups = _with_two(analysis, factors, work)
    if not factors:
        return _unfactored(work, *notes)
    changed = _priced(changed, groups, ranks)
    by_group = {changed.groups[index].name: factor for index, factor in groups.items()}
    return replace(work, analysis=changed, factored=Factored(analysis, by_group, notes))


def _unfactored(
    work: Work, why: str = "no float32 convolution or dense layer has enough channels"
) -> Work:
    """Leave the model as it is, and say why; refuse if there is nothing else to do."""
    if work.settings.low_rank == "only":
        raise ReapError(
            "--low-rank: no layer gains by being written as two",
            got=why,
            hint="remove channels too, or loosen --exclude, --include or --round-to",
        )
    note = f"--low-rank changed nothing: {why}"
    return replace(work, factored=Factored(work.analysis, {}, (note,)))


def settled(work: Work, choice: Choice) -> tuple[Work, Choice]:
    """Return the work on the model in which just those layers are two that lose coordinates."""
    if work.factored is None:
        return work, choice
    widths = _widths(work, choice)
    two = [f for name, f in work.factored.factors.items() if 0 < widths[name] < f.rank]
    changed, _ = _with_two(work.factored.original, two, work)
    check_same(work.original, changed, two)
    return replace(work, analysis=changed, factored=None), _moved(work, choice, changed)


def original_choice(work: Work, choice: Choice) -> Choice:
    """Return what a choice means to the channels of the model that was given."""
    if work.factored is None:
        return choice
    return _moved(work, choice, work.factored.original)


def ranks_left(work: Work, choice: Choice) -> list[tuple[Factor, int, float | None]]:
    """List the layers that become two, with the rank of each and its error."""
    if work.factored is None:
        return []
    widths = _widths(work, choice)
    errors = dict(zip(widths, choice.errors, strict=True))
    return [
        (factor, widths[name], errors[name])
        for name, factor in work.factored.factors.items()
        if 0 < widths[name] < factor.rank
    ]


def _widths(work: Work, choice: Choice) -> dict[str, int]:
    names = (group.name for group in work.analysis.groups)
    return dict(zip(names, choice.widths.tolist(), strict=True))


def _moved(work: Work, choice: Choice, target: Analysis) -> Choice:
    """Look a choice up in another form of the model, by the names of groups."""
    plan = make_plan(work.analysis, choice.removed, work.settings)
    names = {group.name for group in target.groups}
    # Who makes and reads a group's channels depends on the form.
    entries = [replace(g, producers=(), consumers=()) for g in plan.groups if g.name in names]
    removed = removed_by(replace(plan, groups=tuple(entries)), target)
    errors = dict(zip(_widths(work, choice), choice.errors, strict=True))
    return replace(
        choice,
        widths=widths_left(target, removed),
        removed=removed,
        errors=tuple(errors[group.name] for group in target.groups),
        merge=_merge_in(work.analysis, choice.merge, target),
    )


def _merge_in(analysis: Analysis, merge: Merge, target: Analysis) -> Merge:
    own = {group.name: group.units for group in analysis.groups}
    units = {
        unit: other
        for group in target.groups
        for unit, other in zip(own[group.name], group.units, strict=True)
    }
    heirs = {
        units[unit]: (units[heir], share)
        for unit, (heir, share) in merge.heirs.items()
        if unit in units
    }
    return Merge(heirs, frozenset(units[unit] for unit in merge.averaged if unit in units))


# Another form of the model.


def _with_two(
    analysis: Analysis, factors: Sequence[Factor], work: Work
) -> tuple[Analysis, dict[int, Factor]]:
    """Analyse a model with layers written as two; the groups between them, by index."""
    if not factors:
        return analysis, {}
    model = analysis.copy()
    keys = {insert(model, factor): factor for factor in factors}
    proto = model.to_proto()
    for node, written in zip(model.nodes, proto.graph.node, strict=True):
        written.name = model.keys[id(node)]  # nodes without a name are called by their place
    inputs = model_inputs(proto, work.settings.input_shapes)
    changed = analyse(proto, inputs, work.samples.every, work.settings, bases=keys)
    return changed, {
        index: keys[group.name]
        for index, group in enumerate(changed.groups)
        if group.name in keys and group.width == keys[group.name].rank
    }


def _priced(
    analysis: Analysis, groups: Mapping[int, Factor], ranks: Mapping[str, np.ndarray]
) -> Analysis:
    """Make two layers cost what one does where all coordinates stay."""
    linears = {linear.node: linear for linear in analysis.flow.linears}
    pairs = [
        (index, linears[analysis.groups[index].name], linears[factor.node], factor.linear.taps)
        for index, factor in groups.items()
    ]
    macs, params = saved_whole(
        analysis.flow, analysis.probe, analysis.groups, analysis.branches, pairs
    )
    return replace(
        analysis,
        macs=analysis.macs + macs,
        params=analysis.params + params,
        ranks={
            index: np.append(ranks[factor.node], factor.rank) for index, factor in groups.items()
        },
    )


def _sound(work: Work, changed: Analysis, factors: Sequence[Factor]) -> list[Factor]:
    """Leave out layers that give something else as two, one by one if any does.

    Raises
    ------
    CheckError
        If the others do so together.
    """
    try:
        check_same(work, changed, factors)
    except CheckError:
        left = []
        for factor in factors:
            alone, _ = _with_two(work.analysis, [factor], work)
            with suppress(CheckError):
                check_same(work, alone, [factor])
                left.append(factor)
        if left:
            check_same(work, _with_two(work.analysis, left, work)[0], left)
        return left
    return list(factors)


def check_same(work: Work, changed: Analysis, factors: Sequence[Factor]) -> None:
    """Compare the given model, and its layers, with one in which some layers are two.

    Parameters
    ----------
    work : Work
        On the given model.

    Raises
    ------
    CheckError
        If an output or one of these layers gives something else.
    """
    check_unchanged(
        work.analysis.model.to_run(),
        changed.model.to_run(),
        trial_feeds(work),
        changed.providers,
        half=False,
        also=[factor.linear.y for factor in factors],
    )


def _timed(
    original: Analysis, changed: Analysis, groups: Mapping[int, Factor], work: Work
) -> dict[str, np.ndarray]:
    """Return the ranks of every layer that are clearly faster; none of layers without a group."""
    linears = {linear.node: linear for linear in changed.flow.linears}
    ranks = {
        f.node: gaining_ranks(original, f.linear, f.scheme, work.settings) for f in groups.values()
    }
    layers = [
        (f.linear, linears[changed.groups[index].name], linears[f.node], ranks[f.node])
        for index, f in groups.items()
    ]
    with work.clock("time ranks"):
        faster = faster_ranks(original, changed, layers, work.progress)
    return {f.node: r for f, r in zip(groups.values(), faster, strict=True)}
