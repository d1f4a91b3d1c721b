"""The samples of one run: real or synthetic, and which of them are held out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from onnx_reap.data import (
    Calibration,
    InputSpec,
    Preprocess,
    open_calibration,
    synthetic_calibration,
)
from onnx_reap.data.augment import Augment, find_augment
from onnx_reap.onnxio.dtypes import is_float
from onnx_reap.options import Settings

SYNTHETIC = 256
HELD_OUT = 0.1  # fraction of the samples that is held out to evaluate the result
DECIDING = 0.3  # fraction that is held out where a search decides by them
FEWEST_TO_SPLIT = 20
LOOKED_AT = 16  # samples that are compared with each other

VALIDATION = 0.2  # fraction of the fitted samples that validate choices made on the others
FEWEST_TO_VALIDATE = 5


@dataclass(frozen=True)
class Samples:
    """What a run is fed."""

    every: Calibration  # All samples; a few of them show shapes and time the models
    # Those that channels and weights are fitted to, and those that only evaluate the result
    fit: Calibration | None
    held_out: Calibration | None
    notes: tuple[str, ...] = ()  # Warnings about what was estimated on them
    seed: int = 0  # Of the training and validation split
    augment_kind: str = "auto"  # See `find_augment`

    @cached_property
    def train_validation(self) -> tuple[Calibration, Calibration] | None:
        """The samples of `fit` in two parts, None where there are too few.

        Wherever a choice is made on other samples than it was prepared on, it is made on the second
        part, which is the same for all stages.
        """
        if self.fit is None or len(self.fit) < FEWEST_TO_VALIDATE:
            return None
        return self.fit.split(VALIDATION, self.seed)

    @cached_property
    def augment(self) -> Augment | None:
        """How copies of the training samples are made; None if there are none."""
        parts = self.train_validation
        return None if parts is None else find_augment(parts[0], self.augment_kind, self.seed)


def open_samples(inputs: Sequence[InputSpec], data: Any, settings: Settings) -> Calibration:
    """Open data, or make some up."""
    preprocess, seed = _preprocess(settings), settings.seed
    if data is None:
        count = settings.samples or SYNTHETIC
        return synthetic_calibration(inputs, preprocess, samples=count, seed=seed)
    return open_calibration(data, inputs, preprocess, samples=settings.samples, seed=seed)


def divide(every: Calibration, settings: Settings, *, made_up: bool) -> Samples:
    """Divide samples as the settings need.

    With nothing to estimate, data that is given evaluates the result; without any, nothing is run.
    """
    seed, kind = settings.seed, settings.augment
    notes = every.notes if made_up else (*every.notes, *_monotonous(every, seed))
    if not settings.estimates:
        held_out, notes = (None, ()) if made_up else (every, notes)
        return Samples(every, None, held_out, notes, seed, kind)
    if len(every) < FEWEST_TO_SPLIT:
        few = f"too few samples ({len(every)}) to hold some out: nothing tells how the result "
        return Samples(every, every, None, (*notes, few + "does on others"), seed, kind)
    share = HELD_OUT if settings.max_drop is None else DECIDING
    fit, held_out = every.split(share, seed)
    return Samples(every, fit, held_out, notes, seed, kind)


def _monotonous(samples: Calibration, seed: int) -> Iterator[str]:
    """Warn of inputs that are the same in some samples; integers may be masks, unless all are."""
    some = samples.take(LOOKED_AT, seed)
    first, *others = some.batches(1)
    own = {n: x for n, x in first.items() if samples.alone or x.ndim > len(some.shapes[n])}
    same = [n for n in own if others and all(np.array_equal(own[n], o[n]) for o in others)]
    for name in same:
        if is_float(own[name].dtype) or len(same) == len(own):
            yield (
                f"input {name} is the same in all of {len(some)} samples that were looked at: "
                "errors and repairs on such data say nothing of others; check what --data holds"
            )


def divided(samples: Samples, share: float) -> Samples:
    """Hold out another fraction, where some are held out of those that are fitted."""
    if samples.fit is None or samples.held_out is None:
        return samples
    fit, held_out = samples.every.split(share, samples.seed)
    return replace(samples, fit=fit, held_out=held_out)


def _preprocess(settings: Settings) -> Preprocess:
    names = ("resize", "crop", "mean", "std", "scale", "color")
    return Preprocess(**{name: getattr(settings, name) for name in names})
