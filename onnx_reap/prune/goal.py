"""What the user asked to remove, in terms of the model's groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx

from onnx_reap.errors import ReapError, TargetError, UsageError
from onnx_reap.graph.analysis import Analysis
from onnx_reap.graph.ir.model import is_floating
from onnx_reap.measure.latency.estimate import NANOSECONDS, predicted_latency
from onnx_reap.measure.latency.table import LatencyTable
from onnx_reap.onnxio import aside
from onnx_reap.options import Settings
from onnx_reap.prune.globs import check_globs
from onnx_reap.prune.ratios import check_ratios, read_ratios
from onnx_reap.prune.refit.layerwise import has_bias
from onnx_reap.prune.refit.order import affected_tensors
from onnx_reap.solve.allocation import (
    LATENCY,
    Budget,
    allowed_widths,
    check_reachable,
    fits,
)
from onnx_reap.solve.cost import Cost, Extent, Term
from onnx_reap.solve.gates import fewest

RESERVE = 4096  # bytes of a file for what a run adds: names of biases, metadata


@dataclass(frozen=True)
class Goal:
    """What to reach: a ratio for every group, or budgets for the whole model.

    Attributes
    ----------
    widths : tuple of int arrays
        For every group the widths that it may take, ascending, its own last; 0 first where it may
        vanish.
    ratios : tuple of float, optional
        Fraction to remove from every group.
    budgets : tuple of Budget
    latency : (float, str), optional
        Time of a run at most, in `ms` or as a factor `x` of the original's, found by timing.
    max_drop : float, optional
        Loss at most; the smallest model within it is wanted.
    """

    widths: tuple[np.ndarray, ...]
    ratios: tuple[float, ...] | None
    budgets: tuple[Budget, ...]
    latency: tuple[float, str] | None = None
    max_drop: float | None = None


def read_goal(analysis: Analysis, settings: Settings, original: onnx.ModelProto) -> Goal:
    """Work out the goal, and refuse what can't be reached before anything is run.

    Parameters
    ----------
    original : onnx.ModelProto
        What fractions of a file's size are of.

    Raises
    ------
    ReapError
        If no channel may be removed, or a glob matches nothing.
    TargetError
        If a budget is out of reach, or no width is allowed but the present ones.
    """
    if not analysis.coordinates:  # else names were checked where the nodes were those of the file
        check_globs(analysis, settings)
    if not analysis.groups:
        raise nothing_to_prune(analysis)
    ratios = read_ratios(analysis.groups, settings)
    widths = allowed(analysis, settings, vanishing=ratios is None)
    if all(len(choices) == 1 for choices in widths):
        raise _no_width(analysis, settings)
    if ratios is not None:
        check_ratios(widths, ratios)
        return Goal(widths, ratios, ())
    budgets = _budgets(analysis, settings, original)
    check_reachable(widths, budgets)
    timed = None if settings.latency_table is not None else settings.target_latency
    return Goal(widths, None, budgets, timed, settings.max_drop)


def allowed(analysis: Analysis, settings: Settings, *, vanishing: bool) -> tuple[np.ndarray, ...]:
    """List the widths of every group; none vanishes where all are narrowed alike.

    Parameters
    ----------
    vanishing : bool
        Whether groups may vanish that can, if the settings agree.
    """
    vanishing &= settings.vanish and settings.allocation != "uniform" and settings.estimates

    def widths(index: int) -> np.ndarray:
        group = analysis.groups[index]
        if index in analysis.ranks:
            return analysis.ranks[index]
        if settings.low_rank == "only" and index not in analysis.coordinates:
            return np.array([group.width])
        return allowed_widths(
            group.width,
            step=group.step,
            round_to=settings.round_to,
            min_channels=settings.min_channels,
            may_vanish=vanishing and index in analysis.branches.vanishing,
        )

    return tuple(map(widths, range(len(analysis.groups))))


def _budgets(
    analysis: Analysis, settings: Settings, original: onnx.ModelProto
) -> tuple[Budget, ...]:
    full = np.array([group.width for group in analysis.groups])
    wishes = {
        "--target-macs": settings.target_macs,
        "--target-params": settings.target_params,
        "--target-size": settings.target_size,
    }
    timed = _latency_budgets(analysis, settings)
    budgets = [*timed]
    for name, wish in wishes.items():
        if wish is None:
            continue
        if 1 < wish <= 100:
            raise UsageError(
                f"{name}: neither a fraction nor a number of that size",
                got=f"{wish:g}",
                expected="at most 1 for a fraction of the original, or a number such as 1.2G",
                hint=f"{wish / 100:g}",
            )
        cost = _cost(name, analysis, original, analysis.params)
        whole = aside.size_of(original) if name == "--target-size" else cost.at(full)
        limit = wish * whole if wish <= 1 else wish  # 1 or less is a fraction
        if name == "--target-size" and limit >= whole:
            continue  # what a run adds to a file that loses nothing is no reason to cut it
        budgets.append(Budget(name, cost, int(limit)))
    if not settings.refit or fits(full, budgets):  # nothing is fitted where nothing goes
        return tuple(budgets)
    params = analysis.params + added_biases(analysis)
    return tuple(
        replace(b, cost=_cost(b.name, analysis, original, params)) if b.name in wishes else b
        for b in budgets
    )


def _cost(name: str, analysis: Analysis, original: onnx.ModelProto, params: Cost) -> Cost:
    """Return what a target bounds."""
    if name == "--target-size":
        return _file_size(analysis, original, params)
    return analysis.macs if name == "--target-macs" else params


def _file_size(analysis: Analysis, original: onnx.ModelProto, params: Cost) -> Cost:
    """Return the bytes of the file, all but the parameters as in the original, or its new form."""
    held = analysis.model.constants().values()
    weights = sum(constant.values.nbytes for constant in held)
    each = weights / max(sum(np.prod(c.shape) for c in held if is_floating(c)), 1)
    whole = analysis.params.at(np.array([group.width for group in analysis.groups])) * each
    others = max(aside.size_of(analysis.proto) - weights, aside.size_of(original) - whole)
    return params * each + Cost([Term(others + RESERVE, ())], len(analysis.groups))


def _latency_budgets(analysis: Analysis, settings: Settings) -> list[Budget]:
    """Return the budget on latency, if a table tells latencies; else cut models are timed."""
    if settings.target_latency is None or settings.latency_table is None:
        return []
    table = settings.latency_table
    table = table if isinstance(table, LatencyTable) else LatencyTable.load(table)
    _check_rounding(table, settings)
    cost = predicted_latency(analysis, table)
    full = cost.at(np.array([group.width for group in analysis.groups]))
    value, unit = settings.target_latency
    return [Budget(LATENCY, cost, int(value * (full if unit == "x" else NANOSECONDS)))]


def _check_rounding(table: LatencyTable, settings: Settings) -> None:
    """Refuse widths that lie between measured ones and can be slower than these."""
    asked, measured = settings.round_to, table.round_to
    known = asked == measured or (asked is not None and asked % (measured or 8) == 0)
    if not known:
        raise ReapError(
            "--round-to: the latency table holds other widths",
            got=str(asked or "auto"),
            expected=f"{measured}, or a multiple of it" if measured else "auto, or a multiple of 8",
            hint="measure again with onnx-reap profile --round-to, or use the table's",
        )


def check_met(
    budgets: Sequence[Budget],
    *,
    macs: int,
    params: int,
    size: int,
    widths: npt.NDArray[np.int64],
) -> None:
    """Refuse a result that costs more than was asked for.

    Parameters
    ----------
    macs, params, size : int
        Counted on the result; size in bytes.
    widths : (groups,) int array
        Units that stay; latency is looked up by these.

    Raises
    ------
    TargetError
    """
    for budget in budgets:
        costs = {"--target-macs": macs, "--target-params": params, "--target-size": size}
        cost = costs[budget.name] if budget.name in costs else budget.cost.at(widths)
        if cost > budget.limit:
            raise TargetError(
                f"{budget.name}: not met by the result",
                got=budget.text(cost),
                expected=f"at most {budget.text(budget.limit)}",
                hint="a lower target, or --no-refit, which adds nothing",
            )


def added_biases(analysis: Analysis) -> Cost:
    """Count the parameters that a refit adds: biases of layers behind a cut that have none."""
    flow, groups = analysis.flow, analysis.groups
    of_unit = {unit: g for g, group in enumerate(groups) for unit in group.units}
    behind = affected_tensors(analysis.model, set(flow.axes))
    bases = {groups[index].name: index for index in analysis.ranks}  # not there at full width
    shut = np.array([g.width if i in analysis.ranks else 0 for i, g in enumerate(groups)])
    terms = []
    for linear in flow.linears:
        stream = analysis.unbiased.get(linear.node)
        if linear.x in behind and (stream is not None or not has_bias(analysis.model, linear)):
            units = flow.units_along(linear.y, linear.y_axis)
            owners = Counter(of_unit.get(int(unit), -1) for unit in units)
            fixed = owners.pop(-1, 0)
            per_unit = {g: n / groups[g].width for g, n in owners.items()}
            ways = analysis.branches.of(linear.node)
            if linear.node in bases:
                ways = fewest(way | {bases[linear.node]} for way in ways)
            halves = 2.0 if linear.recurrent else 1.0  # a bias of the state's products comes along
            terms.append(Term(halves, (Extent(fixed, per_unit),), ways))
            if stream is not None:  # it has one in another basis
                shut[stream] = groups[stream].width
                other = fewest(way | {stream} for way in ways)
                terms.append(Term(-halves, (Extent(fixed, per_unit),), other))
    return Cost(terms, len(groups), shut)


def _no_width(analysis: Analysis, settings: Settings) -> TargetError:
    widest = max(analysis.groups, key=lambda group: group.width)
    rounding = settings.round_to or "auto"
    return TargetError(
        "no group may become narrower",
        got=f"--min-channels {settings.min_channels}, --round-to {rounding}",
        expected=f"less than the {widest.width} channels of the widest group, {widest.name}",
        hint="lower --min-channels or --round-to",
    )


def nothing_to_prune(analysis: Analysis) -> ReapError:
    """Tell why a model has no groups, as an error to raise."""
    reasons = [f"{f.node} ({f.reason} at {f.cause})" for f in analysis.frozen[:3]]
    quantised = [n.op for n in analysis.model.nodes if "Quantize" in n.op or "QLinear" in n.op]
    if quantised:
        return ReapError(
            "the model is quantised, and quantised weights can't be pruned",
            got=f"{len(quantised)} nodes such as {quantised[0]}",
            expected="a floating-point model",
            hint="prune the model that this one was made from, and quantise the result",
        )
    return ReapError(
        "the model has no channel that may be removed",
        got="; ".join(reasons) or "no layer with a constant weight",
        expected="convolutions or dense layers whose outputs other layers read",
        hint="loosen --exclude or --include if you set them",
    )
