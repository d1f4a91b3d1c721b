"""The first look at a model: inputs, one run, channel groups and costs."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from onnx_reap.data import Calibration, InputSpec
from onnx_reap.errors import MissingKernelError, ReapError
from onnx_reap.graph.batches import Probed, probe_samples
from onnx_reap.graph.bodies import (
    Bodies,
    count_params_in_bodies,
    find_in_bodies,
    without_count,
)
from onnx_reap.graph.branches import Branches, find_branches
from onnx_reap.graph.conditions import find_known
from onnx_reap.graph.cost import count_macs, count_params
from onnx_reap.graph.groups import FrozenChannels, Group, find_frozen, find_groups
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.probe import Probe, fold_constants
from onnx_reap.graph.labels.flow import flow
from onnx_reap.graph.labels.records import Flow
from onnx_reap.onnxio.check import standard_problem
from onnx_reap.onnxio.dtypes import is_float
from onnx_reap.onnxio.float32 import in_float32
from onnx_reap.onnxio.light_model import LightModel
from onnx_reap.onnxio.providers import Providers, execution_providers
from onnx_reap.onnxio.session import Feed, run, session
from onnx_reap.solve.cost import Cost, Term


@dataclass(frozen=True)
class Analysis:
    """What is known of a model before any choice."""

    light: LightModel  # The model as given
    model: Model  # Its graph with constants folded; not to be edited, see `copy`
    probe: Probe
    flow: Flow
    groups: tuple[Group, ...]
    branches: Branches  # Those that vanish with all of a group
    frozen: tuple[FrozenChannels, ...]
    bodies: Bodies  # Of If, Loop and Scan, and what else a run has to count
    macs: Cost
    params: Cost
    providers: Providers
    samples: Calibration  # As the model takes them: rows of batches, or whole feeds
    fixed_batch: int | None  # The batch that the model insists on; 1 where samples are whole feeds
    runs_as_given: bool  # Whether onnxruntime runs the model with the types and operators it has

    @property
    def full_widths(self) -> npt.NDArray[np.int64]:
        """Units of every group, (groups,)."""
        return np.array([group.width for group in self.groups], np.int64)

    @property
    def varying(self) -> frozenset[str]:
        """Tensors whose inner sizes, past the first two axes, differ from one run to another."""
        sizes = self.probe.dynamic if self.samples.alone else {}
        return frozenset(name for name, axes in sizes.items() if max(axes, default=0) > 1)

    @cached_property
    def input_values(self) -> dict[str, Any]:
        """What inputs hold in all samples alike, where branches may follow from it."""
        return self.samples.same_values() if self.model.taken else {}

    def runnable(self, model: LightModel) -> LightModel:
        """Return what to run and compare of a model of the same operators.

        Itself, or a copy in float32 and with bodies for operators that onnxruntime lacks.
        """
        if self.runs_as_given:
            return model
        if self.model.expanded:
            model = self.model.anew(model).to_light()
        return in_float32(model, self.model.types)

    def copy(self) -> Model:
        """Return a graph of its own to edit, with the same node keys."""
        fresh = self.model.anew(self.light)
        fold_constants(fresh, self.providers)
        return fresh


def macs_left(analysis: Analysis, pruned: Model, widths: np.ndarray) -> int:
    """Count the multiply-accumulates of a cut model per sample, by the weights that it has.

    Parameters
    ----------
    pruned : Model
        Made by `analysis.copy` and cut.
    widths : (groups,) int array
        Units that stay; products that are no layers are counted by these, bodies as they are.
    """
    shapes, total = analysis.probe.shapes, 0.0
    nodes = {pruned.keys[id(node)]: node for node in pruned.nodes}
    for linear in (each for each in analysis.flow.linears if each.node in nodes):
        side, axis = (linear.x, linear.x_axis) if linear.transposed else (linear.y, linear.y_axis)
        places = np.prod(shapes[side]) / shapes[side][axis] / analysis.probe.batch
        total += places * np.prod(nodes[linear.node].inputs[1].shape)
    others = replace(analysis.flow, linears=())
    products = count_macs(
        analysis.model,
        analysis.probe,
        others,
        analysis.groups,
        analysis.branches,
        analysis.bodies.totals,
    )
    counted = Cost([Term(float(total), ())], len(analysis.groups))
    return (products + counted).at(widths)  # rounded once: a layer may take part of a MAC a sample


def count_parameters(light: LightModel) -> int:
    """Count the elements of a model's floating-point constants, as `Analysis.params` does."""
    model = Model(light)
    constants = [c for n, c in model.constants().items() if n not in model.written_once()]
    own = sum(int(np.prod(c.shape)) for c in constants if is_float(c.dtype))
    return own + count_params_in_bodies(model)


def analyse(
    given: LightModel | onnx.ModelProto,
    inputs: Sequence[InputSpec],
    samples: Calibration,
    providers: Providers | None = None,
    reason_to_keep: Callable[[str], str | None] = lambda key: None,
    *,
    bases: Collection[str] = (),
) -> Analysis:
    """Run a model on a few samples and find its channel groups.

    Parameters
    ----------
    inputs : sequence of InputSpec
        See `onnx_reap.graph.inputs.model_inputs`.
    reason_to_keep : callable, optional
        Takes a node's key; returns why the channels that it makes must stay, or None.
    bases : collection of str
        Nodes that make channels between the two that a layer was written as: whatever the user
        excludes, these may go, though not all of them.
    """
    providers = execution_providers(None) if providers is None else providers
    light = LightModel.of(given)
    model, (probed, fixed, samples), left = _first_run(light, inputs, samples, providers)
    found = flow(model, probed, lambda key: None if key in bases else reason_to_keep(key))
    groups = find_groups(found)
    branches = find_branches(model, probed, found, groups, bases)
    feed = _feed(samples, fixed or 2)
    uncounted = without_count(model, found)
    bodies = find_in_bodies(model, feed, probed.batch, providers, uncounted, left)
    return Analysis(
        light,
        model,
        probed,
        found,
        groups,
        branches,
        find_frozen(found) + bodies.frozen,
        bodies,
        count_macs(model, probed, found, groups, branches, bodies.totals),
        count_params(model, found, groups, branches),
        providers,
        samples,
        fixed,
        not (model.types or model.expanded) or _runs(light, _feed(samples, fixed or 1), providers),
    )


def _first_run(
    light: LightModel, inputs: Sequence[InputSpec], samples: Calibration, providers: Providers
) -> tuple[Model, Probed, dict[str, str]]:
    """Read and run a model.

    Operators that onnxruntime doesn't implement stand as their bodies, branches that all samples
    take in front of their If, and trips that all samples make in the place of their loop.

    Returns
    -------
    model : Model
    probed : Probed
    left : dict of str to str
        Why the bodies of other nodes are left as they are, by the node's path, see `Taken`.
    """
    expanded: frozenset[str] = frozenset()
    known: dict[str, bool | int | str] = {}
    while True:
        taken = {name: found for name, found in known.items() if not isinstance(found, str)}
        model = Model(light, expanded, taken)
        try:
            fold_constants(model, providers)
            found = probe_samples(model, inputs, samples, providers)
        except MissingKernelError as error:
            if error.operator in expanded:
                raise
            expanded |= {error.operator}
            continue
        known |= (more := find_known(model, found, providers, known))
        left = {name: why for name, why in known.items() if isinstance(why, str)}
        if more.keys() <= left.keys():
            return model, found, left


def _runs(model: LightModel, feed: Feed, providers: Sequence[str]) -> bool:
    """Whether onnxruntime runs a model as it is; refuse it if nobody takes it."""
    try:
        run(session(model, providers), None, feed)
    except MissingKernelError:
        return False
    except ReapError:
        if (problem := standard_problem(model)) is None:
            return False
        raise ReapError(
            "neither onnxruntime nor onnx.checker takes the model as it is",
            got=problem,
            expected="a valid ONNX model",
        ) from None
    return True


def _feed(samples: Calibration, batch: int) -> dict[str, np.ndarray]:
    return next(iter(samples.batches(batch, pad=True)))
