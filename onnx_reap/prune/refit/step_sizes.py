"""What a step of 1 is, by what a run shows of the results."""

from collections.abc import Mapping, Sequence

import numpy as np

from onnx_reap.onnxio.session import run, session
from onnx_reap.prune.refit.folded import spread
from onnx_reap.prune.refit.parameters import Parameters


def step_sizes(
    parameters: Parameters,
    inputs: Mapping[str, np.ndarray],
    providers: Sequence[str],
    *,
    zeros_stay: bool = False,
) -> dict[str, np.ndarray]:
    """Return the size of a weight, and for what is added that of the results, by parameter.

    Parameters
    ----------
    inputs : mapping of str to array
        One batch of what the parameters' part of the model receives.
    zeros_stay : bool
        Whether weights that are zero take no step.
    """
    results = list(dict.fromkeys(each.result for each in parameters.every))
    part = parameters.part({name: x.dtype for name, x in inputs.items()}, results)
    active, fed = session(part, providers), {**parameters.values, **inputs}
    taken = [value.name for value in active.get_inputs()]
    found = run(active, results, {name: fed[name] for name in taken})
    sizes = {name: spread(x) for name, x in found.items()}
    return parameters.steps(sizes, zeros_stay=zeros_stay)
