"""The criteria by name: what each goes by, where it comes from, what it needs.

The module of a name has a function `order`, which takes what is observed of a group and returns its
units, first to go first; or, where units merge, a function `rank` that returns a `Ranking`. Nothing
heavy is imported before a criterion is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from onnx_reap.errors import ReapError
from onnx_reap.prune.criteria.ranking import Ranking

if TYPE_CHECKING:
    from onnx_reap.prune.criteria.observation import Observation


@dataclass(frozen=True)
class Criterion:
    """How units are ranked.

    Attributes
    ----------
    goes_by : str
        What decides, for the help.
    paper : str
    runs : bool
        Whether it looks at activations; weights alone otherwise.
    pools : bool
        Whether it looks at each sample's feature maps and outputs, pooled.
    ranks : bool
        Whether it has an order of its own; it comes with the errors of removal otherwise.
    merges : bool
        Whether units that stay take over what others bring.
    package : str, optional
        Module that it needs, which the extra `methods` brings.
    """

    goes_by: str
    paper: str = ""
    runs: bool = False
    pools: bool = False
    ranks: bool = True
    merges: bool = False
    package: str | None = None


CRITERIA = {
    "reap": Criterion(
        "error after the refit",
        "Kamma and Wada, Reconstruction Error Aware Pruning, IEICE Trans. E104-D(1), 2021",
        runs=True,
        ranks=False,
    ),
    "l1": Criterion(
        "sum of absolute weights",
        "Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017",
    ),
    "l2": Criterion(
        "norm of the weights",
        "Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017",
    ),
    "fpgm": Criterion(
        "distance to all other filters",
        "He et al., Filter Pruning via Geometric Median, CVPR 2019",
    ),
    "fold": Criterion(
        "merging of filters that are alike",
        "Wang et al., Just Fold the Network to Compress, ICLR 2025",
        package="scipy",
        merges=True,
    ),
    "wanda": Criterion(
        "weights times norms of inputs",
        "Sun et al., A Simple and Effective Pruning Approach for LLMs, ICLR 2024",
        runs=True,
    ),
    "thinet": Criterion(
        "error without a refit",
        "Luo et al., ThiNet, ICCV 2017",
        runs=True,
    ),
    "lasso": Criterion(
        "LASSO on what channels add",
        "He et al., Channel Pruning for Accelerating Very Deep Neural Networks, ICCV 2017",
        runs=True,
        package="sklearn",
    ),
    "nu": Criterion(
        "error if one other channel emulates it",
        "Kamma et al., Neural Behavior-Based Approach, IEICE Trans. E103-D(5), 2020",
        runs=True,
        merges=True,
    ),
    "similarity": Criterion(
        "merging of channels of like mean and variance",
        "Zhang et al., Exploiting Channel Similarity, arXiv:1908.02620",
        runs=True,
        package="scipy",
    ),
    "pls": Criterion(
        "share in explaining outputs or labels",
        "Jordao et al., Pruning Deep Neural Networks using Partial Least Squares, arXiv:1810.07610",
        runs=True,
        pools=True,
        package="sklearn",
    ),
    "random": Criterion("chance"),
}


def ranking(name: str, observed: Observation) -> Ranking:
    """Return the units of a group, first to go first, its parts by turns."""
    from onnx_reap.prune.criteria.balance import balanced

    module = import_module(f"onnx_reap.prune.criteria.{name}")
    if CRITERIA[name].merges:
        found: Ranking = module.rank(observed)
        return found
    return Ranking(balanced(module.order(observed), observed.parts).tolist())


def check_packages(name: str) -> None:
    """Refuse a criterion whose package isn't there.

    Raises
    ------
    ReapError
    """
    package = CRITERIA[name].package
    if package is not None and find_spec(package) is None:
        raise ReapError(
            f"--criterion {name}: a package is missing",
            got=f"no module {package}",
            hint='pip install "onnx-reap[methods]"',
        )
