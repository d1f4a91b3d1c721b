"""What a step of 1 is, by what a run shows of the results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_reap.onnxio.session import run, session
from onnx_reap.prune.refit.folded import spread
from onnx_reap.prune.refit.parameters import Parameters


@dataclass(frozen=True)
class StepSizes:
    """How far parameters move, by name."""

    # What a step of 1 is: the size of a weight, and for what is added that of the results
    scales: Mapping[str, np.ndarray]
    # Weights that move as matrices, and how many of these lie side by side in them
    matrices: Mapping[str, int]


def step_sizes(
    parameters: Parameters,
    inputs: Mapping[str, np.ndarray],
    together: int,
    providers: Sequence[str],
    *,
    zeros_stay: bool = False,
) -> StepSizes:
    """Find out how far parameters move.

    Parameters
    ----------
    inputs : mapping of str to array
        One batch of what the parameters' part of the model receives.
    together : int
        Batches whose gradients make a step.
    zeros_stay : bool
        Whether weights that are zero take no step.
    """
    results = list(dict.fromkeys(each.result for each in parameters.every))
    part = parameters.part({name: x.dtype for name, x in inputs.items()}, results)
    active, fed = session(part, providers), {**parameters.values, **inputs}
    taken = [value.name for value in active.get_inputs()]
    found = run(active, results, {name: fed[name] for name in taken})
    spreads = {name: spread(x) for name, x in found.items()}
    scales = parameters.steps(spreads, zeros_stay=zeros_stay)
    entries = {name: together * x.size for name, x in found.items()}
    return StepSizes(scales, _matrices(parameters, entries))


def _matrices(parameters: Parameters, entries: Mapping[str, int]) -> dict[str, int]:
    """Choose weights with no more directions than a step's gradient can tell apart.

    It is a sum over the places of the results. Where these are few, the eigenvectors would also
    take longer than the gradient itself.
    """
    of_results = [(each.matrices, entries[each.result]) for each in parameters.every]
    return {
        some.name: some.count
        for some, size in of_results
        if some is not None and 1 < some.rank <= size // some.outputs
    }
