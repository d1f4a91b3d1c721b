"""What the user asked to remove, in terms of the model's groups."""

import fnmatch
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnx_reap.errors import ReapError, TargetError
from onnx_reap.graph.analysis import Analysis
from onnx_reap.graph.groups import Group
from onnx_reap.graph.mac_formulas import formula_of
from onnx_reap.options import Settings
from onnx_reap.prune.budgets import read_budgets
from onnx_reap.prune.context import Run
from onnx_reap.prune.form import Form
from onnx_reap.solve.allocation import Budget, Choices, allowed_widths, check_reachable, uniform


@dataclass(frozen=True)
class Goal:
    """What to reach: a ratio for every group, or budgets for the whole model."""

    # For every group the widths that it may take, ascending, its own last; 0 first where it may
    # vanish
    widths: tuple[np.ndarray, ...]
    ratios: tuple[float, ...] | None  # Fraction to remove from every group
    budgets: tuple[Budget, ...]
    # Time of a run at most, in `ms` or as a factor `x` of the original's, found by timing
    latency: tuple[float, str] | None = None
    max_drop: float | None = None  # Loss at most; the smallest model within it is wanted


def read_goal(run: Run) -> Goal:
    """Work out the goal, and refuse what can't be reached before anything is run.

    Raises
    ------
    ReapError
        If no channel may be removed, or a glob matches nothing.
    TargetError
        If a budget is out of reach, or no width is allowed but the present ones.
    """
    form, settings = run.form, run.settings
    with run.clock("analyse"):
        check_globs(form.original, settings)
        groups = form.analysis.groups
        if not groups:
            raise nothing_to_prune(form.analysis, settings.chosen(), "onnx-reap inspect")
        ratios = read_ratios(groups, settings)
        widths = allowed(form, settings, vanishing=ratios is None)
        if all(len(choices) == 1 for choices in widths):
            raise _no_width(groups, settings)
        if ratios is not None:
            check_ratios(widths, ratios)
            return Goal(widths, ratios, ())
        budgets = read_budgets(form, settings)
        check_reachable(widths, budgets)
    timed = None if settings.latency_table is not None else settings.target_latency
    return Goal(widths, None, budgets, timed, settings.max_drop)


def allowed(form: Form, settings: Settings, *, vanishing: bool) -> tuple[np.ndarray, ...]:
    """List the widths of every group; none vanishes where all are narrowed alike.

    Parameters
    ----------
    vanishing : bool
        Whether groups may vanish that can, if the settings agree.
    """
    # Without activations nothing can tell what a branch is worth.
    vanishing &= settings.vanish and settings.allocation != "uniform" and settings.estimates
    return tuple(
        form.widths[index]
        if index in form.widths
        else allowed_widths(
            group.width,
            step=group.step,
            round_to=settings.round_to,
            min_channels=settings.min_channels,
            spans=group.spans,
            may_vanish=vanishing and index in form.analysis.branches.vanishing,
        )
        for index, group in enumerate(form.analysis.groups)
    )


def _no_width(groups: Sequence[Group], settings: Settings) -> TargetError:
    widest = max(groups, key=lambda group: group.channels)
    rounding = settings.round_to or "auto"
    return TargetError(
        "no group has an allowed width below its present one",
        got=f"--min-channels {settings.min_channels}, --round-to {rounding}",
        expected=f"less than the {widest.channels} channels of the widest group, {widest.name}",
        hint="lower --min-channels or --round-to",
    )


def nothing_to_prune(
    analysis: Analysis, given: Collection[str], otherwise: str | None = None
) -> ReapError:
    """Tell why a model has no groups, as an error to raise.

    What to try is another glob, if any are among the settings that are `given`, or `otherwise`.
    """
    reasons = [f"{f.node} ({f.reason} at {f.cause})" for f in analysis.frozen]
    reasons = (reasons or _other_products(analysis))[:3]
    globs = [f"--{name}" for name in ("exclude", "include") if name in given]
    integer = [n.op for n in analysis.model.nodes if _is_on_integers(n.op)]
    if integer:
        return ReapError(
            "the model is quantised in a form that can't be pruned",
            got=f"{len(integer)} nodes such as {integer[0]}",
            expected="weights behind DequantizeLinear, QLinearConv, QGemm or QLinearMatMul with "
            "constant scales, or in floating point",
            hint="prune the model that this one was made from, and quantise the result",
        )
    return ReapError(
        "the model has no channel that may be removed",
        got="; ".join(reasons) or "no layer with a constant weight",
        expected="convolutions or dense layers whose outputs other layers read",
        hint=f"loosen {' and '.join(globs)}" if globs else otherwise,
    )


def _other_products(analysis: Analysis) -> list[str]:
    """Name products with a constant that is in no form that can be pruned."""
    constants, keys = analysis.model.constants(), analysis.model.keys
    return [
        f"{keys[id(node)]} ({node.op} with a constant {constants[tensor.name].shape} as its "
        f"{place} operand, a form that can't be pruned)"
        for node in analysis.model.nodes
        for place, tensor in zip(("first", "second"), node.inputs, strict=False)
        if formula_of(node.domain, node.op) and tensor.name in constants
    ]


def _is_on_integers(op: str) -> bool:
    """Whether layers around such a node compute with integers in a form that isn't understood."""
    return op == "DynamicQuantizeLinear" or op.startswith("QLinear") or op.endswith("Integer")


def check_globs(analysis: Analysis, settings: Settings) -> None:
    """Refuse globs that match no node: a slip of the pen would go unnoticed.

    Raises
    ------
    ReapError
    """
    keys = [analysis.model.keys[id(node)] for node in analysis.model.nodes]
    for name in ("include", "exclude"):
        for pattern in getattr(settings, name):
            if not fnmatch.filter(keys, pattern):
                raise ReapError(
                    f"--{name}: matches no node",
                    got=pattern,
                    expected="globs on names such as "
                    + ", ".join(sorted(analysis.flow.makers)[:3]),
                )


def read_ratios(groups: Sequence[Group], settings: Settings) -> tuple[float, ...] | None:
    """Return the fraction to remove from every group, None where no ratio is given.

    Raises
    ------
    ReapError
        If ratios by name can't be read, or a name is none of a group's.
    """
    if settings.ratio is not None:
        return (settings.ratio,) * len(groups)
    if settings.layer_ratios is None:
        return None
    by_glob = _layer_ratios(settings.layer_ratios)
    used: set[str] = set()
    ratios = []
    for group in groups:
        names = (group.name, *group.producers)
        hits = [p for p in by_glob if any(fnmatch.fnmatchcase(n, p) for n in names)]
        used.update(hits)
        ratios.append(by_glob[hits[0]] if hits else 0.0)
    if unused := set(by_glob) - used:
        raise ReapError(
            "--layer-ratios: no prunable channels come from a node of that name",
            got=", ".join(sorted(unused)),
            expected="globs on " + ", ".join(sorted({g.name for g in groups})[:5]) + ", ...",
        )
    return tuple(ratios)


def _layer_ratios(given: Mapping[str, float] | str | Path) -> dict[str, float]:
    if isinstance(given, Mapping):
        content = given
    else:
        try:
            content = json.loads(Path(given).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ReapError(f"--layer-ratios {given}: can't be read", got=str(error)) from None
    valid = isinstance(content, Mapping) and all(
        isinstance(r, (int, float)) and 0 <= r < 1 for r in content.values()
    )
    if not valid:
        raise ReapError(
            "--layer-ratios: not ratios by name",
            got=str(content)[:80],
            expected='a JSON object such as {"/layer1/*": 0.5} with ratios from 0 to below 1',
        )
    return {str(name): float(ratio) for name, ratio in content.items()}


def check_ratios(widths: Sequence[np.ndarray], ratios: Sequence[float]) -> None:
    """Refuse ratios that all round to nothing.

    Raises
    ------
    TargetError
    """
    choices = [Choices(w, np.zeros(len(w))) for w in widths]
    full = np.array([w[-1] for w in widths])
    if not any(ratios) or (uniform(choices, ratios) < full).any():
        return
    # The nearest width is the next one from the middle between the two on.
    least = [
        (1 - w[-2] / w[-1]) / 2
        for w, ratio in zip(widths, ratios, strict=True)
        if len(w) > 1 and ratio
    ]
    raise TargetError(
        "the ratio removes nothing: all widths round to those that they are",
        got=f"{max(ratios):g}",
        expected=f"at least {np.ceil(min(least) * 1e4) / 1e4:g}" if least else "other groups",
        hint="raise the ratio, or lower --round-to or --min-channels",
    )
