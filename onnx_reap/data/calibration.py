"""A view of samples that can be read again and again, in batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any, Protocol

import numpy as np

from onnx_reap.errors import ReapError
from onnx_reap.onnxio.dtypes import is_float


class SampleSource(Protocol):
    """Random access to prepared samples; what every kind of calibration data comes down to."""

    @property
    def origin(self) -> str:
        """Short text that says where samples come from."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should be warned of."""
        ...

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """By name of the input, the shape of one sample as it is fed, without a batch axis."""
        ...

    @property
    def alone(self) -> bool:
        """Whether a sample is a whole feed, which a run takes by itself.

        Shapes are then those of the largest one, whose axes are all its own.
        """
        ...

    @property
    def refusal(self) -> ReapError | None:
        """If `alone`: what to say if the model can't be run on whole feeds."""
        ...

    @property
    def by_feed(self) -> bool:
        """Whether the data came in feeds of several rows, which may be samples of one run each."""
        ...

    def __len__(self) -> int:
        """Count the samples."""
        ...

    def feeds(self) -> SampleSource | None:
        """Return the same data as whole feeds, for models without a batch, if there are any.

        Raises
        ------
        ReapError
            If feeds don't fit the model.
        """
        ...

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Return a feed of the samples at these indices, shape (n,), the same each time."""
        ...


class Calibration:
    """A re-iterable, deterministic, sized view of the samples of a source.

    They are read when a batch asks for them; `indices`, int64 of shape (n,), say which and in what
    order, by default all.
    """

    def __init__(
        self, source: SampleSource, indices: np.ndarray | None = None, notes: Sequence[str] = ()
    ) -> None:
        self._source, self._notes = source, tuple(notes)
        self._indices = np.arange(len(source)) if indices is None else indices

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def indices(self) -> np.ndarray:
        """Places of these samples among all of the source's, shape (n,)."""
        return self._indices

    @property
    def total(self) -> int:
        """Number of samples that the source has."""
        return len(self._source)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of one sample of every input, without a batch axis.

        An input that has none, such as a scalar, is listed with the shape in which it is fed.
        """
        return dict(self._source.shapes)

    @property
    def alone(self) -> bool:
        """Whether a sample is a whole feed, which a run takes by itself: batches are of size 1.

        Sizes may differ from feed to feed then; `shapes` are those of the largest one.
        """
        return self._source.alone

    @property
    def refusal(self) -> ReapError | None:
        """What to say if the model can't be run on whole feeds."""
        return self._source.refusal

    @property
    def by_feed(self) -> bool:
        """Whether the data came in feeds of several rows, which may be samples of one run each."""
        return self._source.by_feed

    def feeds(self) -> Calibration | None:
        """Return all of the data as samples that are whole feeds; None where there are none."""
        try:
            source = self._source.feeds()
        except ReapError:
            return None
        return None if source is None else Calibration(source, notes=self._notes)

    @property
    def origin(self) -> str:
        """Short text for a report, such as ``calib.npz (512 samples)``."""
        total = len(self._source)
        count = f"{total:,}" if total == len(self) else f"{len(self):,} of {total:,}"
        return f"{self._source.origin} ({count} sample{'s' * (total != 1)})"

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should be warned of, one sentence each."""
        return (*self._source.notes, *self._notes)

    def with_note(self, note: str) -> Calibration:
        """Return the same samples with one more warning, which parts of them don't repeat."""
        return Calibration(self._source, self._indices, (*self._notes, note))

    def batches(self, size: int, *, pad: bool = False) -> Iterator[dict[str, np.ndarray]]:
        """Yield feeds of `size` samples; the last one may be smaller.

        Parameters
        ----------
        pad : bool
            Fill the last batch by repeating its samples, for models whose batch is fixed. Batch
            ``k`` then still starts with ``min(size, len(self) - k * size)`` samples of its own.

        Yields
        ------
        dict of str to numpy.ndarray
            By name of the input, contiguous and of the model's dtype.

        Raises
        ------
        ReapError
            If a sample can't be read, or has a NaN or infinite value.
        """
        for start in range(0, len(self), size):
            indices = self._indices[start : start + size]
            if pad:
                indices = np.pad(indices, (0, size - len(indices)), mode="wrap")
            feed = self._source.read(indices)
            for name, batch in feed.items():
                if is_float(batch.dtype) and not np.isfinite(batch).all():
                    raise self._infinite(name, batch, indices)
            yield feed

    def same_values(self) -> dict[str, Any]:
        """Return the number, flag or text of each input that holds one, the same in all samples."""
        seen = {name: set[Any]() for name, shape in self.shapes.items() if prod(shape) == 1}
        for feed in self.batches(1) if seen else ():
            for name, values in seen.items():
                values.add(feed[name].item())
        return {name: values.pop() for name, values in seen.items() if len(values) == 1}

    def at(self, places: Sequence[int]) -> Calibration:
        """Choose samples by their places among these, in any order and any number of times."""
        return Calibration(self._source, self._indices[list(places)])

    def extremes(self) -> list[dict[str, np.ndarray]]:
        """Return a largest and, if it is of other shapes, a smallest of samples that are alone."""
        sizes = [sum(x.size for x in feed.values()) for feed in self.batches(1)]
        ends = [next(self.at([int(pick(sizes))]).batches(1)) for pick in (np.argmax, np.argmin)]
        first, last = ({name: x.shape for name, x in feed.items()} for feed in ends)
        return ends if first != last else ends[:1]

    def take(self, n: int, seed: int) -> Calibration:
        """Choose at most `n` samples at random, without replacement, in their original order."""
        if n >= len(self):
            return self
        chosen = np.random.default_rng(seed).choice(len(self), n, replace=False)
        return Calibration(self._source, self._indices[np.sort(chosen)])

    def split(self, fraction: float, seed: int) -> tuple[Calibration, Calibration]:
        """Hold a random part of the samples out.

        Parameters
        ----------
        fraction : float
            Part to hold out, between 0 and 1; each side gets one sample at least.

        Returns
        -------
        fit, held_out : Calibration
            Disjoint, together all samples, in their original order.

        Raises
        ------
        ReapError
            If there are fewer than two samples.
        """
        if len(self) < 2:
            raise ReapError(
                "--data has too few samples to hold some out",
                got=self.origin,
                expected="2 samples or more",
            )
        count = min(max(round(fraction * len(self)), 1), len(self) - 1)
        held = np.zeros(len(self), bool)
        held[np.random.default_rng(seed).choice(len(self), count, replace=False)] = True
        fit, held_out = self._indices[~held], self._indices[held]
        return Calibration(self._source, fit), Calibration(self._source, held_out)

    def followed_by(self, other: Calibration) -> Calibration:
        """Put samples of the same source behind these."""
        return Calibration(self._source, np.concatenate([self._indices, other._indices]))

    def _infinite(self, name: str, batch: np.ndarray, indices: np.ndarray) -> ReapError:
        where = tuple(np.argwhere(~np.isfinite(batch))[0])
        has_samples = batch.ndim > len(self.shapes[name])
        place = 0 if self.alone else where[0] if has_samples else None
        sample = "" if place is None else f" in sample {indices[place]}"
        return ReapError(
            f"--data: input {name!r} has NaN or infinite values{sample}",
            got=f"{batch[where]} as {batch.dtype.name}",
            expected="finite values",
            hint="mend the sample or leave it out, or --scale values that are too large",
        )
