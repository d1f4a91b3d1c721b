"""Budgets on a model's costs: what the user asked for, in whole units of each cost.

A kind of budget is one row of `COSTS` beside its setting, and the figure that `check_met` is given.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from onnx_reap.errors import ReapError, TargetError, UsageError
from onnx_reap.graph.analysis import Analysis, count_parameters
from onnx_reap.graph.ir.order import affected_tensors
from onnx_reap.graph.ir.reading import is_floating
from onnx_reap.graph.labels.records import Linear
from onnx_reap.measure.latency.estimate import NANOSECONDS, predicted_latency
from onnx_reap.measure.latency.table import LatencyTable
from onnx_reap.options import Settings
from onnx_reap.prune.form import Form
from onnx_reap.prune.refit.layerwise import has_bias
from onnx_reap.solve.allocation import LATENCY, Budget, fits
from onnx_reap.solve.cost import Cost, Extent, Term, Widths
from onnx_reap.solve.gates import Paths

MACS, PARAMS, SIZE = "--target-macs", "--target-params", "--target-size"
RESERVE = 4096  # bytes of a file for what a run adds: names of biases, metadata

Present = Callable[[Linear], Iterable[tuple[float, Paths]]]
"""The biases that a refit adds to a layer: how many, and the paths on which they are present."""


def read_budgets(form: Form, settings: Settings) -> tuple[Budget, ...]:
    """Work out what the model may cost; targets that any model meets are left out."""
    analysis = form.analysis
    full = analysis.full_widths
    budgets = _latency_budgets(analysis, settings)
    for name, cost_of in COSTS.items():
        wish = getattr(settings, name.strip("-").replace("-", "_"))
        if wish is None:
            continue
        _check_unit(name, wish)
        cost = cost_of(form, analysis.params)
        whole = _as_given(form, name, cost)
        limit = wish * whole if wish <= 1 else wish  # 1 or less is a fraction
        if name == SIZE and limit >= whole:
            continue  # what a run adds to a file that loses nothing is no reason to cut it
        budgets.append(Budget(name, cost, int(limit)))
    if not settings.refit or fits(full, budgets):  # nothing is fitted where nothing goes
        return tuple(budgets)
    params = analysis.params + (form.added_biases or added_biases(analysis))
    return tuple(
        replace(b, cost=COSTS[b.name](form, params)) if b.name in COSTS else b for b in budgets
    )


def _as_given(form: Form, name: str, cost: Cost) -> int:
    """Return what a fraction is one of: the cost of the model as its file has it."""
    light = form.original.light
    if name == SIZE:
        return light.size
    return count_parameters(light) if name == PARAMS else cost.at(form.analysis.full_widths)


def _check_unit(name: str, wish: float) -> None:
    if 1 < wish <= 100:
        raise UsageError(
            f"{name}: neither a fraction nor a number of that size",
            got=f"{wish:g}",
            expected="at most 1 for a fraction of the original, or a number such as 1.2G",
            hint=f"{wish / 100:g}",
        )


def _file_size(form: Form, params: Cost) -> Cost:
    """Return the bytes of the file, all but the parameters as in the original, or its new form."""
    analysis, original = form.analysis, form.original.light
    held = analysis.model.constants().values()
    weights = sum(constant.values.nbytes for constant in held)
    each = float(weights / max(sum(np.prod(c.shape) for c in held if is_floating(c)), 1))
    whole = analysis.params.at(analysis.full_widths) * each
    others = max(analysis.light.size - weights, original.size - whole)
    return params * each + Cost([Term(others + RESERVE, ())], len(analysis.groups))


COSTS: Mapping[str, Callable[[Form, Cost], Cost]] = {
    MACS: lambda form, params: form.analysis.macs,
    PARAMS: lambda form, params: params,
    SIZE: _file_size,
}
"""By flag, what it bounds, as a function of the form that is pruned and of its parameters."""


def _latency_budgets(analysis: Analysis, settings: Settings) -> list[Budget]:
    """Return the budget on latency, if a table tells latencies; else cut models are timed."""
    if settings.target_latency is None or settings.latency_table is None:
        return []
    table = settings.latency_table
    table = table if isinstance(table, LatencyTable) else LatencyTable.load(table)
    _check_rounding(table, settings)
    cost = predicted_latency(analysis, table)
    full = cost.at(analysis.full_widths)
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


def added_biases(
    analysis: Analysis, present: Present | None = None, closed_at: Widths | None = None
) -> Cost:
    """Count the parameters that a refit adds: biases of layers behind a cut that have none.

    Parameters
    ----------
    present : callable, optional
        Tells which biases are added to a layer; by default one to each output if it has none.
    closed_at : (groups,) int array, optional
        Widths at which groups close the paths of biases, see `Cost`.
    """
    flow, groups = analysis.flow, analysis.groups
    of_unit = {unit: g for g, group in enumerate(groups) for unit in group.units}
    behind = affected_tensors(analysis.model.nodes, set(flow.axes))
    terms = []
    for linear in flow.linears:
        # A recurrent layer is refitted where its own state is cut, too.
        if linear.x not in behind and not (linear.recurrent and linear.y in flow.axes):
            continue
        units = flow.units_along(linear.y, linear.y_axis)
        owners = Counter(of_unit.get(int(unit), -1) for unit in units)
        fixed = owners.pop(-1, 0)
        extent = Extent(fixed, {g: n / groups[g].width for g, n in owners.items()})
        halves = 2.0 if linear.recurrent else 1.0  # a bias of the state's products comes along
        added = _if_missing(analysis, linear) if present is None else present(linear)
        terms += [Term(count * halves, (extent,), paths) for count, paths in added]
    return Cost(terms, len(groups), closed_at)


def _if_missing(analysis: Analysis, linear: Linear) -> list[tuple[float, Paths]]:
    missing = not has_bias(analysis.model, linear)
    return [(1.0, analysis.branches.of(linear.node))] if missing else []


def check_met(
    budgets: Sequence[Budget], figures: Mapping[str, int], widths: npt.NDArray[np.int64]
) -> None:
    """Refuse a result that costs more than was asked for.

    Parameters
    ----------
    figures : mapping of str to int
        By flag, the cost as counted on the result.
    widths : (groups,) int array
        Units that stay; other costs are looked up by these.

    Raises
    ------
    TargetError
    """
    for budget in budgets:
        cost = figures[budget.name] if budget.name in figures else budget.cost.at(widths)
        if cost > budget.limit:
            raise TargetError(
                f"{budget.name}: not met by the result",
                got=budget.text(cost),
                expected=f"at most {budget.text(budget.limit)}",
                hint="a lower target, or --no-refit, which adds nothing",
            )
