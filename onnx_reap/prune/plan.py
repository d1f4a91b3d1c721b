"""The plan: which channels stay, as a file that people can read, edit and replay."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnx_reap.errors import ReapError
from onnx_reap.onnxio.files import read_text

SCHEMA = 1

Constants = Mapping[str, Mapping[str, list[int] | list[list[int]]]]
"""By constant and axis, the indices that stay; a list for each group where groups differ."""


@dataclass(frozen=True)
class GroupPlan:
    """One channel group.

    Attributes
    ----------
    name : str
        The group's name; `width` units of it exist.
    kept : tuple of int
        Units that stay, ascending, counted from 0 in channel order.
    """

    name: str
    width: int
    kept: tuple[int, ...]
    producers: tuple[str, ...] = ()
    consumers: tuple[str, ...] = ()


@dataclass(frozen=True)
class FactorPlan:
    """A layer that became two, or a group in another basis, with so many coordinates."""

    node: str
    scheme: str
    rank: int


@dataclass(frozen=True)
class Factorised:
    """A layer that became two, or a group of channels in another basis.

    Attributes
    ----------
    node : str
        The layer, now the second of the two, or the group.
    scheme : {"channel", "spatial", "stream"}
        Its whole kernel and 1 x 1, or k x 1 and 1 x k; or a group's basis.
    rank, full : int
        Channels between the two, or coordinates, and how many it takes to be exact.
    error : float, optional
        Local error, as a fraction of the variance of the outputs of the layers that read these.
    """

    node: str
    scheme: str
    rank: int
    full: int
    error: float | None


@dataclass(frozen=True)
class FrozenPlan:
    """Channels that must stay, and why."""

    node: str
    channels: int
    reason: str
    cause: str


@dataclass(frozen=True)
class Plan:
    """What a run decided.

    Attributes
    ----------
    settings : mapping of str to object
        Those that differ from the defaults; replaying reads `include` and `exclude` alone, on which
        the groups depend.
    groups : tuple of GroupPlan
    constants : mapping of str to mapping of str to list of int, or of lists of int
        By constant and axis, the indices that stay; for the axis of a grouped convolution's weight
        that lies within its groups, a list for each group. For other tools; replaying derives them.
    frozen : tuple of FrozenPlan
    input_shapes : mapping of str to tuple of int
        By input, what the model was analysed on, batch included; replaying takes from here the
        sizes that the model leaves open.
    factors : tuple of FactorPlan
        Layers that became two, and groups in another basis. To replay these takes data.
    """

    settings: Mapping[str, Any]
    groups: tuple[GroupPlan, ...]
    constants: Constants
    frozen: tuple[FrozenPlan, ...]
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    factors: tuple[FactorPlan, ...] = ()

    def to_json(self) -> str:
        """Write the plan as text."""
        content = {
            "schema": SCHEMA,
            "settings": dict(self.settings),
            "input_shapes": dict(self.input_shapes),
            "groups": [vars(group) for group in self.groups],
            "constants": self.constants,
            "frozen": [vars(frozen) for frozen in self.frozen],
        }
        if self.factors:
            content["factors"] = [vars(factor) for factor in self.factors]
        return json.dumps(content, indent=1, default=str) + "\n"

    @staticmethod
    def from_json(text: str, source: str = "plan") -> Plan:
        """Read a plan from text.

        Raises
        ------
        ReapError
            If the text is not a plan of this schema.
        """
        try:
            content = json.loads(text)
            if content["schema"] != SCHEMA:
                raise ReapError(
                    f"{source}: another schema", got=str(content["schema"]), expected=str(SCHEMA)
                )
            groups = tuple(_group(g) for g in content["groups"])
            frozen = tuple(FrozenPlan(**f) for f in content.get("frozen", ()))
            factors = tuple(FactorPlan(**f) for f in content.get("factors", ()))
            settings, constants = dict(content["settings"]), dict(content["constants"])
            shapes = {n: _shape(n, s) for n, s in dict(content.get("input_shapes", {})).items()}
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ReapError(
                f"{source}: not a plan",
                got=f"{type(error).__name__}: {error}",
                expected="a file written by --plan",
            ) from None
        return Plan(settings, groups, constants, frozen, shapes, factors)

    @staticmethod
    def load(path: str | Path) -> Plan:
        """Read a plan from a file.

        Raises
        ------
        ReapError
            If the file can't be read or is not a plan.
        """
        return Plan.from_json(read_text("plan", path), f"plan {path}")


def _shape(name: str, sizes: Any) -> tuple[int, ...]:
    if not isinstance(sizes, list) or any(type(size) is not int or size < 1 for size in sizes):
        raise TypeError(f"input shape of {name} is not a list of whole numbers")
    return tuple(sizes)


def _group(entry: Mapping[str, Any]) -> GroupPlan:
    kept = entry["kept"]
    if not isinstance(kept, list) or any(type(index) is not int for index in kept):
        raise TypeError(f"kept of group {entry['name']} is not a list of whole numbers")
    return GroupPlan(
        str(entry["name"]),
        int(entry["width"]),
        tuple(sorted(set(kept))),
        tuple(entry.get("producers", ())),
        tuple(entry.get("consumers", ())),
    )
