"""Which array belongs to which input, and in which layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from onnx_reap.data.recipe import Recipe
from onnx_reap.data.spec import InputSpec, describe, is_float
from onnx_reap.errors import ReapError

_USUAL_NAMES = ("x", "images")


def match(
    arrays: Mapping[str, np.ndarray], recipes: Mapping[str, Recipe], label: str
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Give every input its array.

    Arrays go by the inputs' names and others (labels, say) are ignored; a model with one input also
    takes an array called x or images, or the only one that fits. Layouts are told by shape: first
    as the model has it, then a single sample without a batch axis, then channels on the other side
    of height and width, then grey images without a channel axis.

    Parameters
    ----------
    arrays : mapping of str to numpy.ndarray
        Stored arrays; only those that are needed are looked up.
    recipes : mapping of str to Recipe
        By name of the input.
    label : str
        What to call the data in a refusal.

    Returns
    -------
    batched : dict of str to numpy.ndarray, shape (samples, ...)
        Views in the model's layout, all of the same length.
    whole : dict of str to numpy.ndarray
        Inputs that are fed unsliced with every batch: scalars, and arrays of exactly the model's
        fixed shape whose first axis counts something else than samples.

    Raises
    ------
    ReapError
        If an input has no array, or one of the wrong shape, dtype or length.
    """
    picked = _pick(arrays, recipes, label)
    inputs = [recipe.spec for recipe in recipes.values()]
    batched: dict[str, np.ndarray] = {}
    whole: dict[str, np.ndarray] = {}
    for name, recipe in recipes.items():
        array = picked[name]
        _check_dtype(array, recipe.spec, label)
        if array.shape == recipe.spec.shape and _first_axis_differs(recipe.spec, inputs):
            whole[name] = array
            continue
        view = fit(array, recipe.stored)
        if view is None:
            raise _misfit(picked, [recipe.stored], label)
        batched[name] = view
    count = max(map(len, batched.values()), default=0)
    for name, recipe in recipes.items():
        if (
            name in batched
            and len(batched[name]) != count
            and picked[name].shape == recipe.spec.shape
        ):
            whole[name] = batched.pop(name)
    if len({len(array) for array in batched.values()}) > 1:
        raise ReapError(
            f"{label} has different numbers of samples for the inputs",
            got=_listing(batched),
            expected="as many for each",
        )
    if not count:
        raise ReapError(f"{label} has no samples", got=_listing(picked), expected="1 or more")
    return batched, whole


def fit(array: np.ndarray, spec: InputSpec) -> np.ndarray | None:
    """View an array as a batch of the model's layout, or None if it is no such batch."""
    return next((view for view in _views(array, spec) if spec.fits(view.shape)), None)


def _views(array: np.ndarray, spec: InputSpec) -> Iterator[np.ndarray]:
    yield array
    yield array[None]
    axis = spec.channel_axis
    if axis is None:
        return
    if array.ndim in (3, 4):
        # Axes count from the end, so that this is right for one sample as for a batch.
        there, here = (-3, -1) if axis == 3 else (-1, -3)
        yield np.moveaxis(array, there, here)
        yield np.moveaxis(array, there, here)[None]
    if array.ndim in (2, 3) and spec.shape[axis] == 1:
        grey = np.expand_dims(array, -1 if axis == 3 else -3)
        yield grey if array.ndim == 3 else grey[None]


def _pick(
    arrays: Mapping[str, np.ndarray], recipes: Mapping[str, Recipe], label: str
) -> dict[str, np.ndarray]:
    if all(name in arrays for name in recipes):
        return {name: arrays[name] for name in recipes}
    stored = [recipe.stored for recipe in recipes.values()]
    if len(stored) == 1:
        fitting = [name for name, array in arrays.items() if fit(array, stored[0]) is not None]
        usual = [name for name in _USUAL_NAMES if name in fitting]
        if usual or len(fitting) == 1:
            return {stored[0].name: arrays[(usual or fitting)[0]]}
    raise _misfit(arrays, stored, label)


def _first_axis_differs(spec: InputSpec, inputs: Sequence[InputSpec]) -> bool:
    """Whether an input of fixed shape has, by the model alone, no batch axis."""
    firsts = [other.shape[0] for other in inputs if other.shape]
    batch = None if None in firsts else next(iter(firsts), None)
    return not spec.shape or spec.shape[0] != batch


def _check_dtype(array: np.ndarray, spec: InputSpec, label: str) -> None:
    numeric = array.dtype.kind in "biu"
    if numeric or (is_float(array.dtype) and is_float(spec.dtype)):
        return
    raise ReapError(
        f"{label} has the wrong dtype for the model's input {spec.name!r}",
        got=describe(array.dtype, array.shape),
        expected=str(spec),
    )


def _misfit(arrays: Mapping[str, np.ndarray], inputs: Sequence[InputSpec], label: str) -> ReapError:
    return ReapError(
        f"{label} doesn't fit the model's inputs",
        got=_listing(arrays) or "no arrays",
        expected=", ".join(map(str, inputs)),
    )


def _listing(arrays: Mapping[str, np.ndarray]) -> str:
    return ", ".join(
        f"{name} {describe(array.dtype, array.shape)}" for name, array in arrays.items()
    )
