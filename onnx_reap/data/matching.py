"""Which array belongs to which input, and in which layout."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from onnx_reap.data.recipe import Recipe
from onnx_reap.data.spec import InputSpec, describe, without_batch
from onnx_reap.errors import ReapError
from onnx_reap.onnxio.dtypes import is_float, is_integer_or_bool, is_text

USUAL_NAMES = ("x", "images")


def match(
    arrays: Mapping[str, np.ndarray], recipes: Mapping[str, Recipe], label: str
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Give every input its array.

    Arrays go by the inputs' names and others (labels, say) are ignored; a model with one input also
    takes an array called x or images, or the only one that fits. Layouts are told by shape: first
    as the model has it, then with channels on the other side of height and width, then grey without
    a channel axis, then all these again as a single sample without a batch axis.

    Parameters
    ----------
    arrays : mapping of str to numpy.ndarray
        Stored arrays; only those that are needed are looked up.
    recipes : mapping of str to Recipe
        By name of the input.

    Returns
    -------
    batched : dict of str to numpy.ndarray, shape (samples, ...)
        Views in the model's layout, all of the same length.
    whole : dict of str to numpy.ndarray
        Inputs that are fed unsliced with every batch: scalars, and arrays of just the model's
        shape beside others that hold samples, such as a recurrent state (layers, batch, channels).

    Raises
    ------
    ReapError
        If an input has no array, or one of the wrong shape, dtype or length.
    """
    picked = _pick(arrays, recipes, label)
    for name, recipe in recipes.items():
        check_dtype(picked[name], recipe.spec, label)
        if not recipe.spec.shape and (one := scalar(picked[name])) is not None:
            picked[name] = one
    constant = _without_samples(picked, recipes)
    batched = {
        name: _view(picked[name], recipe.stored, label)
        for name, recipe in recipes.items()
        if name not in constant
    }
    if len({len(array) for array in batched.values()}) > 1:
        raise ReapError(
            f"{label} has different numbers of samples for the inputs",
            got=_listing(batched),
            expected="as many for each",
        )
    if not any(map(len, batched.values())):
        raise ReapError(f"{label} has no samples", got=_listing(picked), expected="1 or more")
    return batched, constant


def fit(array: np.ndarray, spec: InputSpec) -> np.ndarray | None:
    """View an array as a batch of the model's layout, or None if it is no such batch."""
    return next((view for view in _views(array, spec) if spec.fits(view.shape)), None)


def scalar(array: np.ndarray) -> np.ndarray | None:
    """View an array of one entry as a scalar; None if it has more."""
    return array.reshape(()) if array.size == 1 else None


def _views(array: np.ndarray, spec: InputSpec) -> Iterator[np.ndarray]:
    axis = spec.channel_axis
    for batch in (array, array[None]):
        yield batch
        if axis is not None and batch.ndim == 4:
            yield np.moveaxis(batch, 4 - axis, axis)
        if axis is not None and batch.ndim == 3:
            yield np.expand_dims(batch, axis)


def _without_samples(
    picked: Mapping[str, np.ndarray], recipes: Mapping[str, Recipe]
) -> dict[str, np.ndarray]:
    """Tell inputs that hold just what the model declares while others hold samples of it."""
    own = without_batch([recipe.spec for recipe in recipes.values()])
    exact = {
        name: array
        for name, array in picked.items()
        if array.shape == (spec := recipes[name].spec).shape
        or (name in own and array.shape[:1] == spec.shape[:1] and spec.fits(array.shape))
    }
    if len(exact) < len(picked):
        return exact
    # All are as declared: one batch of a model of fixed batch size.
    return {name: array for name, array in exact.items() if array.ndim == 0 or name in own}


def _pick(
    arrays: Mapping[str, np.ndarray], recipes: Mapping[str, Recipe], label: str
) -> dict[str, np.ndarray]:
    other = stand_in(arrays, recipes)
    missing = [name for name in recipes if name not in arrays]
    if missing and other is None:
        raise misfit(arrays, [recipe.stored for recipe in recipes.values()], label)
    return {name: arrays[name if other is None else other] for name in recipes}


def stand_in(arrays: Mapping[str, np.ndarray], recipes: Mapping[str, Recipe]) -> str | None:
    """Name the array that the only input takes if none is called so; None if none can be."""
    if len(recipes) != 1 or any(name in arrays for name in recipes):
        return None
    (stored,) = (recipe.stored for recipe in recipes.values())
    fitting = [name for name, array in arrays.items() if fit(array, stored) is not None]
    usual = [name for name in USUAL_NAMES if name in fitting]
    return (usual or fitting)[0] if usual or len(fitting) == 1 else None


def check_dtype(array: np.ndarray, spec: InputSpec, label: str) -> None:
    """Refuse an array whose numbers, or texts, an input can't be fed."""
    fits = (
        is_text(array.dtype)
        if spec.is_text
        else is_integer_or_bool(array.dtype) or (is_float(array.dtype) and spec.is_float)
    )
    if not fits:
        raise ReapError(
            f"{label} has the wrong dtype for the model's input {spec.name!r}",
            got=describe(array.dtype, array.shape),
            expected=str(spec),
        )


def _view(array: np.ndarray, spec: InputSpec, label: str) -> np.ndarray:
    view = fit(array, spec)
    if view is None:
        raise misfit({spec.name: array}, [spec], label)
    return view


def misfit(arrays: Mapping[str, np.ndarray], inputs: Sequence[InputSpec], label: str) -> ReapError:
    """Make the refusal of arrays that don't fit inputs."""
    return ReapError(
        f"{label} doesn't fit the model's inputs",
        got=_listing(arrays) or "no arrays",
        expected=", ".join(map(str, inputs)),
    )


def _listing(arrays: Mapping[str, np.ndarray]) -> str:
    return ", ".join(
        f"{name} {describe(array.dtype, array.shape)}" for name, array in arrays.items()
    )
