from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console
from sample_report import sample_report

from onnx_reap.graph.groups import FrozenChannels
from onnx_reap.prune.refit.block_walk import BlockFit
from onnx_reap.report.records import GroupResult, Lossless, Quality
from onnx_reap.report.text import print_report, quantity


def rendered(**changes) -> str:
    console = Console(file=io.StringIO(), width=80, markup=False, highlight=False, emoji=False)
    print_report(sample_report(**changes), console)
    return console.file.getvalue()


def row(text: str, start: str) -> str:
    (line,) = [line for line in text.splitlines() if line.strip().startswith(start)]
    return " ".join(line.split()[len(start.split()) :])


def test_summary_shows_both_models_and_the_change():
    text = rendered()
    assert row(text, "MACs") == "40.8 M 20.4 M -50.0 %"
    assert row(text, "file size") == "1.10 MB 600 kB -45.2 %"
    assert row(text, "latency, ms") == "1.23 ± 0.10 0.800 ± 0.050 -35.2 %"
    assert "CPUExecutionProvider" in text


def test_held_out_samples_stand_next_to_fitted_ones():
    text = rendered()
    assert "held out (64)" in text and "fitted (448)" in text
    assert row(text, "output error") == "0.045 0.012"
    assert row(text, "top-1 agreement") == "95.3 % 98.1 %"


@pytest.mark.parametrize(("held_out", "warned"), [(0.03, True), (0.02, False)])
def test_a_wide_gap_asks_for_more_data(held_out: float, warned: bool):
    text = rendered(
        held_out=Quality(64, {"logits": held_out}, None),
        fitted=Quality(448, {"logits": 0.0123}, None),
    )
    assert ("bring more data" in text) is warned
    assert "top-1 agreement" not in text


def test_every_output_has_its_own_error():
    text = rendered(held_out=Quality(9, {"a": 0.5, "b": 0.25}, None), fitted=None)
    assert row(text, "output error, a") == "0.5"
    assert row(text, "output error, b") == "0.25"


def test_without_data_there_is_no_table_of_errors():
    text = rendered(held_out=None, fitted=None)
    assert "Against the original" not in text and "Calibration" not in text
    assert "Calibration" in rendered()


def test_names_are_printed_as_they_are():
    assert row(rendered(), "[bold]odd/name") == "64 64 -"


def test_frozen_nodes_with_one_reason_share_a_row():
    text = " ".join(rendered().split())
    assert "/foo_1 and 1 more 96" in text
    assert "graph output (normal)" in text


def test_long_names_stay_whole_and_lines_fit_80_columns():
    name = "/backbone" * 20
    text = rendered(
        groups=(GroupResult(name, 16, 8, (name,), (), None),),
        frozen=(FrozenChannels("n", 5, "because " * 20, "Z" * 150),),
    )
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert "".join(text.split()).replace("168-", "").count("backbone") == 20
    assert text.count("because") == 20
    assert text.count("Z") == 150


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (999, "999"),
        (999.7, "1.00 k"),
        (9_996, "10.0 k"),
        (99_960, "100 k"),
        (999_400, "999 k"),
        (999_600, "1.00 M"),
        (1_234_567_890, "1.23 G"),
        (2e18, "2000 P"),
    ],
)
def test_quantities_have_three_digits(value: float, text: str):
    assert quantity(value) == text


def test_one_line_tells_what_came_of_blocks():
    def line(text: str) -> str:
        joined = " ".join(text.split())
        return joined[joined.index("Refitted together") :].split(". ")[0]

    assert "1 of 2 blocks; mean error behind these 0.2 -> 0.1 on the validation" in line(rendered())
    none = (BlockFit(("a",), 0.1, 0.1, 10),)
    assert line(rendered(blocks=none)).startswith("Refitted together: the layers of 0 of 1 blocks")
    assert "Refitted together" not in rendered(blocks=())


def test_tuning_tells_how_near_it_came_and_what_it_left():
    text = " ".join(rendered().split())
    assert "Tuned together, 20 passes: mean error behind blocks 0.2 -> 0.1, divergence" in text
    assert "of class scores 0.4 -> 0.3 on the validation split; the outputs moved by 0.05" in text
    assert "Not tuned, as they were refitted: c3." in text
    assert "Tuned together" not in rendered(network=None)


def test_what_went_without_loss_is_counted():
    text = " ".join(rendered(lossless=Lossless(1200, 3, 2.34e-7)).split())
    assert "Removed without loss: 1,200 dead and 3 duplicate channels" in text
    assert "differ by 2e-07" in text


def test_a_latency_of_a_single_run_says_so():
    text = rendered(before=replace(sample_report().before, latency_spread_ms=None))
    assert row(text, "latency, ms") == "1.23 (one run) 0.800 ± 0.050 -35.2 %"
