"""Samples that lie in arrays, in memory or in a file."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from onnx_reap.data.feeds import FeedSource, stacked, whole_feeds
from onnx_reap.data.matching import USUAL_NAMES, match, stand_in
from onnx_reap.data.recipe import Recipe
from onnx_reap.errors import ReapError

RAW_PIXELS = (
    "pixels are fed as they are stored (0 to 255): if the model was trained on normalised images, "
    "pass its scale, mean and std (torchvision: 1/255, 0.485 0.456 0.406 and 0.229 0.224 0.225)"
)


Columns = dict[str, list[np.ndarray]]


class ArraySource:
    """Samples of one array an input; a batch is converted when it is read, not before.

    Parameters
    ----------
    columns : mapping of str to numpy.ndarray or sequence of numpy.ndarray, length n
        By name of the input, its samples in the model's layout.
    whole : mapping of str to numpy.ndarray
        Inputs that are fed unsliced with every batch.
    recipes : mapping of str to Recipe
        By name of the input, for all of them.
    feeds : sequence of mappings
        The same arrays as whole feeds, as they were given.
    label, origin : str
        What to call the data in a refusal and in a report.
    """

    alone, refusal = False, None

    def __init__(
        self,
        columns: Mapping[str, np.ndarray | Sequence[np.ndarray]],
        whole: Mapping[str, np.ndarray],
        recipes: Mapping[str, Recipe],
        feeds: Sequence[Mapping[str, np.ndarray]],
        *,
        label: str,
        origin: str,
    ) -> None:
        self._feeds = feeds
        self.by_feed = 1 < len(feeds) < len(next(iter(columns.values())))
        self._columns = columns
        self._recipes = recipes
        self._label = label
        self._whole = {name: recipes[name].finish(array) for name, array in whole.items()}
        self.origin = origin
        self.shapes = {
            name: recipes[name].shape(column[0].shape) for name, column in columns.items()
        }
        self.shapes |= {name: array.shape for name, array in whole.items()}
        raw = any(_is_raw(recipes[name], column[0]) for name, column in columns.items())
        self.notes: tuple[str, ...] = (RAW_PIXELS,) if raw else ()

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Gather and prepare the samples at these indices, shape (n,)."""
        labels = [f"sample {index} of {self._label}" for index in indices]
        feed = {
            name: self._recipes[name](_gather(column, indices), labels)
            for name, column in self._columns.items()
        }
        return feed | self._whole

    def feeds(self) -> FeedSource:
        """Return the same data as whole feeds."""
        return FeedSource(self._feeds, self._recipes, label=self._label, origin=self.origin)


def array_source(
    arrays: Mapping[str, np.ndarray],
    recipes: Mapping[str, Recipe],
    *,
    label: str,
    origin: str,
    named: bool,
) -> ArraySource | FeedSource:
    """Match arrays to inputs (see `match`, also for what is refused) and read from them.

    If the user `named` the arrays, a note tells which one is taken for an input of another name.
    What holds no samples along first axes is taken for whole feeds, one or a stack of them.
    """
    other, (name, *_) = stand_in(arrays, recipes), (*recipes, "")
    arrays = arrays if other is None else {name: arrays[other]}
    try:
        columns, whole = match(arrays, recipes, label)
    except ReapError as refusal:
        feeds = stacked(arrays, recipes) or [arrays]
        return whole_feeds(feeds, recipes, refusal, label=label, origin=origin)
    source = ArraySource(columns, whole, recipes, [arrays], label=label, origin=origin)
    if named and other is not None and other not in USUAL_NAMES:
        source.notes += (f"{label} has no array {name!r}: {other!r}, which fits, is taken for it",)
    return source


def feed_source(
    feeds: Iterable[Mapping[str, np.ndarray]],
    recipes: Mapping[str, Recipe],
    *,
    limit: int | None,
    label: str,
    origin: str,
) -> ArraySource | FeedSource:
    """Read feeds once and keep their samples; at most `limit`, as a stream may be endless.

    Each feed is matched to the inputs by itself and may hold any number of samples. Where feeds
    don't hold samples along first axes, or samples of one shape, each feed is a sample.

    Raises
    ------
    ReapError
        If there are no feeds, or some don't fit the model.
    """
    taken: list[Mapping[str, np.ndarray]] = []
    rows: tuple[Columns, dict[str, np.ndarray]] = {}, {}
    refusal: ReapError | None = None
    for number, feed in enumerate(feeds):
        taken.append(feed)
        if refusal is None:
            try:
                _add_rows(rows, feed, recipes, f"feed {number} of {label}")
            except ReapError as error:
                refusal = error
        seen = len(taken) if refusal else len(next(iter(rows[0].values())))
        if limit is not None and seen >= limit:
            break
    if not taken:
        raise ReapError(f"{label} yields no feeds", expected="1 sample or more")
    if refusal is not None:
        return whole_feeds(taken, recipes, refusal, label=label, origin=origin)
    return ArraySource(*rows, recipes, taken, label=label, origin=origin)


def _add_rows(
    rows: tuple[Columns, dict[str, np.ndarray]],
    feed: Mapping[str, np.ndarray],
    recipes: Mapping[str, Recipe],
    label: str,
) -> None:
    """Add the samples of a feed to columns, and to what is fed whole."""
    batched, constant = match(feed, recipes, label)
    for name, batch in batched.items():
        column = rows[0].setdefault(name, [])
        column.extend(batch)
        _check_alike(name, column[0].shape, batch.shape[1:], label)
    for name, array in constant.items():
        if not np.array_equal(array, rows[1].setdefault(name, array)):
            raise ReapError(
                f"{label} changes {name!r}, which has no batch axis",
                expected="the same value in every feed",
            )


def _check_alike(name: str, first: tuple[int, ...], now: tuple[int, ...], label: str) -> None:
    if now != first:
        raise ReapError(
            f"{label} has samples of another shape for {name!r}",
            got=str(now),
            expected=f"{first}, as in the first feed",
            hint="pad or crop samples to one shape",
        )


def _gather(column: np.ndarray | Sequence[np.ndarray], indices: np.ndarray) -> np.ndarray:
    if isinstance(column, np.ndarray):
        result: np.ndarray = column[indices]
        return result
    return np.stack([column[index] for index in indices])


def _is_raw(recipe: Recipe, sample: np.ndarray) -> bool:
    """Whether these are pixels as a file stores them and the model gets them as they are."""
    spec = recipe.spec
    pixels = spec.channel_axis is not None and sample.dtype == np.uint8
    return pixels and spec.is_float and recipe.affine is None
