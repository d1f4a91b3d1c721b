"""Whether what a model gives is more than rounding.

The mean of what a normalisation centred is 0 but for rounding, and the order of sums decides what
is left. A model tells so by itself: changing its input by a rounding changes such results by as
much as there is of them.
"""

from collections.abc import Callable, Sequence

import numpy as np

from onnx_reap.onnxio.dtypes import is_float
from onnx_reap.onnxio.light_model import LightModel
from onnx_reap.onnxio.session import Feed, run, session

STEP = 4 * float(np.finfo(np.float32).eps)
"""Relative change of the inputs."""

TRIES = 3
AMPLIFIED = 10
"""How much larger a difference may be than what changes of the inputs make."""


def is_rounding(
    model: LightModel,
    providers: Sequence[str],
    feed: Feed,
    name: str,
    error: float,
    part: Callable[[np.ndarray], np.ndarray],
) -> bool:
    """Whether a difference is no larger than what roundings of the inputs change a tensor by.

    Parameters
    ----------
    error : float
        The difference, absolute.
    part : callable
        Takes the tensor's values; returns those that are compared.
    """
    active = session(model, providers, outputs=[name])
    rng = np.random.default_rng(0)
    values = [part(run(active, [name], feed)[name])]
    for _ in range(TRIES):
        moved = {
            key: (x * (1 + STEP * rng.uniform(-1, 1, x.shape))).astype(x.dtype)
            if is_float(x.dtype)
            else x
            for key, x in feed.items()
        }
        values.append(part(run(active, [name], moved)[name]))
    if any(each.shape != values[0].shape for each in values):
        return False
    changes = [np.abs(each - values[0])[np.isfinite(each - values[0])] for each in values[1:]]
    return error <= AMPLIFIED * float(max(each.max(initial=0.0) for each in changes))
