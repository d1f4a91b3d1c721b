"""Is the cut model the masked one? Before any refit the two are the same function.

Some operators jump: ArgMax, TopK, NonMaxSuppression or a comparison turn a difference of rounding
into another result, or into another number of results. What lies behind such a jump may differ, but
then what goes into the jumps must agree, and the difference is told.

Others saturate: a Sigmoid's result near 0 is off by the rounding of numbers near 1, and near 1 it
says little of what went in. So where an output or what goes into a jump holds such results, what
these are made of is compared as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx

from onnx_reap.data.spec import is_float
from onnx_reap.errors import CheckError, ReapError
from onnx_reap.graph.labels.kept import Kept
from onnx_reap.measure.witnesses import find_jumps, find_saturated
from onnx_reap.onnxio.session import Feed, heavy, run, session, with_outputs

TOLERANCE = 2e-3  # relative to the largest entry
ROUNDING = 8 * float(np.finfo(np.float32).eps)  # of a few operations on numbers near 1
UNCHANGED = 1e-3  # of models that must agree; rounding leaves 5e-5 behind the 80 layers of a B0
EVERYWHERE: Kept = MappingProxyType({})  # all is where it was
HALF_UNCHANGED = 5e-2  # of those whose weights, added up, are rounded to 16 bits


def check_cut(
    masked: onnx.ModelProto,
    cut: onnx.ModelProto,
    feeds: Sequence[Feed],
    kept: Mapping[str, tuple[int, np.ndarray]],
    providers: Sequence[str],
) -> list[str]:
    """Compare a cut model with the original whose removed channels are zeroed in their consumers.

    Parameters
    ----------
    masked, cut : onnx.ModelProto
        With tensors of the same names, in float32: half precision rounds too much to tell.
    feeds : sequence of feeds
        What both are run on.
    kept : mapping of str to (int, array)
        For every tensor that was cut, its axis and the positions that stay.

    Returns
    -------
    list of str
        Outputs that differ behind a jump though all that goes into jumps agrees.

    Raises
    ------
    CheckError
        If an output, or what goes into a jump or an output's Sigmoid, differs by more than
        rounding.
    """
    outputs = [value.name for value in masked.graph.output]
    causes, witnesses = find_jumps(masked.graph)
    saturated, inputs = find_saturated(masked.graph, [*outputs, *witnesses])
    inner = _inner([*witnesses, *(n for n in inputs if n not in causes)], cut, outputs)
    names = [*inner, *outputs]
    wanted = _outputs(lambda: session(with_outputs(masked, names), providers), names, feeds)
    found = _outputs(lambda: check_loads(with_outputs(cut, names), providers), names, feeds)
    if heavy(masked):
        wanted, found = list(wanted), list(found)  # the weights of one at a time
    doubts: dict[str, str] = {}
    for expected, got in zip(wanted, found, strict=True):
        for name in names:
            want = expected[name]
            if name in inner and not _is_floating(want):
                continue  # numbers that count channels differ by right
            if name in inner and name in kept:
                want = np.take(want, kept[name][1], kept[name][0])
            floor = ROUNDING if name in saturated else 0.0
            problem = _difference(name, want, got[name], floor)
            if problem is not None and name not in causes:
                raise problem
            if problem is not None:
                doubts[name] = causes[name]
    return [
        f"output {name} could not be verified: {cause} turns differences of rounding into others; "
        "all that goes into such choices agrees"
        for name, cause in doubts.items()
    ]


def check_unchanged(
    original: onnx.ModelProto,
    changed: onnx.ModelProto,
    feeds: Iterable[Feed],
    providers: Sequence[str],
    *,
    half: bool,
    places: Kept = EVERYWHERE,
    also: Iterable[str] = (),
) -> tuple[float, list[str]]:
    """Compare the outputs of two models that must be the same function.

    What goes into jumps and into outputs that saturate is compared, too.

    Parameters
    ----------
    original, changed : onnx.ModelProto
        In float32.
    half : bool
        Whether weights are stored in 16 bits.
    places : mapping of str to (int, array)
        For tensors of which `changed` has less, or in another order, the axis and the positions in
        the original.
    also : iterable of str
        Further tensors to compare, of both models.

    Returns
    -------
    difference : float
        Largest difference of an output, relative to its largest entry in the original.
    notes : list of str
        Outputs that could not be compared.

    Raises
    ------
    CheckError
        If an output differs by more than rounding.
    """
    allowed = HALF_UNCHANGED if half else UNCHANGED
    outputs = [value.name for value in original.graph.output]
    causes, witnesses = find_jumps(original.graph)
    saturated, inputs = find_saturated(original.graph, [*outputs, *witnesses])
    inner = [name for name in (*also, *inputs) if name not in causes]
    names = [*_inner([*witnesses, *inner], changed, outputs), *outputs]
    sessions = [session(with_outputs(each, names), providers) for each in (original, changed)]
    largest, doubts = 0.0, dict[str, str]()
    for feed in feeds:
        expected, got = (run(active, names, feed) for active in sessions)
        for name, want in expected.items():
            if name not in outputs and not _is_floating(want):
                continue  # numbers that count channels differ by right
            if name in places:
                want = np.take(want, places[name][1], places[name][0])
            floor = ROUNDING if name in saturated else 0.0
            problem = _difference(name, want, got[name], floor)
            if name in causes:
                doubts |= {name: causes[name]} if problem is not None else {}
                continue
            error = _relative(want, got[name], floor) if problem is None else np.inf
            if error > allowed:
                kind = "output" if name in outputs else "tensor"
                raise CheckError(
                    f"{kind} {name} changed, though nothing was to be lost",
                    got=f"{error:.2g} of the largest entry",
                    expected=f"at most {allowed:g}",
                    hint="report the model's structure as a bug",
                )
            largest = max(largest, error)
    return largest, [
        f"output {name} could not be compared: {cause} turns differences of rounding into others"
        for name, cause in doubts.items()
    ]


def _is_floating(value: Any) -> bool:
    return isinstance(value, np.ndarray) and is_float(value.dtype)


def _inner(names: Iterable[str], cut: onnx.ModelProto, outputs: Sequence[str]) -> list[str]:
    """List tensors, each once, that a model still computes besides its outputs."""
    made = {name for node in cut.graph.node for name in node.output}
    return [name for name in dict.fromkeys(names) if name in made and name not in outputs]


def _relative(want: Any, got: Any, floor: float) -> float:
    """Largest difference of finite entries past a floor, relative to the largest of them."""
    if not _is_floating(want):
        return 0.0
    finite = np.isfinite(want)
    a, b = want[finite].astype(np.float64), got[finite].astype(np.float64)
    error = max(np.abs(a - b).max(initial=0.0) - floor, 0.0)
    return float(error / max(np.abs(a).max(initial=0.0), 1e-12))


def _outputs(
    load: Callable[[], Any], names: Sequence[str], feeds: Sequence[Feed]
) -> Iterable[dict[str, np.ndarray]]:
    """Load a model, and yield the outputs for each feed."""
    active = load()
    for feed in feeds:
        yield run(active, names, feed)


def check_loads(cut: onnx.ModelProto, providers: Sequence[str]) -> Any:
    """Return a session of the cut model; the original loads, so a refusal is a fault of the cut.

    Raises
    ------
    CheckError
    """
    try:
        return session(cut, providers)
    except ReapError as error:
        raise CheckError(
            "onnxruntime can't load the cut model, though it loads the original",
            got=str(error),
            hint="report the model's structure as a bug; --exclude the layers that it names",
        ) from error


def _difference(name: str, want: Any, got: Any, floor: float = 0.0) -> CheckError | None:
    """Return what is wrong with a value, None if nothing is; a floor is added to what it may be."""
    if isinstance(want, (list, tuple)) and isinstance(got, (list, tuple)):  # a sequence
        if len(want) != len(got):
            return _unequal(name, f"{len(got)} elements", f"{len(want)} elements")
        pairs = zip(want, got, strict=True)
        return next((d for a, b in pairs if (d := _difference(name, a, b)) is not None), None)
    if not isinstance(want, np.ndarray):
        return None if want == got else _unequal(name, str(got)[:80], str(want)[:80])
    if want.shape != got.shape:
        return _unequal(name, f"shape {got.shape}", f"shape {want.shape}")
    if not is_float(want.dtype):
        same = np.array_equal(want, got)
        return None if same else _unequal(name, "other integers or texts", "the same")
    finite = np.isfinite(want)
    a, b = want.astype(np.float64), got.astype(np.float64)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return _unequal(name, "NaN or infinity in other places", "in the same places")
    scale = np.abs(a[finite]).max(initial=0.0)
    bound = TOLERANCE * scale + max(floor, 1e-12)
    error = np.abs(a[finite] - b[finite]).max(initial=0.0)
    return None if error <= bound else _unequal(name, f"{error:.3g} apart", f"at most {bound:.3g}")


def _unequal(name: str, got: str, expected: str) -> CheckError:
    return CheckError(
        f"tensor {name}: the cut model is not the masked model",
        got=got,
        expected=expected,
        hint="report the model's structure as a bug; --exclude the layers before that tensor",
    )
