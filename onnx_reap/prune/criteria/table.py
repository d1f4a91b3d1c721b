"""The criteria by name; the table of them is `onnx_reap.fields.CRITERIA`.

The module of a name has a function `order`, which takes what is observed of a group and returns its
units, first to go first; or, where units merge, a function `rank` that returns a `Ranking`. Nothing
heavy is imported before a criterion is asked.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from onnx_reap.errors import ReapError
from onnx_reap.fields import CRITERIA
from onnx_reap.prune.criteria.ranking import Ranking

if TYPE_CHECKING:
    from onnx_reap.prune.criteria.observation import Observation


def ranking(name: str, observed: Observation) -> Ranking:
    """Return the units of a group, first to go first, its parts by turns."""
    from onnx_reap.prune.criteria.balance import balanced

    module = import_module(f"onnx_reap.prune.criteria.{name}")
    if CRITERIA[name].merges:
        found: Ranking = module.rank(observed)
        return found
    order = balanced(module.order(observed), observed.parts).tolist()
    # Every module may be a new one, and what it leaves out or repeats would show nowhere else.
    assert sorted(order) == [*range(len(observed.filters))], f"{name}: no order of all units"
    return Ranking(order)


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
            hint=f"pip install {'scikit-learn' if package == 'sklearn' else package}",
        )
