"""Which layers are refitted, and in what order."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnx_reap.graph.epilogue import Epilogue
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.order import captured_tensors
from onnx_reap.graph.ir.recurrent import Recurrence
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
    # What a recurrent layer reads; no tensor holds what its linear maps give
    recurrence: Recurrence | None = None
    zeros: Zeros | None = None  # Where the layer has to be zero

    @property
    def received(self) -> list[str]:
        """The tensors of the pruned model that tell what the layer gives, none of them its own."""
        addend = self.epilogue.addend
        own = [self.linear.x, addend] if addend else [self.linear.x]
        return own if self.recurrence is None else self.recurrence.reads

    @property
    def sampled(self) -> list[str]:
        """The tensors of the pruned model of which rows are taken."""
        return self.received if self.recurrence is None else self.recurrence.tensors

    @property
    def observed(self) -> list[str]:
        """The tensors of the original that tell what the layer is to give."""
        return [self.epilogue.tensor] if self.recurrence is None else self.recurrence.tensors


Team = tuple[Job, ...]
"""Jobs whose layers share a weight, in topological order."""

SWEEPS = 2
"""How often weights are fitted that are used in a loop; more sweeps bring little."""


def by_weight(jobs: Sequence[Job]) -> list[Team]:
    """Put jobs together whose layers share a weight; what is added in a branch's place is alone."""
    teams: dict[object, list[Job]] = {}
    for job in jobs:
        alone = job.place is not None
        teams.setdefault(job.linear.node if alone else job.linear.reading, []).append(job)
    return [tuple(team) for team in teams.values()]


def waves(model: Model, jobs: Sequence[Job]) -> list[list[Team]]:
    """Group jobs into waves; inputs of a wave's jobs depend on jobs of earlier waves alone.

    A shortcut that is added to a layer's output must be final as well, unless it comes later in the
    graph, in which case it is the other layer that makes up for this one.

    Where a weight is used in a loop, of blocks that share all their weights for instance, the input
    of a later use is never final before the weight is. There the weights of the loop are fitted one
    after the other, in the order of their first uses, and all of them `SWEEPS` times.
    """
    place = {job.linear.node: i for i, job in enumerate(jobs)}
    behind = _jobs_behind(model, jobs)
    jobs = [_with_final_addend(job, behind, place) for job in jobs]
    teams = by_weight(jobs)
    team_of = {job.linear.node: number for number, team in enumerate(teams) for job in team}
    needs = [
        {team_of[node] for job in team for name in job.received for node in behind.get(name, ())}
        for team in teams
    ]
    result: list[list[Team]] = []
    rest = list(range(len(teams)))
    while rest:
        now = [team for team in rest if needs[team].isdisjoint(rest)]
        result += [[teams[team] for team in now]] if now else []
        if not now:
            now = _loop(needs, rest)
            result += [[teams[team]] for team in now] * SWEEPS
        rest = [team for team in rest if team not in now]
    return result


def _loop(needs: Sequence[set[int]], rest: Sequence[int]) -> list[int]:
    """Find teams that need each other and, of those that are left, no others."""
    reach = {team: needs[team] & set(rest) for team in rest}
    for _ in rest:
        reach = {team: own.union(*(reach[need] for need in own)) for team, own in reach.items()}
    least = min(reach.values(), key=len)
    return [team for team in rest if team in least]


def _with_final_addend(
    job: Job, behind: Mapping[str, frozenset[str]], place: Mapping[str, int]
) -> Job:
    beside = behind.get(job.epilogue.addend or "", frozenset())
    if all(place[name] < place[job.linear.node] for name in beside):
        return job
    return replace(job, epilogue=own_output(job.epilogue, job.linear))


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
