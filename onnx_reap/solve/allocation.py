"""Widths for a budget: equal ratios, or one threshold on error per cost for all groups."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import reduce
from math import ceil, gcd, lcm

import numpy as np
import numpy.typing as npt

from onnx_reap.errors import TargetError
from onnx_reap.solve.cost import Costs, Widths

LATENCY = "--target-latency"
"""Name of the budget whose cost is in nanoseconds."""

EASIER = "raise the target, lower --min-channels or --round-to, or exclude less"
"""What to try where a target is out of reach."""


@dataclass(frozen=True)
class Choices:
    """Widths that a group may take, and what each costs in quality."""

    widths: npt.NDArray[np.int64]  # (k,) int: ascending; the last is the full width
    # (k,) float: error at each width, non-increasing; the last is 0
    errors: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Budget:
    """An upper bound on a cost."""

    name: str  # What the user called it, for messages
    cost: Costs
    limit: int  # Most that the result may cost

    def text(self, cost: int) -> str:
        """Write a cost for people; latencies, which are counted in nanoseconds, in milliseconds."""
        return f"{cost / 1e6:,.4g} ms" if self.name == LATENCY else f"{cost:,}"


def allowed_widths(
    width: int,
    *,
    step: int,
    round_to: int | None,
    min_channels: int,
    spans: Collection[int] = (1,),
    may_vanish: bool = False,
) -> npt.NDArray[np.int64]:
    """List the widths that a group may be cut to, ascending, its own width last.

    Parameters
    ----------
    width : int
        Units now.
    step : int
        Fewest units that can go at once.
    round_to : int or None
        Channels of every layer are multiples of this, so that a group with no smaller width stays
        whole; None picks 8 for 32 channels and more, 4 from 16 on, else 1.
    min_channels : int
        Fewest channels of a layer, but for 0.
    spans : collection of int
        How many channels one unit stands for, in the layers that make or read it.
    may_vanish : bool
        Whether the group may go wholly.
    """
    channels = width * min(spans)
    divisor = round_to or (8 if channels >= 32 else 4 if channels >= 16 else 1)
    multiple = lcm(step, *(divisor // gcd(divisor, span) for span in spans))
    if round_to is None and multiple >= width:
        multiple = step
    smaller = np.arange(multiple, width, multiple)
    smaller = smaller[smaller >= max(ceil(min_channels / min(spans)), step)]
    return np.concatenate([[0] if may_vanish else [], smaller, [width]]).astype(np.int64)


def nearest(choices: Choices, wanted: float) -> int:
    """Return the index of the width nearest to `wanted`, the smaller one of two."""
    return int(np.argmin(np.abs(choices.widths - wanted)))


def uniform(choices: Sequence[Choices], ratios: Sequence[float]) -> Widths:
    """Remove the given fraction of every group's units, as near as its widths allow."""
    return np.array(
        [
            c.widths[nearest(c, (1 - ratio) * c.widths[-1])]
            for c, ratio in zip(choices, ratios, strict=True)
        ],
        np.int64,
    )


def uniform_within(choices: Sequence[Choices], budgets: Sequence[Budget]) -> Widths:
    """Find the smallest equal ratio that meets the budgets."""
    check_reachable([c.widths for c in choices], budgets, least=narrowest)
    ratios = np.unique([1 - w / c.widths[-1] for c in choices for w in c.widths])
    low, high = 0, len(ratios) - 1
    while low < high:
        middle = (low + high) // 2
        enough = fits(uniform(choices, [ratios[middle]] * len(choices)), budgets)
        low, high = (low, middle) if enough else (middle + 1, high)
    return widen(uniform(choices, [ratios[low]] * len(choices)), choices, budgets)


def global_threshold(choices: Sequence[Choices], budgets: Sequence[Budget]) -> Widths:
    """Minimise the sum of errors under the budgets.

    For a price t every group takes the width of least `error + t * cost`, with its cost per unit
    that of the model as narrowed so far, until nothing changes; the lowest price that meets the
    budgets is found by bisection, and what is left of the budget is then spent where it buys most.
    """
    options = [c.widths for c in choices]
    check_reachable(options, budgets)
    full = np.array([c.widths[-1] for c in choices], np.int64)
    if fits(full, budgets):
        return full
    low, high = -30.0, 30.0
    best = cheapest(options, budgets)
    for _ in range(50):
        price = (low + high) / 2
        widths = _at_price(np.exp(price), choices, budgets)
        if fits(widths, budgets):
            best, high = widths, price
        else:
            low = price
    return widen(best, choices, budgets)


def _at_price(price: float, choices: Sequence[Choices], budgets: Sequence[Budget]) -> Widths:
    full = np.array([c.widths[-1] for c in choices], np.int64)
    widths = full
    for _ in range(20):
        slopes = sum(b.cost.per_unit(widths) / b.cost.at(full) for b in budgets)
        new = np.array(
            [
                c.widths[int(np.argmin(c.errors + price * slope * c.widths))]
                for c, slope in zip(choices, np.asarray(slopes), strict=True)
            ],
            np.int64,
        )
        if np.array_equal(new, widths):
            break
        widths = new
    return widths


def widen(widths: Widths, choices: Sequence[Choices], budgets: Sequence[Budget]) -> Widths:
    """Spend what is left of the budgets on the steps that save most error per cost.

    Parameters
    ----------
    choices : sequence of Choices
        By group.

    Returns
    -------
    (groups,) int array
        Of these no group could be one step wider.
    """
    options, errors = tabulate(choices)
    groups = np.arange(len(choices))
    places = np.argmax(options == widths[:, None], axis=1)
    while True:
        widths = options[groups, places]
        after = np.minimum(places + 1, options.shape[1] - 1)
        wider = options[groups, after][:, None]
        possible = (wider[:, 0] > widths) & each_fits(widths, wider, budgets)[:, 0]
        if not possible.any():
            return widths
        more = sum(
            (b.cost.alone(widths, wider)[:, 0] - b.cost.at(widths)) / max(b.limit, 1)
            for b in budgets
        )
        saved = errors[groups, places] - errors[groups, after] + 1e-30  # room left is used anyway
        gains = np.where(possible, saved / np.maximum(more, 1e-12), -np.inf)
        best = int(np.argmax(gains))
        places[best] += 1


def tabulate(
    choices: Sequence[Choices],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return widths and errors as arrays, (groups, most widths); full widths fill up the rows."""
    most = max(len(c.widths) for c in choices)
    options = [np.pad(c.widths, (0, most - len(c.widths)), "edge") for c in choices]
    errors = [np.pad(c.errors, (0, most - len(c.errors)), "edge") for c in choices]
    return np.array(options, np.int64), np.array(errors, np.float64)


def each_fits(
    widths: Widths, options: npt.NDArray[np.int64], budgets: Sequence[Budget]
) -> npt.NDArray[np.bool_]:
    """Whether the budgets are met if one group alone changed, for each of its options.

    Parameters
    ----------
    options : (groups, k) int array
    """
    # A cost is a whole number, rounded; a bit less than the half keeps float noise from tipping it.
    each = (b.cost.alone(widths, options) <= b.limit + 0.49 for b in budgets)
    return reduce(np.logical_and, each, np.ones(options.shape, bool))


def fits(widths: Widths, budgets: Sequence[Budget]) -> bool:
    """Whether widths, shape (groups,), meet all budgets."""
    return all(budget.cost.at(widths) <= budget.limit for budget in budgets)


def narrowest(choices_widths: Sequence[Widths], budgets: Sequence[Budget]) -> Widths:
    """Return the first of every group's widths."""
    return np.array([w[0] for w in choices_widths], np.int64)


def cheapest(choices_widths: Sequence[Widths], budgets: Sequence[Budget]) -> Widths:
    """Return the narrowest widths if they meet the budgets, else in their place what costs less.

    Between narrow neighbours a layer may cost less whole than as two factors of the lowest rank.
    Each rank changes the cost of its own layer alone, so groups are decided independently.

    Parameters
    ----------
    choices_widths : sequence of (k,) int array
        By group, ascending.
    budgets : sequence of Budget
        Relative to these costs are weighed up.
    """
    options, _ = tabulate([Choices(w, np.zeros(len(w))) for w in choices_widths])
    if fits(options[:, 0], budgets):
        return options[:, 0]
    costs = np.zeros(options.shape)
    for budget in budgets:
        costs += budget.cost.alone(options[:, 0], options) / max(budget.limit, 1)
    result: Widths = options[np.arange(len(options)), np.argmin(costs, axis=1)]
    return result


def check_reachable(
    choices_widths: Sequence[Widths],
    budgets: Sequence[Budget],
    *,
    least: Callable[[Sequence[Widths], Sequence[Budget]], Widths] = cheapest,
) -> None:
    """Refuse budgets that can't be met, before any work is done.

    Parameters
    ----------
    choices_widths : sequence of (k,) int array
        By group, ascending.
    least : callable
        Finds the widths that cost least.

    Raises
    ------
    TargetError
    """
    widths = least(choices_widths, budgets)
    for budget in budgets:
        if (cost := budget.cost.at(widths)) > budget.limit:
            full = budget.cost.at(np.array([w[-1] for w in choices_widths], np.int64))
            raise TargetError(
                f"{budget.name}: can't be reached",
                got=budget.text(budget.limit),
                expected=f"at least {budget.text(cost)} ({cost / max(full, 1):.0%} of "
                f"{budget.text(full)})",
                hint=EASIER,
            )
