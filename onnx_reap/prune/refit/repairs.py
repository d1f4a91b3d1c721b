"""All repairs of a cut model, in their order: layer by layer, block by block, all at once."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np

from onnx_reap.errors import CheckError
from onnx_reap.graph.edit.weights import remember
from onnx_reap.graph.ir.model import Model
from onnx_reap.measure.paired import Pair, compare
from onnx_reap.measure.quality import measure_quality
from onnx_reap.onnxio.light_model import LightModel
from onnx_reap.prune.context import Run
from onnx_reap.prune.refit.block_walk import BlockFit
from onnx_reap.prune.refit.blockwise import refit_jointly
from onnx_reap.prune.refit.layer import LayerRefit
from onnx_reap.prune.refit.layerwise import repair
from onnx_reap.prune.refit.model_pair import obstacle
from onnx_reap.prune.refit.networkwise import NetworkFit, tune_network
from onnx_reap.prune.refit.order import Zeros

SAMPLES_ENOUGH = 600  # to fit: with so many, copies bring little to least squares
MOST_COPIES = 3  # of a sample

NO_TIME = (
    "no time was left to refit layers together: a longer --time-limit, or --joint-refit 10 and "
    "--tune 20, may bring more"
)
NO_TIME_TO_TUNE = (
    "no time was left to tune the whole network: a longer --time-limit, or --tune 20, may bring "
    "more"
)


@dataclass(frozen=True)
class Repairs:
    """What repairs came to; nothing by default."""

    layers: dict[str, LayerRefit]  # By node
    blocks: tuple[BlockFit, ...] = ()  # Blocks whose layers were refitted together
    network: NetworkFit | None = None  # All layers, where they were tuned together
    notes: tuple[str, ...] = ()  # Warnings


def repair_all(run: Run, pruned: Model, removed: Sequence[int], *, by_gradient: bool) -> Repairs:
    """Repair a cut model in place, as the settings want it.

    Parameters
    ----------
    removed : sequence of int
        Units.
    by_gradient : bool
        Whether to go on behind the refit of single layers.
    """
    if not run.settings.refit or run.samples.fit is None or not removed:
        return Repairs({}, notes=tuple(_idle(run)))
    if not by_gradient or not _goes_on(run, pruned):
        with run.clock("refit"):
            layers, notes = repair(run, pruned, removed)
        return Repairs(layers, notes=(*notes, *_unheard(run, pruned)))
    undo = remember(pruned)
    with run.clock("refit"):
        layers, notes, copies = refit_layers(run, pruned, removed)
    with run.clock("joint refit"):
        blocks, undone = refit_blocks(run, pruned, removed, copies)
    with run.clock("tuning"):
        network, left_out = tune(run, pruned, removed)
    if not any(block.error_after < block.error_before for block in blocks) and network is None:
        with run.clock("refit"):  # now the validation split has nothing more to say
            undo()
            layers, notes = repair(run, pruned, removed, copies=copies)
    remarks = (*notes, *undone, *left_out, *_no_copies(run))
    return Repairs(layers, tuple(blocks), network, remarks)


def _goes_on(run: Run, pruned: Model) -> bool:
    """Whether layers will be refitted together, by gradient."""
    passes = run.settings.joint_refit, run.settings.tune
    wanted = any(passes) or (None in passes and run.clock.left > 0)
    return wanted and obstacle(run, pruned) is None


def _unheard(run: Run, pruned: Model) -> Iterator[str]:
    """Say why layers are not refitted by gradient, unless that is what the settings want."""
    settings, why = run.settings, obstacle(run, pruned)
    if why is None:
        if None in (settings.joint_refit, settings.tune) and run.clock.left <= 0:
            yield NO_TIME
        return
    for flag, asked in (("--joint-refit", settings.joint_refit), ("--tune", settings.tune)):
        if asked:
            yield f"{flag} changed nothing: {why}"


def _idle(run: Run) -> Iterator[str]:
    """Name what was asked for and had nothing to do; zeros are repaired later."""
    settings = run.settings
    if settings.joint_refit:
        yield "--joint-refit changed nothing: no channel was removed"
    if settings.tune and not settings.zeroes:
        yield "--tune changed nothing: no channel was removed"


def _no_copies(run: Run) -> Iterator[str]:
    """Tell that copies were asked for of which no input is capable."""
    kind = run.settings.augment
    if kind in ("image", "signal") and run.samples.augment is None:
        yield f"--augment {kind} changed nothing: no input has the shape of {kind}s"


def refit_layers(
    run: Run, pruned: Model, removed: Sequence[int]
) -> tuple[dict[str, LayerRefit], list[str], int]:
    """Refit layers one by one, on copies of the samples as well where these are few and it helps.

    The validation split tells, and is not fitted.

    Returns
    -------
    layers : dict of str to LayerRefit
    notes : list of str
    copies : int
        Of every sample that were fitted as well.
    """
    undo, copies, begin = remember(pruned), _copies(run), perf_counter()
    layers, notes = repair(run, pruned, removed, on_all=False)
    longer = (1 + copies) * (perf_counter() - begin)
    if not copies or longer > run.clock.left:
        return layers, notes, 0
    plain, redo = pruned.to_run(), remember(pruned)
    undo()
    with_copies = repair(run, pruned, removed, copies=copies, on_all=False)
    pair = _compared(run, plain, pruned.to_run())
    if pair is not None and pair.is_gain:
        return *with_copies, copies
    redo()
    return layers, notes, 0


def _copies(run: Run) -> int:
    """Return how many copies of every sample are worth a try."""
    parts = run.samples.train_validation
    if parts is None or run.samples.augment is None:
        return 0
    return min(SAMPLES_ENOUGH // len(parts[0]), MOST_COPIES)


def refit_blocks(
    run: Run, pruned: Model, removed: Sequence[int], copies: int
) -> tuple[list[BlockFit], list[str]]:
    """Refit blocks together; undo it if on validation samples the outputs don't come nearer.

    A block may come nearer in directions that don't matter to the outputs.
    """
    undo, written = remember(pruned), _rounded(pruned)
    blocks, notes = refit_jointly(run, pruned, removed, copies=copies)
    if not any(block.error_after < block.error_before for block in blocks):
        return blocks, notes
    pair = _compared(run, written, _rounded(pruned))
    if pair is not None and pair.is_gain:
        return blocks, notes
    undo()
    return [], [*notes, f"blocks were not refitted together: on the validation split {_told(pair)}"]


def _told(pair: Pair | None) -> str:
    if pair is None:
        return "the outputs were not finite"
    errors = f"the outputs' error went from {pair.before:.2g} to {pair.after:.2g}"
    if pair.after >= pair.before:
        return errors
    if not math.isfinite(pair.noise):
        return f"{errors}, and there are too few samples to tell"
    return f"{errors}, which is within its noise, and on most samples it did not fall"


def tune(
    run: Run, pruned: Model, removed: Sequence[int], *, zeros_stay: bool = False
) -> tuple[NetworkFit | None, list[str]]:
    """Tune all layers together, in the time that is left.

    Parameters
    ----------
    zeros_stay : bool
        Whether weights that are zero remain so.
    """
    settings = run.settings
    if settings.tune == 0:
        return None, []
    seconds = min(run.clock.left, settings.tune_time or math.inf)
    if settings.zeroes and not zeros_stay:
        seconds /= 2  # it comes once more, behind the zeros
    if settings.tune is None and seconds <= 0:
        return None, [NO_TIME_TO_TUNE]
    undo, before, written = remember(pruned), pruned.to_run(), _rounded(pruned)
    found, notes = tune_network(run, pruned, removed, seconds=seconds, zeros_stay=zeros_stay)
    if found is None:
        return None, notes
    pair = _compared(run, written, _rounded(pruned))
    if pair is None or not pair.is_gain:
        undo()
        return None, [*notes, f"the network was not tuned: on the validation split {_told(pair)}"]
    return replace(found, moved=_distance(run, before, pruned.to_run())), notes


def repair_with_zeros(run: Run, sparse: Model, zeros: Mapping[str, Zeros]) -> Repairs:
    """Repair a model in place whose layers have zeros, which stay.

    Parameters
    ----------
    zeros : mapping of str to Zeros
        By node of the layer.
    """
    passes = run.settings.tune
    undo, tunes = remember(sparse), bool(passes) or (passes is None and run.clock.left > 0)
    layers, notes = repair(run, sparse, (), zeros=zeros, on_all=not tunes)
    network, left_out = tune(run, sparse, (), zeros_stay=True)
    if tunes and network is None:
        undo()
        layers, notes = repair(run, sparse, (), zeros=zeros)
    return Repairs(layers, network=network, notes=(*notes, *left_out))


def _compared(run: Run, before: LightModel, after: LightModel) -> Pair | None:
    """Compare two models on the validation split; None if an output is not finite."""
    parts = run.samples.train_validation
    assert parts is not None
    try:
        return compare(run.analysis, run.analysis.model.to_run(), before, after, parts[1])
    except CheckError:
        return None


def _rounded(pruned: Model) -> LightModel:
    """Write a model to run it, constants rounded to integers where the file has these."""
    return pruned.to_file() if pruned.stored else pruned.to_run()


def _distance(run: Run, wanted: LightModel, found: LightModel) -> float:
    """Mean error of the outputs on validation samples; infinite where they aren't finite.

    Both models run in float32, which tells more.
    """
    parts = run.samples.train_validation
    assert parts is not None
    try:
        errors = measure_quality(run.analysis, wanted, found, parts[1]).output_error
    except CheckError:
        return math.inf
    return float(np.mean(list(errors.values()))) if errors else 0.0
