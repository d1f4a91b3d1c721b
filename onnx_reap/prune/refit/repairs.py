"""All repairs of a cut model, in their order: layer by layer, block by block, all at once."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

from onnx_reap.graph.edit.weights import remember
from onnx_reap.graph.ir.model import Model
from onnx_reap.prune.context import Run
from onnx_reap.prune.refit.block_walk import BlockFit
from onnx_reap.prune.refit.blockwise import refit_jointly
from onnx_reap.prune.refit.layer import LayerRefit
from onnx_reap.prune.refit.layerwise import repair
from onnx_reap.prune.refit.model_pair import obstacle
from onnx_reap.prune.refit.networkwise import NetworkFit, tune_network
from onnx_reap.prune.refit.order import Zeros
from onnx_reap.prune.refit.trial import attempt, distance

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
    if not by_gradient or not _goes_on(run, pruned, _passes(run)):
        with run.clock("refit"):
            layers, notes = repair(run, pruned, removed)
        return Repairs(layers, notes=(*notes, *_unheard(run, pruned)))
    undo = remember(pruned)
    begin = perf_counter()
    with run.clock("refit"):
        layers, notes, copies = refit_layers(run, pruned, removed)
    seconds = perf_counter() - begin
    with run.clock("joint refit"):
        blocks, undone = refit_blocks(run, pruned, removed, copies)
    with run.clock("tuning"):
        network, left_out = tune(run, pruned, removed)
    if not _any_nearer(blocks) and network is None and _is_time(run, _passes(run), seconds):
        with run.clock("refit"):  # now the validation split has nothing more to say
            undo()
            layers, notes = repair(run, pruned, removed, copies=copies)
    remarks = (*notes, *undone, *left_out, *_no_copies(run))
    return Repairs(layers, tuple(blocks), network, remarks)


def _passes(run: Run) -> tuple[int | None, int | None]:
    """Return the passes of both repairs by gradient; None are as many as time allows."""
    return run.settings.joint_refit, run.settings.tune


def _is_time(run: Run, passes: Sequence[int | None], seconds: float) -> bool:
    """Whether so many are left, or passes make the same file however long it takes."""
    return None not in passes or seconds <= run.clock.left


def _goes_on(run: Run, pruned: Model, passes: Sequence[int | None]) -> bool:
    """Whether layers will be refitted together, by gradient."""
    wanted = any(passes) or (None in passes and run.clock.left > 0)
    return wanted and obstacle(run, pruned) is None


def _unheard(run: Run, pruned: Model) -> Iterator[str]:
    """Say why layers are not refitted by gradient, unless that is what the settings want."""
    settings, why = run.settings, obstacle(run, pruned)
    if settings.augment in ("image", "signal"):
        yield f"--augment {settings.augment} changed nothing: layers were refitted one by one only"
    if why is None:
        if None in _passes(run) and run.clock.left <= 0:
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
    plain = repair(run, pruned, removed, on_all=False)
    if not copies or not _is_time(run, _passes(run), (1 + copies) * (perf_counter() - begin)):
        return *plain, 0

    def on_copies() -> tuple[tuple[dict[str, LayerRefit], list[str]], bool]:
        undo()
        return repair(run, pruned, removed, copies=copies, on_all=False), True

    stretched, _ = attempt(run, pruned, on_copies)
    return (*plain, 0) if stretched is None else (*stretched, copies)


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
    notes: list[str] = []

    def jointly() -> tuple[list[BlockFit], bool]:
        blocks, told = refit_jointly(run, pruned, removed, copies=copies)
        notes.extend(told)
        return blocks, _any_nearer(blocks)

    found, why = attempt(run, pruned, jointly)
    if found is None:
        return [], [*notes, f"blocks were not refitted together: {why}"]
    return found, notes


def _any_nearer(blocks: Sequence[BlockFit]) -> bool:
    return any(block.error_after < block.error_before for block in blocks)


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
    before, notes = pruned.to_run(), list[str]()

    def together() -> tuple[NetworkFit | None, bool]:
        found, told = tune_network(run, pruned, removed, seconds=seconds, zeros_stay=zeros_stay)
        notes.extend(told)
        return found, found is not None

    found, why = attempt(run, pruned, together)
    if found is None:
        return None, [*notes, f"the network was not tuned: {why}"] if why else notes
    return replace(found, moved=distance(run, before, pruned.to_run())), notes


def repair_with_zeros(run: Run, sparse: Model, zeros: Mapping[str, Zeros]) -> Repairs:
    """Repair a model in place whose layers have zeros, which stay.

    Parameters
    ----------
    zeros : mapping of str to Zeros
        By node of the layer.
    """
    undo, tunes = remember(sparse), _goes_on(run, sparse, (run.settings.tune,))
    begin = perf_counter()
    layers, notes = repair(run, sparse, (), zeros=zeros, on_all=not tunes)
    seconds = perf_counter() - begin
    network, left_out = tune(run, sparse, (), zeros_stay=True)
    if tunes and network is None and _is_time(run, (run.settings.tune,), seconds):
        undo()
        layers, notes = repair(run, sparse, (), zeros=zeros)
    return Repairs(layers, network=network, notes=(*notes, *left_out))
