"""Whether two models are the same function, up to rounding.

Some operators jump: ArgMax, TopK, NonMaxSuppression or a comparison turn a difference of rounding
into another result, or into another number of results. What lies behind such a jump may differ, but
then what goes into the jumps must agree, and the difference is reported.

Others saturate: a Sigmoid's result near 0 is off by the rounding of numbers near 1, and near 1 it
says little of its input. So where an output or the input of a jump holds such results, what these
are computed from is compared as well.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from onnx_reap.data import Calibration
from onnx_reap.errors import CheckError, ReapError
from onnx_reap.graph.labels.kept import Kept
from onnx_reap.measure.noise import Difference, Noise
from onnx_reap.measure.witnesses import find_jumps, find_saturated
from onnx_reap.onnxio.dtypes import is_float
from onnx_reap.onnxio.light_model import LightModel
from onnx_reap.onnxio.session import Feed, heavy, run, session

TOLERANCE = 2e-3
"""Largest difference of the cut from the masked model, relative to a tensor's largest entry."""

UNCHANGED = 1e-3
"""The same for models that must agree; rounding leaves 5e-5 behind the 80 layers of a B0."""

ROUNDING = 8 * float(np.finfo(np.float32).eps)
"""Absolute difference that a few operations on numbers near 1 leave."""

LEAST = 1e-12
"""Absolute difference that is always allowed."""

SCALES = (1.0, 0.01, 100.0)
"""Factors on random inputs, so that activations are compared on both sides of where they bend."""

UNCUT: Kept = MappingProxyType({})
"""Positions of tensors that are whole and in the same order in both models."""


@dataclass(frozen=True)
class EqualityCheck:
    """That two models agree: how closely, and what to say if they don't or if it can't be told."""

    tolerance: float
    refusal: str
    hint: str
    doubt: str


CUT = EqualityCheck(
    TOLERANCE,
    "tensor {name}: the cut model is not the masked model",
    "report the model's structure as a bug; --exclude the layers before that tensor",
    "output {name} could not be verified: {cause} turns differences of rounding into others; "
    "all that goes into such choices agrees",
)
SAME = EqualityCheck(
    UNCHANGED,
    "{kind} {name} changed, though nothing was to be lost",
    "report the model's structure as a bug",
    "output {name} could not be compared: {cause} turns differences of rounding into others",
)
SAME_IN_HALF = EqualityCheck(TOLERANCE, SAME.refusal, SAME.hint, SAME.doubt)


def compare(
    original: LightModel,
    changed: LightModel,
    feeds: Iterable[Feed],
    providers: Sequence[str],
    claim: EqualityCheck,
    *,
    places: Mapping[str, tuple[int, np.ndarray] | None] = UNCUT,
    also: Iterable[str] = (),
) -> tuple[float, list[str]]:
    """Compare two models that must be the same function.

    Outputs are compared, and what goes into jumps and into activations that saturate.

    Parameters
    ----------
    places : mapping of str to (int, array) or None
        For inner tensors of which `changed` has less, or in another order, the axis and the
        positions in the original; None for those that can't be compared.
    also : iterable of str
        Further tensors to compare, of both models.

    Returns
    -------
    difference : float
        Largest difference, relative to the largest entry of the tensor.
    doubts : list of str
        A note for each output that differs behind a jump though all that goes into jumps agrees.
    """
    feeds = list(feeds)
    outputs = [value.name for value in original.graph.output]
    causes, witnesses = find_jumps(original.graph)
    saturated, inputs = find_saturated(original.graph, [*outputs, *witnesses])
    smooth = [name for name in (*also, *inputs) if name not in causes]
    names = [*_inner([*witnesses, *smooth], changed, outputs), *outputs]
    wanted = _results(lambda: session(original, providers, outputs=names), feeds)
    found = _results(lambda: check_loads(changed, providers, names), feeds)
    if heavy(original):
        wanted, found = list(wanted), list(found)  # the weights of one at a time
    largest, doubts = 0.0, dict[str, str]()
    told, noise = False, Noise(original, providers, names)
    for feed, expected, seen in zip(feeds, wanted, found, strict=True):
        for name in (places.keys() & expected.keys()) - set(outputs):
            if (place := places[name]) is None:
                del expected[name]
            else:
                expected[name] = np.take(expected[name], place[1], place[0])
        # Integers of inner tensors count channels, which differ by right.
        compared = [n for n, want in expected.items() if n in outputs or _is_floating(want)]
        if not all(_tells(expected[name], seen[name]) for name in compared):
            continue
        told |= claim is CUT or any(_is_told(expected[name]) for name in outputs)
        refusals, differences = dict[str, CheckError](), dict[str, Difference]()
        for name in compared:
            want, got, floor = expected[name], seen[name], ROUNDING if name in saturated else 0.0
            if name not in causes:
                kind = "output" if name in outputs else "tensor"
                try:
                    _check(name, want, got, floor, claim, kind)
                except CheckError as error:
                    if not _is_floating(want) or want.shape != got.shape:
                        raise
                    place = None if name in outputs else places.get(name)
                    refusals[name] = error
                    differences[name] = _where(place, _error_and_scale(want, got)[0])
                    doubts[name] = f"{kind} {name} could not be compared: it is mere rounding"
                    continue
                largest = max(largest, _relative(want, got, floor))
            elif _difference(want, got, TOLERANCE, floor) is not None:
                doubts[name] = claim.doubt.format(name=name, cause=causes[name])
        explained = noise.explains(feed, differences)
        for refusal in (error for name, error in refusals.items() if name not in explained):
            raise refusal
    if not told:
        raise CheckError(
            "the models can't be compared: the original gives NaN or infinity on all samples",
            got=f"{len(feeds)} batches of samples, random ones among them",
            expected="finite outputs on one of them",
            hint="--data whose values the model takes",
        )
    return largest, list(doubts.values())


def _where(place: tuple[int, np.ndarray] | None, error: float) -> Difference:
    return Difference(error, lambda x: x if place is None else np.take(x, place[1], place[0]))


def _is_told(want: Any) -> bool:
    """Whether a result is not all NaN and infinity."""
    return not _is_floating(want) or want.size == 0 or bool(np.isfinite(want).any())


def _tells(want: Any, got: Any) -> bool:
    """Whether a result can be compared: not if it overflows, unless in the same places.

    Near the largest numbers that there are another order of sums makes infinities of its own.
    """
    if not (_is_floating(want) and _is_floating(got) and want.shape == got.shape):
        return True
    finite = np.isfinite(want)
    same = np.array_equal(finite, np.isfinite(got))
    return bool(finite.all()) or (same and _difference(want, got, 0.0, math.inf) is None)


def _check(name: str, want: Any, got: Any, floor: float, claim: EqualityCheck, kind: str) -> None:
    """Raise CheckError if a tensor differs by more than is claimed."""
    difference = _difference(want, got, claim.tolerance, floor)
    if difference is not None:
        refusal = claim.refusal.format(kind=kind, name=name)
        raise CheckError(refusal, got=difference[0], expected=difference[1], hint=claim.hint)


def comparison_feeds(samples: Calibration, fixed_batch: int | None, seed: int) -> Iterator[Feed]:
    """Yield a batch of samples, and random feeds at several scales; integers are the samples'."""
    feed = next(iter(samples.batches(fixed_batch or 2, pad=True)))
    rng = np.random.default_rng(seed)
    yield feed
    for scale in SCALES:
        yield {
            # An array also where it is a scalar, which NumPy would make a number.
            name: np.asarray(scale * rng.standard_normal(x.shape), x.dtype)
            if is_float(x.dtype)
            else x
            for name, x in feed.items()
        }


def check_loads(
    changed: LightModel, providers: Sequence[str], outputs: Iterable[str] | None = None
) -> Any:
    """Return a session of the cut model; the original loads, so a refusal is a fault of the cut.

    Raises
    ------
    CheckError
    """
    try:
        return session(changed, providers, outputs=outputs)
    except ReapError as error:
        raise CheckError(
            "onnxruntime can't load the cut model, though it loads the original",
            got=str(error),
            hint="report the model's structure as a bug; --exclude the layers that it names",
        ) from error


def _inner(names: Iterable[str], changed: LightModel, outputs: Sequence[str]) -> list[str]:
    """List tensors, each once, that a model still computes besides its outputs."""
    made = {name for node in changed.graph.node for name in node.output}
    return [name for name in dict.fromkeys(names) if name in made and name not in outputs]


def _results(load: Callable[[], Any], feeds: Sequence[Feed]) -> Iterable[dict[str, Any]]:
    """Load a model when it is first needed, and yield its outputs for each feed."""
    active = load()
    for feed in feeds:
        yield run(active, None, feed)


def _is_floating(value: Any) -> bool:
    return isinstance(value, np.ndarray) and is_float(value.dtype)


def _relative(want: Any, got: Any, floor: float) -> float:
    """Largest difference of finite entries past a floor, relative to the largest of them."""
    if not _is_floating(want):
        return 0.0
    error, scale = _error_and_scale(want, got)
    return float(max(error - floor, 0.0) / max(scale, LEAST))


def _error_and_scale(want: np.ndarray, got: np.ndarray) -> tuple[float, float]:
    """Return the largest difference of entries that are finite, and the largest of these."""
    finite = np.isfinite(want)
    a, b = want[finite].astype(np.float64), got[finite].astype(np.float64)
    return np.abs(a - b).max(initial=0.0), np.abs(a).max(initial=0.0)


def _difference(want: Any, got: Any, tolerance: float, floor: float) -> tuple[str, str] | None:
    """Return what was got and expected where two values differ; None where they don't.

    They may by `tolerance`, relative to the largest entry, and by `floor`, which is absolute.
    """
    if isinstance(want, (list, tuple)) and isinstance(got, (list, tuple)):  # a sequence
        if len(want) != len(got):
            return f"{len(got)} elements", f"{len(want)} elements"
        pairs = zip(want, got, strict=True)
        found = (_difference(a, b, tolerance, floor) for a, b in pairs)
        return next((each for each in found if each is not None), None)
    if not isinstance(want, np.ndarray):
        return None if want == got else (str(got)[:80], str(want)[:80])
    if want.shape != got.shape:
        return f"shape {got.shape}", f"shape {want.shape}"
    if not is_float(want.dtype):
        return None if np.array_equal(want, got) else ("other integers or texts", "the same")
    finite = np.isfinite(want)
    a, b = (x[~finite].astype(np.float64) for x in (want, got))
    if not np.array_equal(a, b, equal_nan=True):
        return "NaN or infinity in other places", "in the same places"
    error, scale = _error_and_scale(want, got)
    bound = tolerance * scale + max(floor, LEAST)
    return None if error <= bound else (f"{error:.3g} apart", f"at most {bound:.3g}")
