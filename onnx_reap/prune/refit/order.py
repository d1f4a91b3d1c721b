"""Which layers are refitted, and in what order."""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnx_reap.graph.epilogue import Epilogue
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.order import captured_tensors
from onnx_reap.graph.labels.records import Linear


@dataclass(frozen=True)
class Zeros:
    """Weights of a layer that are zero, and remain so."""

    mask: np.ndarray  # (g, D, O) bool: true where weights stay
    # Makes a better mask, once it is known what the layer receives: of the (g, D, D) Gram matrix of
    # its inputs, its (g, D, O) weight before any was zeroed, each output scaled by how much it
    # matters, and the mask
    choose: Callable[[Any, Any, np.ndarray], np.ndarray] | None = None


@dataclass(frozen=True)
class Job:
    """One layer to refit."""

    linear: Linear  # The addition, with x the addend that stays, where a branch vanished
    # What follows it in the pruned model; `addend` is None where it could not be known in time
    epilogue: Epilogue
    # Index of the addition's input that took the branch's place; None for layers
    place: int | None = None
    # (matrix, bias): the original's weight (D, O) and bias (O,) where no tensor holds what the
    # layer gave: `epilogue.tensor` is the projection of a recurrent layer
    projection: tuple[np.ndarray, np.ndarray] | None = None
    zeros: Zeros | None = None  # Where the layer has to be zero

    @property
    def received(self) -> list[str]:
        """The tensors of the pruned model that tell what the layer gives."""
        addend = self.epilogue.addend
        return [self.linear.x, addend] if addend else [self.linear.x]

    @property
    def observed(self) -> str:
        """The tensor of the original that tells what the layer is to give."""
        return self.epilogue.tensor if self.projection is None else self.linear.x


def affected_tensors(model: Model, changed: Set[str]) -> set[str]:
    """Return all tensors that depend on the given ones, themselves included."""
    affected = set(changed)
    for node in model.nodes:
        inputs = {t.name for t in node.inputs} | set(captured_tensors([node]))
        if inputs & affected:
            affected |= {t.name for t in node.outputs if t.name}
    return affected


def waves(model: Model, jobs: Sequence[Job]) -> list[list[Job]]:
    """Group jobs into waves; a job's inputs depend on jobs of earlier waves alone.

    A shortcut that is added to a layer's output must be final as well, unless it comes later in the
    graph, in which case it is the other layer that makes up for this one.
    """
    behind = _jobs_behind(model, jobs)
    place = {job.linear.node: i for i, job in enumerate(jobs)}
    level: dict[str, int] = {}
    result: list[list[Job]] = []
    for job in jobs:
        needs = set(behind.get(job.linear.x, ()))
        epilogue = job.epilogue
        if epilogue.addend is not None:
            beside = behind.get(epilogue.addend, frozenset())
            if all(place[name] < place[job.linear.node] for name in beside):
                needs |= beside
            else:
                job = replace(job, epilogue=own_output(epilogue, job.linear))
        at = max((level[name] + 1 for name in needs), default=0)
        level[job.linear.node] = at
        while len(result) <= at:
            result.append([])
        result[at].append(job)
    return result


def own_output(epilogue: Epilogue, linear: Linear) -> Epilogue:
    """Aim at the layer's own output instead of what becomes of it."""
    return Epilogue(np.ones_like(epilogue.scale), np.zeros_like(epilogue.shift), linear.y)


def _jobs_behind(model: Model, jobs: Sequence[Job]) -> Mapping[str, frozenset[str]]:
    """For every tensor, the jobs that it depends on."""
    own = {job.linear.node for job in jobs}
    behind: dict[str, frozenset[str]] = {}
    for node in model.nodes:
        names = {t.name for t in node.inputs} | set(captured_tensors([node]))
        found: frozenset[str] = frozenset().union(
            *(behind.get(name, frozenset()) for name in names)
        )
        found |= own & {model.keys[id(node)]}
        behind.update((tensor.name, found) for tensor in node.outputs)
    return behind
