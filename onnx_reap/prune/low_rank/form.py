"""Low rank as channels: a model is written in another form, exactly, and then pruned.

A layer and two that make the same of it, with as many coordinates between as its rank, are the same
function; so are a stream of channels between linear layers and its coordinates in another basis.
The model in such a form goes through the stages like any other: coordinates are a group of
channels, whose removal path, sensitivity and width are found as those of others are. At its full
width such a group stands for what was there before, and costs what that costs; a pruned model has
two layers, or another basis, only where fewer coordinates stay.

References
----------
Y. Xu et al., "TRP: Trained Rank Pruning for Efficient Deep Neural Networks", IJCAI 2020.
S. Ashkboos et al., "SliceGPT: Compress Large Language Models by Deleting Rows and Columns", ICLR
2024.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnx_reap.errors import ReapError
from onnx_reap.graph.analysis import Analysis
from onnx_reap.graph.edit.merge import Merge
from onnx_reap.graph.groups import corresponding_units
from onnx_reap.prune.context import Run
from onnx_reap.prune.form import Choice, Factorised, Form, removed_in, widths_left
from onnx_reap.prune.goal import check_globs
from onnx_reap.prune.low_rank.bases import find_factors
from onnx_reap.prune.low_rank.costs import added_in_form, priced
from onnx_reap.prune.low_rank.rewrite import (
    Rewritten,
    check_same,
    fast_ranks,
    rewritten,
    sound_ones,
)
from onnx_reap.prune.low_rank.stream import STREAM, Basis
from onnx_reap.prune.low_rank.streams import find_streams

UNCHANGED = "--low-rank changed nothing"
FEW_CHANNELS = "no float32 convolution or dense layer has enough channels"


@dataclass(frozen=True, kw_only=True)
class LowRank(Form):
    """A model whose layers are written as two, and streams in other bases."""

    given: Run  # On the model that was given
    bases: Mapping[str, Basis]  # By name of the group of coordinates
    left_whole: tuple[str, ...] = ()  # Warnings about layers that are not written as two

    @property
    def original(self) -> Analysis:
        """Analysis of the model that was given."""
        return self.given.analysis

    def settled(self, choice: Choice) -> tuple[Analysis, Choice]:
        """Return the model that is in another form just where coordinates are lost."""
        lower = [self.bases[factor] for factor in self.lowered(choice)]
        changed = check_same(self.given, lower).analysis
        return changed, _in_terms_of(changed, choice, self.analysis)

    def as_given(self, choice: Choice) -> Choice:
        """Return the choice in terms of the given channels.

        Coordinates of a stream are none of these, so that all channels of streams stay.
        """
        streams = {name for name, basis in self.bases.items() if basis.scheme == STREAM}
        return _in_terms_of(self.original, choice, self.analysis, whole=streams)

    def factors(self, choice: Choice) -> list[Factorised]:
        """List the layers that become two and the streams that lose coordinates."""
        names = [group.name for group in self.analysis.groups]
        errors = dict(zip(names, choice.errors, strict=True))
        return [
            Factorised(basis.node, basis.scheme, width, basis.rank, errors[name])
            for name, width in self.lowered(choice).items()
            for basis in [self.bases[name]]
        ]

    def notes(self, choice: Choice) -> list[str]:
        """Tell what was left whole, and if that is all."""
        if self.lowered(choice) or any(note.startswith(UNCHANGED) for note in self.left_whole):
            return list(self.left_whole)
        return [*self.left_whole, f"{UNCHANGED}: removing channels alone loses less"]

    def lowered(self, choice: Choice) -> dict[str, int]:
        """Return the width of every group of coordinates that loses some, not all."""
        names = [group.name for group in self.analysis.groups]
        widths = dict(zip(names, choice.widths.tolist(), strict=True))
        return {n: widths[n] for n, basis in self.bases.items() if 0 < widths[n] < basis.rank}


def in_low_rank(run: Run) -> Run:
    """Write every layer as two, and every stream in another basis, that may gain by it."""
    check_globs(run.analysis, run.settings)
    factors = find_factors(run)
    ranks = fast_ranks(run, factors)
    faster = [factor for factor in factors if factor.node in ranks]
    notes: tuple[str, ...] = ()
    if len(faster) < len(factors):
        notes += (
            f"{len(factors) - len(faster)} of {len(factors)} layers are not factorised: "
            "timed on this machine, two would not be clearly faster",
        )
    with run.clock("factorise"):
        possible: list[Basis] = [*faster, *find_streams(run)]
        changed = sound_ones(run, possible)
    if len(changed.by_group) < len(possible):
        notes += (
            f"{len(possible) - len(changed.by_group)} of {len(possible)} layers and streams stay "
            "as they are: rounding would change what they give",
        )
    if not changed.by_group:
        return _unfactored(run, "; ".join(notes) or FEW_CHANNELS)
    return _in_form(run, changed, ranks, notes)


def _unfactored(run: Run, why: str) -> Run:
    """Leave the model as it is, and say why; refuse if there is nothing else to do."""
    if run.settings.low_rank == "only":
        raise ReapError(
            "--low-rank: no layer gains by being written as two",
            got=why,
            hint="remove channels too, or loosen --exclude, --include or --round-to",
        )
    form = LowRank(run.analysis, given=run, bases={}, left_whole=(f"{UNCHANGED}: {why}",))
    return replace(run, form=form)


def without_idle(form: LowRank, choice: Choice) -> Run | None:
    """Undo the factorisation of layers that keep their full rank; return the run on that form.

    Returns
    -------
    Run or None
        None if there are no such layers, or nothing is removed, or nothing could be any more.
    """
    if not choice.removed:
        return None
    lower = form.lowered(choice)
    left = {n: b for n, b in form.bases.items() if b.scheme == STREAM or n in lower}
    if len(left) == len(form.bases) or not _may_shrink(form, left):
        return None
    return _with_just(form, list(left.values()))


def with_layers_whole(form: LowRank) -> Run | None:
    """Return the run on a form in which no layer is two; None if none is, or nothing could go."""
    streams = {name: basis for name, basis in form.bases.items() if basis.scheme == STREAM}
    if len(streams) == len(form.bases) or not _may_shrink(form, streams):
        return None
    return _with_just(form, list(streams.values()))


def low_rank_of(run: Run) -> LowRank:
    """Return the form that is pruned, of a run that `in_low_rank` returned."""
    assert isinstance(run.form, LowRank)
    return run.form


def _may_shrink(form: LowRank, bases: Mapping[str, Basis]) -> bool:
    channels = form.given.settings.low_rank == "also" and form.original.groups
    return bool(bases or channels)


def _with_just(form: LowRank, bases: Sequence[Basis]) -> Run:
    groups = form.analysis.groups
    ranks = {
        form.bases[groups[index].name].node: widths[:-1]
        for index, widths in form.widths.items()
        if index in form.coordinates
    }
    return _in_form(form.given, rewritten(form.given, bases), ranks, form.left_whole)


def _in_form(
    given: Run, changed: Rewritten, ranks: Mapping[str, np.ndarray], notes: tuple[str, ...]
) -> Run:
    groups, factors = changed.analysis.groups, changed.factors
    widths = {i: np.append(ranks[f.node], f.rank) for i, f in factors.items()}
    if given.settings.low_rank == "only":
        others = {i: np.array([g.width]) for i, g in enumerate(groups) if i not in changed.by_group}
        widths = others | widths
    form = LowRank(
        priced(given.analysis, changed),
        widths,
        frozenset(changed.by_group),
        added_in_form(given.analysis, changed),
        given=given,
        bases={groups[index].name: basis for index, basis in changed.by_group.items()},
        left_whole=notes,
    )
    return replace(given, form=form)


def _in_terms_of(
    target: Analysis, choice: Choice, source: Analysis, whole: Collection[str] = ()
) -> Choice:
    """Look a choice up in another form of the model, by the names of groups."""
    kept = {unit for group in source.groups if group.name in whole for unit in group.units}
    removed = removed_in([unit for unit in choice.removed if unit not in kept], source, target)
    names = (group.name for group in source.groups)
    errors = dict(zip(names, choice.errors, strict=True)) | dict.fromkeys(whole, 0.0)
    return replace(
        choice,
        widths=widths_left(target, removed),
        removed=removed,
        errors=tuple(errors[group.name] for group in target.groups),
        merge=_merge_in(target, choice.merge, source),
    )


def _merge_in(target: Analysis, merge: Merge, source: Analysis) -> Merge:
    units = corresponding_units(source.groups, target.groups)
    targets = {
        units[unit]: (units[other], share)
        for unit, (other, share) in merge.targets.items()
        if unit in units
    }
    return Merge(targets, frozenset(units[unit] for unit in merge.averaged if unit in units))
