"""Ratios that the user gives: one for all groups, or by globs on names."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from onnx_reap.errors import ReapError, TargetError
from onnx_reap.graph.groups import Group
from onnx_reap.options import Settings
from onnx_reap.solve.allocation import Choices, uniform


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
