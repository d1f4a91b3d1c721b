"""How often a pruned classifier's first choice is another than the original's, from few samples.

Counted, one change more or less among a few hundred samples decides. But every sample tells more
than whether its choice changed: by how much its margin, the first choice's score above the next
best, shrank. Had another sample as close to the border shrunk as much, would its choice have
changed? So the changes of margin of samples with margins of similar rank are tried on each other,
which takes a third off the standard error. The original's margins are as good on samples that the
pruned model was fitted to, so these are tried, too.
"""

import math

import numpy as np
import numpy.typing as npt

WINDOW = 0.3  # of the samples, those nearest in rank, lend each other their changes
FEWEST_LENDERS = 8  # samples, where the share would be fewer

Scores = npt.NDArray[np.floating]


def changed_share(
    before: Scores, after: Scores, known: Scores | None = None
) -> tuple[float, float]:
    """Estimate the share of samples whose first choice changes.

    Parameters
    ----------
    before, after : (n, classes) arrays
        Scores of the original and of the pruned model on samples that the latter was not fitted to;
        n at least 1, classes at least 2.
    known : (m, classes) array, optional
        Scores of the original on all samples there are: their margins are as good as those of
        others. By default `before`.

    Returns
    -------
    share, error : float
        The estimate, and its standard error from what each sample contributes.
    """
    first = before.argmax(1)
    margins = _margins(before, first)
    order = np.argsort(margins, kind="stable")
    margins, left = margins[order], _margins(after, first)[order]
    with np.errstate(invalid="ignore"):
        shrunk = np.where(margins == left, 0.0, margins - left)  # both may be infinite
    tried = margins if known is None else np.sort(_margins(known, known.argmax(1)))
    n, m = len(margins), len(tried)
    size = min(max(math.ceil(WINDOW * n), FEWEST_LENDERS), n)
    places = np.arange(m) * n // m if known is None else np.searchsorted(margins, tried)
    lenders = np.clip(places - size // 2, 0, n - size)[:, None] + np.arange(size)
    # What is not a number counts as changed.
    changed = ~(shrunk[lenders] <= tried[:, None])
    lent = np.bincount(lenders.ravel(), changed.ravel() * (n / m / size), minlength=n)
    if known is None:  # both from the same samples
        error = np.std(changed.mean(1) + lent) / math.sqrt(n)
    else:
        error = math.hypot(np.std(changed.mean(1)) / math.sqrt(m), np.std(lent) / math.sqrt(n))
    return float(changed.mean()), float(error)


def _margins(scores: Scores, first: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return by how much the score of one class exceeds all others."""
    rows = np.arange(len(scores))
    others = scores.astype(np.float64)
    chosen = others[rows, first]
    others[rows, first] = -np.inf
    with np.errstate(invalid="ignore"):  # both may be infinite
        result: npt.NDArray[np.float64] = chosen - others.max(1)
        return result
