"""What a report says in sentences, below its tables."""

from collections.abc import Iterable, Iterator, Sequence

from onnx_reap.prune.lossless.trim import Lossless
from onnx_reap.prune.refit.block_walk import BlockFit
from onnx_reap.prune.refit.networkwise import NetworkFit
from onnx_reap.prune.sparsity.records import Tiling
from onnx_reap.report.records import Loss, Report

# A held-out error this many times the fitted one means that weights fit the samples, not the task.
WIDE_GAP = 2.0


def collapsed(names: Iterable[str]) -> str:
    """Name the first and count the rest."""
    first, *others = dict.fromkeys(names) or [""]
    return f"{first} and {len(others)} more" if others else first


def remarks(report: Report) -> Iterator[str]:
    """Yield the sentences of a report."""
    measured = report.held_out is not None or report.fitted is not None
    if measured:
        yield f"Calibration: {report.calibration}."
    yield (
        f"Latency: {report.provider} on this machine, median ± half the interquartile range; "
        "both models by turns."
    )
    if report.lossless is not None:
        yield _without_loss(report.lossless)
    if report.tiling is not None:
        yield from _of_zeros(report.tiling)
    if report.loss is not None:
        yield _bounded(report.loss)
    if measured:
        yield "Output error: squared error over the variance of the original output."
    if report.blocks:
        yield _together(report.blocks)
    if report.network is not None:
        yield from _of_network(report.network)
    gap = _gap(report)
    if gap >= WIDE_GAP:
        yield f"Held-out error is {gap:.1f} times the fitted one, a wide gap: bring more data."


def _together(blocks: Sequence[BlockFit]) -> str:
    better = [block for block in blocks if block.error_after < block.error_before]
    count = f"Refitted together: the layers of {len(better)} of {len(blocks)} blocks"
    if not better:
        return f"{count}; where they were refitted alone is as near as they get."
    before, after = (
        sum(getattr(block, f"error_{when}") for block in better) / len(better)
        for when in ("before", "after")
    )
    where = "on the validation split"
    return f"{count}; mean error behind these {before:.2g} -> {after:.2g} {where}."


def _of_network(network: NetworkFit) -> Iterator[str]:
    before, after = network.before, network.after
    names = {
        "blocks": "mean error behind blocks",
        "outputs": "of the outputs",
        "divergence": "divergence of class scores",
    }
    pairs = [(text, getattr(before, name), getattr(after, name)) for name, text in names.items()]
    distances = [f"{text} {old:.2g} -> {new:.2g}" for text, old, new in pairs if old is not None]
    yield (
        f"Tuned together, {network.passes:g} passes: {', '.join(distances)} on the validation "
        f"split; the outputs moved by {network.moved:.2g} of their variance."
    )
    if network.left:
        yield f"Not tuned, as they were refitted: {collapsed(network.left)}."


def _without_loss(lossless: Lossless) -> str:
    gone = f"{lossless.dead:,} dead and {lossless.duplicate:,} duplicate channels"
    differ = f"on random samples outputs differ by {lossless.difference:.1g} of the largest."
    return f"Removed without loss: {gone}; {differ}"


def _of_zeros(tiling: Tiling) -> Iterator[str]:
    yield (
        f"Zeros: {tiling.pattern}, {tiling.zeros:.1%} of the weights of {len(tiling.layers)} "
        "layers; MACs and sizes count them as any others."
    )
    taken = f"the masks remove {tiling.score_lost:.1%} of the scores"
    if tiling.permuted:
        assert tiling.difference is not None
        yield (
            f"{tiling.permuted:,} channels changed places, which moved outputs by "
            f"{tiling.difference:.1g} of the largest: {taken} instead of "
            f"{tiling.score_lost_unpermuted:.1%}."
        )
    else:
        yield f"Channels are where they were: {taken}."


def _bounded(loss: Loss) -> str:
    sure = (
        ""
        if loss.low is None
        else f" (at most {loss.likely:.2%} with 75 % confidence, "
        f"{loss.low:.1%} to {_at_most(loss.high)} with 95 % confidence)"
    )
    where = f" on {loss.samples:,} held-out samples" if loss.samples else ""
    return f"Loss: {loss.value:.2%} {loss.kind}{where}{sure}; {loss.limit:.2%} was allowed."


def _at_most(share: float | None) -> str:
    """Write the upper end of an interval, which a few heavy samples may push anywhere."""
    return "more than 1,000 %" if share is None or share > 10 else f"{share:.1%}"


def _gap(report: Report) -> float:
    """Return the largest ratio of held-out to fitted error."""
    if report.held_out is None or report.fitted is None:
        return 0.0
    held_out, fitted = report.held_out.output_error, report.fitted.output_error
    return max((held_out[n] / fitted[n] for n in held_out if fitted.get(n)), default=0.0)
