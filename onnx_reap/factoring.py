"""Low rank as channels: layers are written as two, exactly, and what lies between is pruned.

A layer and the two that make the same of full rank are the same function. So the model with all such
layers written as two goes through the stages like any other: the coordinates between are a group of
channels, whose removal path, sensitivity and width are found as those of others are. At its full
width such a group stands for the layer as it was, and costs what that costs; a model that is made
has two layers only where fewer coordinates stay.

References
----------
Y. Xu et al., "TRP: Trained Rank Pruning for Efficient Deep Neural Networks", IJCAI 2020.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnx_reap.analysis import Analysis, analyse, exclusion, model_inputs
from onnx_reap.capture.moments import Tap, capture_moments
from onnx_reap.capture.rows import weight_to_matrix
from onnx_reap.choice import Choice
from onnx_reap.equivalence import check_unchanged
from onnx_reap.errors import ReapError
from onnx_reap.factorise import basis
from onnx_reap.factorise.factor import (
    CHANNEL,
    SPATIAL,
    Factor,
    as_channels,
    as_slices,
    costs_of_rank,
    factorable,
    insert,
    may_split,
)
from onnx_reap.graph.cost import saved_whole
from onnx_reap.graph.records import Linear
from onnx_reap.graph.tails import find_tail
from onnx_reap.plan.allocate import allowed_widths
from onnx_reap.planning import make_plan, removed_by, widths_left
from onnx_reap.rank_times import faster_ranks
from onnx_reap.samples import Samples
from onnx_reap.select.paths import WIDEST
from onnx_reap.settings import Settings
from onnx_reap.solve.backend import Backend, to_host
from onnx_reap.solve.moments import Moments
from onnx_reap.work import Factored, Work

MIDDLE = 0.5  # of a layer's multiply-accumulates: where schemes are compared


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
    factors = _factors(work)
    changed, groups = _with_two(analysis, factors, work)
    ranks = _timed(analysis, changed, groups, work)
    slow = [factor.node for factor in factors if len(ranks[factor.node]) == 0]
    notes = ()
    if slow:
        notes = (
            f"{len(slow)} of {len(factors)} layers that could be two stay one: timed on this "
            "machine, two would be no faster",
        )
        factors = [factor for factor in factors if factor.node not in slow]
        changed, groups = _with_two(analysis, factors, work)
    if not factors:
        problem = ReapError(
            "--low-rank: no layer gains by being written as two",
            got=notes[0] if notes else "no convolution or dense layer in float32 of enough channels",
            hint="remove channels alone, or loosen --exclude, --include or --round-to",
        )
        if work.settings.low_rank == "only":
            raise problem
        return replace(work, factored=Factored(analysis, {}, (*notes, str(problem))[:1]))
    _check_same(work, changed)
    changed = _priced(changed, groups, ranks)
    by_group = {changed.groups[index].name: factor for index, factor in groups.items()}
    return replace(work, analysis=changed, factored=Factored(analysis, by_group, notes))


def settled(work: Work, choice: Choice) -> tuple[Work, Choice]:
    """Return the work on the model in which just those layers are two that lose coordinates."""
    if work.factored is None:
        return work, choice
    widths = _widths(work, choice)
    two = [f for name, f in work.factored.factors.items() if 0 < widths[name] < f.rank]
    changed, _ = _with_two(work.factored.original, two, work)
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
    )


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


def _check_same(work: Work, changed: Analysis) -> None:
    size = work.analysis.fixed_batch or 2
    feed = next(iter(work.samples.every.batches(size, pad=True)))
    check_unchanged(work.analysis.proto, changed.proto, [feed], changed.providers, half=False)


# Ranks.


def _ranks(analysis: Analysis, linear: Linear, scheme: str, settings: Settings) -> np.ndarray:
    """List the ranks at which two layers take fewer multiply-accumulates than one."""
    shapes = analysis.probe.shapes
    inputs, outputs = shapes[linear.x][linear.x_axis], shapes[linear.y][linear.y_axis]
    full = min(inputs * linear.taps, outputs)
    if scheme == SPATIAL:
        full = min(inputs * linear.kernel[0], outputs * linear.kernel[1])
    widths = allowed_widths(
        full, step=1, round_to=settings.round_to, min_channels=settings.min_channels
    )[:-1]
    whole, each = costs_of_rank(linear, scheme, shapes[linear.x], shapes[linear.y])
    return widths[widths * each < whole]


def _timed(
    original: Analysis, changed: Analysis, groups: Mapping[int, Factor], work: Work
) -> dict[str, np.ndarray]:
    """Return the ranks of every layer that are clearly faster; none of layers without a group."""
    linears = {linear.node: linear for linear in changed.flow.linears}
    ranks = {f.node: _ranks(original, f.linear, f.scheme, work.settings) for f in groups.values()}
    layers = [
        (f.linear, linears[changed.groups[index].name], linears[f.node], ranks[f.node])
        for index, f in groups.items()
    ]
    with work.clock("time ranks"):
        faster = faster_ranks(original, changed, layers, work.progress)
    return {f.node: r for f, r in zip(groups.values(), faster, strict=True)}


# Bases.


def _factors(work: Work) -> list[Factor]:
    """Find a basis for every layer that may be written as two."""
    analysis, settings = work.analysis, work.settings
    why_not = exclusion(settings)
    schemes = {
        linear.node: found
        for linear in analysis.flow.linears
        if factorable(analysis.model, linear, why_not)
        and (found := _schemes(analysis, linear, settings))
    }
    linears = [linear for linear in analysis.flow.linears if linear.node in schemes]
    taps = [_tap(analysis, linear, SPATIAL in schemes[linear.node]) for linear in linears]
    samples = work.samples.fit or work.samples.every
    with work.clock("factorise"), work.progress.stage("Finding bases", len(samples)) as step:
        moments = capture_moments(
            analysis.model.to_run(),
            taps,
            samples,
            analysis.probe,
            samples=len(samples),
            positions=settings.positions,
            seed=settings.seed,
            fixed_batch=analysis.fixed_batch,
            providers=analysis.providers,
            to_device=work.backend.to_device,
            on_batch=step,
        )
        return [
            _factor(analysis, each, schemes[each.node], moments.pop(each.node), work.backend)
            for each in linears
        ]


def _schemes(analysis: Analysis, linear: Linear, settings: Settings) -> dict[str, int]:
    """List the schemes that can gain, with the rank at which each is judged."""
    found, shapes = {}, analysis.probe.shapes
    for scheme in (CHANNEL, SPATIAL):
        if scheme == SPATIAL and not (may_split(linear) and _columns(analysis, linear) <= WIDEST):
            continue
        if len(_ranks(analysis, linear, scheme, settings)):
            whole, each = costs_of_rank(linear, scheme, shapes[linear.x], shapes[linear.y])
            found[scheme] = max(int(MIDDLE * whole / each), 1)
    return found


def _columns(analysis: Analysis, linear: Linear) -> int:
    return analysis.probe.shapes[linear.x][linear.x_axis] * linear.taps


def _tap(analysis: Analysis, linear: Linear, patches: bool) -> Tap:
    """Observe the patches that a layer reads, or just what it makes of them."""
    if patches:
        return Tap(linear, _columns(analysis, linear))
    one = (1,) * len(linear.kernel)
    outputs = replace(
        linear, x=linear.y, x_axis=linear.y_axis, kernel=one, strides=one, dilations=one,
        pads=(0,) * (2 * len(one)),
    )  # fmt: skip
    return Tap(outputs, analysis.probe.shapes[linear.y][linear.y_axis])


def _factor(
    analysis: Analysis,
    linear: Linear,
    schemes: Mapping[str, int],
    moments: Moments,
    backend: Backend,
) -> Factor:
    """Write a layer as two by the scheme that loses less at the rank where it is judged."""
    stored = analysis.model.node(linear.node).inputs[1].values
    weight = backend.to_device(weight_to_matrix(linear, stored)[0])
    outputs = int(weight.shape[1])
    scale = backend.to_device(find_tail(analysis.model, linear, outputs).scale)
    gram, errors, products = moments.gram[0, ...], {}, {}
    if CHANNEL in schemes:
        moment = basis.output_moment(gram, weight) if SPATIAL in schemes else gram
        product = products[CHANNEL] = basis.factor(weight, moment, scale)
        errors[CHANNEL] = float(product.explained[schemes[CHANNEL] :].sum())
    if SPATIAL in schemes:
        across = linear.kernel[1]
        channels = int(weight.shape[0]) // linear.taps
        product = basis.factor_slices(weight, gram, scale, channels, linear.kernel)
        products[SPATIAL] = product
        errors[SPATIAL] = basis.slices_error(
            product, schemes[SPATIAL], weight, gram, scale, across
        )
    best = min(errors, key=lambda scheme: errors[scheme])
    made = products[best]
    host = replace(made, first=to_host(made.first), second=to_host(made.second))
    return (as_channels if best == CHANNEL else as_slices)(linear, host, stored)
