"""Other forms of a model, the same function: layers as two, streams in other bases."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_reap.errors import CheckError
from onnx_reap.graph.analysis import Analysis
from onnx_reap.graph.ir.model import Model
from onnx_reap.measure.compare import SAME, compare, comparison_feeds
from onnx_reap.measure.passing import keep_passing
from onnx_reap.prune.context import Run
from onnx_reap.prune.low_rank.bases import gaining_ranks
from onnx_reap.prune.low_rank.factor import Factor, insert
from onnx_reap.prune.low_rank.stream import Basis, Stream
from onnx_reap.prune.low_rank.streams import in_other_bases
from onnx_reap.prune.low_rank.timing import faster_ranks


@dataclass(frozen=True)
class Rewritten:
    """A model with layers written as two, and streams in other bases."""

    analysis: Analysis  # Costs are those of both factors even at full rank; `priced` corrects that
    by_group: Mapping[int, Basis]  # By group of coordinates

    @property
    def factors(self) -> dict[int, Factor]:
        """Layers that are two."""
        return {i: basis for i, basis in self.by_group.items() if isinstance(basis, Factor)}

    @property
    def streams(self) -> dict[int, Stream]:
        """Streams in other bases."""
        return {i: basis for i, basis in self.by_group.items() if isinstance(basis, Stream)}


def rewritten(run: Run, bases: Sequence[Basis]) -> Rewritten:
    """Write the given model in another form, and analyse that."""
    changed = run.analysis
    keys: dict[str, Basis] = {}
    if factors := [basis for basis in bases if isinstance(basis, Factor)]:
        model = changed.copy()
        keys = {insert(model, factor): factor for factor in factors}
        changed = _analysed(run, model, keys)
    streams = {basis.node: basis for basis in bases if isinstance(basis, Stream)}
    if streams:
        changed = _analysed(run, in_other_bases(changed, streams.values()), keys)
    by_name = keys | streams
    by_group = {
        index: by_name[group.name]
        for index, group in enumerate(changed.groups)
        if group.name in by_name and group.width == by_name[group.name].rank
    }
    return Rewritten(changed, by_group)


def _analysed(run: Run, model: Model, keys: Collection[str]) -> Analysis:
    light = model.to_light()
    added = len(light.graph.node) - len(model.nodes)  # constants of old formats, which come first
    for node, written in zip(model.nodes, light.graph.node[added:], strict=True):
        written.name = model.keys[id(node)]  # nodes without a name are called by their place
    return run.analysed(light, keys)


def sound_ones(run: Run, bases: Sequence[Basis]) -> Rewritten:
    """Leave out layers and streams that give something else then, all if they do so together."""
    _, _, form = keep_passing(bases, lambda some: check_same(run, some))
    return form or check_same(run, [])


def check_same(run: Run, bases: Sequence[Basis]) -> Rewritten:
    """Compare the given model, and its layers, with another form, and return that.

    Raises
    ------
    CheckError
        If an output, one of the layers that are two, or one that reads a stream gives something
        else.
    """
    form = rewritten(run, bases)
    changed, there = form.analysis, set(map(id, form.by_group.values()))
    if missing := [basis.node for basis in bases if id(basis) not in there]:
        raise CheckError("another form of the model: groups are missing", got=", ".join(missing))
    if bases:
        flow, names = run.analysis.flow, {b.node for b in bases if isinstance(b, Stream)}
        units = {unit for g in run.analysis.groups if g.name in names for unit in g.units}
        moved = flow.holders(units)
        seen = [basis.linear.y for basis in bases if isinstance(basis, Factor)]
        seen += [linear.y for linear in flow.linears if linear.x in moved]
        compare(
            run.analysis.model.to_run(),
            changed.model.to_run(),
            comparison_feeds(run.samples.every, run.analysis.fixed_batch, run.settings.seed),
            changed.providers,
            SAME,
            also=[tensor for tensor in dict.fromkeys(seen) if tensor not in moved],
        )
    return form


def fast_ranks(run: Run, factors: Sequence[Factor]) -> dict[str, np.ndarray]:
    """Return the ranks of every layer that are clearly faster, timed here; none of some layers."""
    form = rewritten(run, factors)
    changed, groups = form.analysis, form.factors
    linears = {linear.node: linear for linear in changed.flow.linears}
    ranks = {
        f.node: gaining_ranks(run.analysis, f.linear, f.scheme, run.settings)
        for f in groups.values()
    }
    layers = [
        (f.linear, linears[changed.groups[index].name], linears[f.node], ranks[f.node])
        for index, f in groups.items()
    ]
    with run.clock("time ranks"):
        faster = faster_ranks(run.analysis, changed, layers, run.progress)
    return {f.node: r for f, r in zip(groups.values(), faster, strict=True) if len(r)}
