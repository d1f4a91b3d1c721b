"""What a model costs, as a function of how many units each group keeps.

MACs are those of Conv, ConvTranspose, Gemm and MatMul with a constant weight, for one sample.
Parameters are the elements of all floating-point constants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .channels import Group
from .model import Model
from .probe import Probe
from .records import Flow, Linear


@dataclass(frozen=True)
class Extent:
    """Length of an axis: what stays in any case, and channels per unit of each group."""

    fixed: int
    per_unit: Mapping[int, float]

    def at(self, widths: Sequence[int]) -> float:
        """Length when group g keeps `widths[g]` units."""
        return self.fixed + sum(each * widths[g] for g, each in self.per_unit.items())


@dataclass(frozen=True)
class Product:
    """A cost that is `factor` times the lengths of some axes."""

    factor: float
    extents: tuple[Extent, ...]

    def at(self, widths: Sequence[int]) -> float:
        """Cost when group g keeps `widths[g]` units."""
        cost = self.factor
        for extent in self.extents:
            cost *= extent.at(widths)
        return cost


@dataclass(frozen=True)
class CostModel:
    """MACs and parameters of the model for any widths of its groups.

    Attributes
    ----------
    macs, params : tuple of Product
        Terms to sum up.
    full : tuple of int
        Widths of the uncut model.
    """

    macs: tuple[Product, ...]
    params: tuple[Product, ...]
    full: tuple[int, ...]

    def count_macs(self, widths: Sequence[int] | None = None) -> int:
        """Multiply-accumulates per sample (all of the model's where no widths are given)."""
        widths = self.full if widths is None else widths
        return round(sum(term.at(widths) for term in self.macs))

    def count_params(self, widths: Sequence[int] | None = None) -> int:
        """Floating-point parameters."""
        widths = self.full if widths is None else widths
        return round(sum(term.at(widths) for term in self.params))


def cost_model(model: Model, probe: Probe, flow: Flow, groups: Sequence[Group]) -> CostModel:
    """Describe how MACs and parameters depend on the groups' widths."""
    group_of = {unit: g for g, group in enumerate(groups) for unit in group.units}
    macs = tuple(_linear_macs(linear, probe, flow, group_of, groups) for linear in flow.linears)
    return CostModel(
        macs,
        tuple(_parameters(model, flow, group_of, groups)),
        tuple(group.width for group in groups),
    )


def _extent(
    units: np.ndarray, group_of: Mapping[int, int], groups: Sequence[Group]
) -> Extent:
    counts = np.bincount([group_of.get(int(unit), -1) + 1 for unit in units], minlength=1)
    per_unit = {g - 1: int(n) / groups[g - 1].width for g, n in enumerate(counts) if g and n}
    return Extent(int(counts[0]), per_unit)


def _linear_macs(
    linear: Linear,
    probe: Probe,
    flow: Flow,
    group_of: Mapping[int, int],
    groups: Sequence[Group],
) -> Product:
    inputs = flow.units_along(linear.x, linear.x_axis)
    outputs = flow.units_along(linear.y, linear.y_axis)
    side = linear.x if linear.transposed else linear.y
    axis = linear.x_axis if linear.transposed else linear.y_axis
    positions = np.prod(probe.shapes[side]) / probe.shapes[side][axis] / probe.batch
    x, y = _extent(inputs, group_of, groups), _extent(outputs, group_of, groups)
    if linear.depthwise:
        return Product(positions * linear.taps, (x if linear.transposed else y,))
    return Product(positions * linear.taps / linear.group, (x, y))


def _parameters(
    model: Model, flow: Flow, group_of: Mapping[int, int], groups: Sequence[Group]
) -> list[Product]:
    bound: dict[str, dict[int, tuple[np.ndarray, int]]] = {}
    for binding in flow.bindings:
        units = flow.units_along(binding.tensor, binding.tensor_axis)
        bound.setdefault(binding.constant, {})[binding.constant_axis] = (units, binding.blocks)
    terms = []
    for name, constant in model.constants().items():
        if not np.issubdtype(np.dtype(constant.dtype), np.floating) and "float" not in str(constant.dtype):
            continue
        factor, extents = 1.0, []
        for axis, size in enumerate(constant.shape):
            units, blocks = bound.get(name, {}).get(axis, (None, 1))
            if units is None:
                factor *= size
            else:
                factor /= blocks
                extents.append(_extent(units, group_of, groups))
        terms.append(Product(factor, tuple(extents)))
    return terms
