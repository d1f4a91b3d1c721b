"""The front of a sweep as a drawing."""

import io
from collections.abc import Sequence
from typing import Any

from onnx_reap.errors import ReapError
from onnx_reap.report.sweep import Row

MOST_LABELS = 12  # points that have room for their values beside them


def check_plotting() -> Any:
    """Return matplotlib, which only this needs.

    Raises
    ------
    ReapError
        If it isn't installed.
    """
    try:
        import matplotlib.backends.backend_svg
        import matplotlib.figure
        import matplotlib.style
    except ImportError as error:
        raise ReapError(
            "the plot of a sweep needs matplotlib", hint="pip install matplotlib"
        ) from error
    return matplotlib


def draw(rows: Sequence[Row]) -> bytes | None:
    """Draw quality against multiply-accumulates as SVG; the same rows make the same bytes.

    Accuracy, or else top-1 agreement, is drawn above the output error, which tells finer
    differences than few samples' classes do; what is not known is left out.

    Returns
    -------
    bytes or None
        None where nothing tells the quality.
    """
    panels = _panels(rows)
    if not panels:
        return None
    matplotlib = check_plotting()
    # Styles of the user's would make another file; SVG names its parts at random unless salted.
    with matplotlib.style.context(["default", {"svg.hashsalt": "onnx-reap"}]):
        size = 6.4, 0.6 + 3 * len(panels)
        figure = matplotlib.figure.Figure(figsize=size, layout="constrained")
        shares = [100.0, *(100 * row.macs_ratio for row in rows)]
        every = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
        for axes, (label, values) in zip(every, panels, strict=True):
            _draw_panel(axes, shares, values, label)
        every[0].legend()
        every[-1].set_xlabel("MACs, % of the original")
        data = io.BytesIO()
        canvas = matplotlib.backends.backend_svg.FigureCanvasSVG(figure)
        canvas.print_svg(data, metadata={"Date": None})
    return data.getvalue()


def _draw_panel(axes: Any, shares: Sequence[float], values: Sequence[float], label: str) -> None:
    """Draw one measure; the original comes first."""
    axes.plot(shares, values, "-", color="0.75", zorder=1)
    axes.plot(shares[1:], values[1:], "o", label="pruned")
    axes.plot(shares[:1], values[:1], "D", color="black", label="original")
    if len(values) <= MOST_LABELS:
        for x, y in zip(shares, values, strict=True):
            axes.annotate(
                f"{y:.3g}", (x, y), (0, 7), textcoords="offset points", ha="center", fontsize=8
            )
    axes.margins(0.08, 0.14)
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)


def _panels(rows: Sequence[Row]) -> list[tuple[str, list[float]]]:
    """Return what to draw, best first: what it is, the original's value and those of the models."""
    where = f"{rows[0].held_out_samples or 0:,} held-out samples"
    classes = (
        (f"accuracy, %\n{where}", rows[0].accuracy_before, "accuracy_after", 100),
        (f"top-1 agreement with the original, %\n{where}", 1.0, "top1_agreement", 100),
    )
    errors = (
        (f"output error over variance\n{where}", 0.0, "held_out_error", 1),
        ("output error over variance\ncalibration samples", 0.0, "calibration_error", 1),
    )
    panels = []
    for candidates in (classes, errors):
        for label, original, name, unit in candidates:
            values = [original, *(getattr(row, name) for row in rows)]
            if None not in values:
                panels.append((label, [unit * value for value in values]))
                break
    return panels
