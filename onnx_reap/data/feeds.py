"""Samples that are whole feeds: graphs, sequences, anything that a run takes by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnx_reap.data.matching import check_dtype, fit, misfit, scalar
from onnx_reap.data.recipe import Recipe
from onnx_reap.errors import ReapError

NOTE = (
    "every feed is one sample and run by itself, as feeds differ in size or their first axis is no "
    "batch of independent samples; costs are those of the largest feed"
)


class FeedSource:
    """Samples of one run each, whose sizes may differ.

    Parameters
    ----------
    feeds : sequence of mappings
        Arrays by name of the input; others are ignored.
    recipes : mapping of str to Recipe
        By name of the input, for all of them.
    label, origin : str
        What to call the data in a refusal and in a report.
    refusal : ReapError, optional
        Why first axes hold no samples: what to say if the model can't be run on whole feeds.

    Raises
    ------
    ReapError
        If a feed doesn't fit the model.
    """

    alone, by_feed = True, True
    notes: tuple[str, ...] = (NOTE,)

    def __init__(
        self,
        feeds: Sequence[Mapping[str, np.ndarray]],
        recipes: Mapping[str, Recipe],
        *,
        label: str,
        origin: str,
        refusal: ReapError | None = None,
    ) -> None:
        self._recipes, self._label, self.origin = recipes, label, origin
        self.refusal = refusal
        self._feeds = [
            _matched(feed, recipes, f"feed {number} of {label}")
            for number, feed in enumerate(feeds)
        ]
        largest = max(self._feeds, key=lambda feed: sum(array.size for array in feed.values()))
        self.shapes = {name: array.shape for name, array in largest.items()}

    def feeds(self) -> FeedSource:
        """Return the source itself."""
        return self

    def __len__(self) -> int:
        return len(self._feeds)

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Prepare the one feed at this index, shape (1,)."""
        (index,) = indices
        label = f"feed {index} of {self._label}"
        return {
            name: recipe(array, [label] * len(array)) if array.ndim else recipe.finish(array)
            for name, recipe in self._recipes.items()
            for array in [self._feeds[index][name]]
        }


def whole_feeds(
    feeds: Sequence[Mapping[str, np.ndarray]],
    recipes: Mapping[str, Recipe],
    refusal: ReapError,
    *,
    label: str,
    origin: str,
) -> FeedSource:
    """Take feeds that hold no samples along first axes for samples; see `FeedSource`."""
    try:
        return FeedSource(feeds, recipes, label=label, origin=origin, refusal=refusal)
    except ReapError:
        raise refusal from None


def stacked(
    arrays: Mapping[str, np.ndarray], recipes: Mapping[str, Recipe]
) -> list[Mapping[str, np.ndarray]]:
    """Unstack feeds of the same sizes: arrays with one axis more than the inputs have.

    Scalars may be the same for all feeds. Empty if arrays are no such stacks.
    """
    alone = {next(iter(recipes)): next(iter(arrays.values()))} if len(arrays) == 1 else arrays
    if any(name not in alone for name in recipes):
        return []
    picked = {name: alone[name] for name in recipes}
    stacks = {
        name: array
        for name, array in picked.items()
        if array.ndim == len(recipes[name].spec.shape) + 1
    }
    lengths = {len(array) for array in stacks.values()}
    if len(lengths) != 1 or any(array.ndim for name, array in picked.items() if name not in stacks):
        return []
    return [picked | {n: array[i] for n, array in stacks.items()} for i in range(*lengths)]


def _matched(
    feed: Mapping[str, np.ndarray], recipes: Mapping[str, Recipe], label: str
) -> dict[str, np.ndarray]:
    specs = [recipe.stored for recipe in recipes.values()]
    if len(specs) == 1 and len(feed) == 1:
        feed = {specs[0].name: next(iter(feed.values()))}
    found = {}
    for spec in specs:
        array = feed.get(spec.name)
        if array is None:
            raise misfit(feed, specs, label)
        check_dtype(array, spec, label)
        view = scalar(array) if not spec.shape else fit(array, spec)
        fits = view is not None and view.size and spec.shape[:1] in ((), (None,), view.shape[:1])
        if view is None or not fits:
            raise misfit({spec.name: array}, [spec], label)
        found[spec.name] = view
    return found
