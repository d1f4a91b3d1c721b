"""Low rank as channels: a model is written in another form, exactly, and then pruned.

A layer and two that make the same of it, with as many coordinates between as its rank, are the same
function; so are a stream of channels between linear layers and its coordinates in another basis.
The model in such a form goes through the stages like any other: coordinates are a group of
channels, whose removal path, sensitivity and width are found as those of others are. At its full
width such a group stands for what was there before, and costs what that costs; a model that is made
has two layers, or another basis, only where fewer coordinates stay.

References
----------
Y. Xu et al., "TRP: Trained Rank Pruning for Efficient Deep Neural Networks", IJCAI 2020.
S. Ashkboos et al., "SliceGPT: Compress Large Language Models by Deleting Rows and Columns", ICLR
2024.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnx_reap.errors import ReapError
from onnx_reap.graph.analysis import Analysis
from onnx_reap.graph.edit.merge import Merge
from onnx_reap.prune.context import Basis, Factored, Work
from onnx_reap.prune.decide import Choice
from onnx_reap.prune.globs import check_globs
from onnx_reap.prune.low_rank.bases import find_factors
from onnx_reap.prune.low_rank.rewrite import check_same, fast_ranks, priced, rewritten, sound_ones
from onnx_reap.prune.low_rank.stream import STREAM
from onnx_reap.prune.low_rank.streams import find_streams
from onnx_reap.prune.plan import Factorised
from onnx_reap.prune.planning import make_plan, removed_by, widths_left

NOTHING = "--low-rank changed nothing"
FEW_CHANNELS = "no float32 convolution or dense layer has enough channels"


def factored(work: Work) -> Work:
    """Write every layer as two, and every stream in another basis, that may gain by it.

    Returns
    -------
    Work
        On the model in that form.

    Raises
    ------
    ReapError
        If there is none, and nothing else is to be done.
    CheckError
        If the model's function changed.
    """
    if work.settings.low_rank is None:
        return work
    check_globs(work.analysis, work.settings)
    factors = find_factors(work)
    ranks = fast_ranks(work, factors)
    faster = [factor for factor in factors if factor.node in ranks]
    notes: tuple[str, ...] = ()
    if len(faster) < len(factors):
        notes += (
            f"{len(factors) - len(faster)} of {len(factors)} layers that could be two stay one: "
            "timed on this machine, two would not be clearly faster",
        )
    with work.clock("factorise"):
        possible: list[Basis] = [*faster, *find_streams(work)]
        bases = sound_ones(work, possible)
    if len(bases) < len(possible):
        notes += (
            f"{len(possible) - len(bases)} of {len(possible)} layers and streams stay as they are: "
            "rounding would change what they give",
        )
    if not bases:
        return _unfactored(work, "; ".join(notes) or FEW_CHANNELS)
    return _in_form(work, bases, ranks, notes)


def _unfactored(work: Work, why: str) -> Work:
    """Leave the model as it is, and say why; refuse if there is nothing else to do."""
    if work.settings.low_rank == "only":
        raise ReapError(
            "--low-rank: no layer gains by being written as two",
            got=why,
            hint="remove channels too, or loosen --exclude, --include or --round-to",
        )
    note = f"{NOTHING}: {why}"
    return replace(work, factored=Factored(work.analysis, {}, (note,)))


def without_idle(work: Work, choice: Choice) -> Work:
    """Return the work on a form in which layers are one again that a choice leaves whole.

    Returns
    -------
    Work
        The same object if there are none, or nothing goes, or nothing could go any more.
    """
    known = work.factored
    if known is None or not choice.removed:
        return work
    widths = _widths(work, choice)
    left = {
        name: basis
        for name, basis in known.bases.items()
        if basis.scheme == STREAM or 0 < widths[name] < basis.rank
    }
    if len(left) == len(known.bases) or not _may_shrink(work, left):
        return work
    return _with_just(work, known, list(left.values()))


def with_layers_whole(work: Work) -> Work | None:
    """Return the work on a form in which no layer is two; None if none is, or nothing could go."""
    known = work.factored
    if known is None:
        return None
    streams = {name: basis for name, basis in known.bases.items() if basis.scheme == STREAM}
    if len(streams) == len(known.bases) or not _may_shrink(work, streams):
        return None
    return _with_just(work, known, list(streams.values()))


def _may_shrink(work: Work, bases: Mapping[str, Basis]) -> bool:
    channels = work.settings.low_rank == "also" and work.original.analysis.groups
    return bool(bases or channels)


def _with_just(work: Work, known: Factored, bases: Sequence[Basis]) -> Work:
    ranks = {
        known.bases[work.analysis.groups[index].name].node: widths[:-1]
        for index, widths in work.analysis.ranks.items()
    }
    return _in_form(work.original, bases, ranks, known.notes)


def _in_form(
    work: Work, bases: Sequence[Basis], ranks: Mapping[str, np.ndarray], notes: tuple[str, ...]
) -> Work:
    changed, by_group = rewritten(work, bases)
    by_name = {changed.groups[index].name: basis for index, basis in by_group.items()}
    changed = priced(work, changed, by_group, ranks)
    return replace(work, analysis=changed, factored=Factored(work.analysis, by_name, notes))


def settled(work: Work, choice: Choice) -> tuple[Work, Choice]:
    """Return the work on the model that is in another form just where coordinates are lost."""
    if work.factored is None:
        return work, choice
    changed = check_same(work.original, list(_lower(work, choice).values()))
    return replace(work, analysis=changed, factored=None), _moved(work, choice, changed)


def original_choice(work: Work, choice: Choice) -> Choice:
    """Return what a choice means to the channels of the model that was given.

    Coordinates of a stream are none of its channels, so that all of these stay.
    """
    if work.factored is None:
        return choice
    streams = {name for name, basis in work.factored.bases.items() if basis.scheme == STREAM}
    return _moved(work, choice, work.factored.original, whole=streams)


def ranks_left(work: Work, choice: Choice) -> list[Factorised]:
    """List the layers that become two and the streams, with the rank of each and its error."""
    widths = _widths(work, choice)
    errors = dict(zip(widths, choice.errors, strict=True))
    return [
        Factorised(basis.node, basis.scheme, widths[name], basis.rank, errors[name])
        for name, basis in _lower(work, choice).items()
    ]


def _lower(work: Work, choice: Choice) -> dict[str, Basis]:
    """Return the bases that lose some coordinates, not all."""
    if work.factored is None:
        return {}
    widths, bases = _widths(work, choice), work.factored.bases
    return {name: basis for name, basis in bases.items() if 0 < widths[name] < basis.rank}


def lowered(known: Factored, ranks: Sequence[object]) -> list[str]:
    """Return what is said of low rank, with the ranks that a model was made with."""
    if ranks or any(note.startswith(NOTHING) for note in known.notes):
        return list(known.notes)
    return [*known.notes, f"{NOTHING}: removing channels alone loses less"]


def _widths(work: Work, choice: Choice) -> dict[str, int]:
    names = (group.name for group in work.analysis.groups)
    return dict(zip(names, choice.widths.tolist(), strict=True))


def _moved(work: Work, choice: Choice, target: Analysis, whole: Collection[str] = ()) -> Choice:
    """Look a choice up in another form of the model, by the names of groups.

    Parameters
    ----------
    whole : collection of str
        Groups that lose nothing there.
    """
    plan = make_plan(work.analysis, choice.removed, work.settings)
    names = {group.name for group in target.groups}.difference(whole)
    # Who makes and reads a group's channels depends on the form.
    entries = [replace(g, producers=(), consumers=()) for g in plan.groups if g.name in names]
    removed = removed_by(replace(plan, groups=tuple(entries)), target)
    errors = dict(zip(_widths(work, choice), choice.errors, strict=True))
    return replace(
        choice,
        widths=widths_left(target, removed),
        removed=removed,
        errors=tuple(errors[g.name] if g.name in names else 0.0 for g in target.groups),
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
