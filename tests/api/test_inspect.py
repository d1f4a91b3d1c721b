"""The command `onnx-reap inspect` and the function of that name."""

from __future__ import annotations

import io
import json
from pathlib import Path

import onnx
import pytest
from net import Net
from refusals import assert_refused
from rich.console import Console
from small_models import chain, weights_of

import onnx_reap
from onnx_reap.cli.main import main
from onnx_reap.errors import ReapError, UsageError
from onnx_reap.report.inspection import Inspection, Sizes
from onnx_reap.report.inspection_text import print_inspection


@pytest.fixture(autouse=True)
def workplace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tied() -> onnx.ModelProto:
    """Make a stem and one block whose sum ties both, behind a pad that lets nothing be constant."""
    n = Net({"x": ("N", 3, 8, 8)})
    stem = n.conv("x", 3, 8)
    inner = n.node("Relu", n.conv(stem, 8, 16))
    h = n.node("Add", stem, n.conv(inner, 16, 8, 1))
    return n.model(n.head(h, 8, 5))


def grouped() -> onnx.ModelProto:
    """Make a grouped and a depthwise convolution."""
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.conv("x", 3, 8)
    h = n.conv(n.conv(h, 8, 12, group=4), 12, 12, group=12)
    return n.model(n.head(h, 12, 5))


def stuck() -> onnx.ModelProto:
    """Make a wide and a narrow layer that an operator without a rule reads, and two that are free.

    A depthwise convolution passes the wide one's channels on.
    """
    n = Net({"x": ("N", 3, 8, 8)})
    wide = n.conv(n.conv("x", 3, 32), 32, 32, group=32)
    narrow = n.conv("x", 3, 4, 1)
    h = n.node("Concat", n.node("Trilu", wide), n.node("Trilu", narrow), axis=1)
    free = n.conv(n.conv(h, 36, 8), 8, 8)
    return n.model(n.head(free, 8, 5))


MODELS = {"chain": chain, "residual": tied, "grouped": grouped, "stuck": stuck}


def groups_of(seen: Inspection) -> dict[str, tuple[int, ...]]:
    return {group.name: group.widths for group in seen.groups}


def text_of(seen: Inspection, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, markup=False, highlight=False, emoji=False)
    print_inspection(seen, console)
    return console.file.getvalue()


# What is found


@pytest.mark.parametrize("name", MODELS)
def test_shares_add_up_to_what_the_file_holds(name: str):
    model = MODELS[name]()
    seen = onnx_reap.inspect(model)
    parts = [*(g.share for g in seen.groups), *(f.share for f in seen.frozen), seen.others]
    assert all(part.macs >= 0 and part.params >= 0 for part in parts)
    for field in ("macs", "params"):
        shares = sum(getattr(part, field) for part in parts)
        assert abs(shares - getattr(seen.total, field)) <= len(parts) / 2  # each is rounded
    assert seen.total.params == sum(values.size for values in weights_of(model).values())
    assert seen.others.macs == 0  # these models have nothing but layers


def test_layers_of_unknown_operators_have_a_row_of_their_own():
    n = Net({"x": ("N", 3, 8)})
    weights = n.weight(8, 24), n.weight(24)
    given = {"num_heads": 2, "unidirectional": 1, "domain": "com.microsoft"}
    y = n("Attention", "x", *weights, name="fused", **given)
    seen = onnx_reap.inspect(n.model(n("MatMul", y, n.weight(8, 4)), check=False))
    reason = "no rule for operator com.microsoft::Attention"
    (row,) = (each for each in seen.frozen if each.reason == reason)
    assert (row.channels, row.share.macs, row.normal) == (24, 3 * 8 * 24 + 2 * 3 * 3 * 8, False)
    assert [node.node for node in row.nodes] == ["fused"] and seen.others.macs == 0
    assert "fused (no rule for operator com.microsoft::Attention" in seen.nothing


def test_a_chain():
    seen = onnx_reap.inspect(chain(16))
    assert groups_of(seen) == dict.fromkeys(("conv0", "conv3", "conv6"), (4, 8, 12, 16))
    first, second, _ = seen.groups
    assert (first.producers, first.consumers, first.tied_at) == (("conv0",), ("conv3",), ())
    assert first.share == Sizes(3 * 9 * 16 * 64, 3 * 9 * 16)
    assert second.share == Sizes(16 * 9 * 16 * 64, 16 * 9 * 16)
    assert second.saving.macs == 2 * 12 * 9 * 16 * 64  # 12 of 16 channels, made and read
    (only,) = seen.frozen
    assert (only.reason, only.normal, only.channels) == ("graph output", True, 5)
    assert only.share == Sizes(16 * 5, 16 * 5 + 5)
    assert seen.branches == () and seen.nothing is None


def test_the_least_is_what_a_run_can_reach():
    seen = onnx_reap.inspect(chain(16))
    share = (seen.least.macs + 1) / seen.total.macs
    made = onnx_reap.reap(chain(16), target_macs=share, criterion="l1", refit=False)
    assert made.report.after.macs == seen.least.macs
    assert made.report.after.params == seen.least.params
    with pytest.raises(ReapError, match="can't be reached"):
        onnx_reap.reap(
            chain(16), target_macs=(seen.least.macs - 1) / seen.total.macs, criterion="l1"
        )


def test_a_residual_stream_is_tied_and_its_branch_may_go():
    seen = onnx_reap.inspect(tied())
    stream, inner = seen.groups
    assert (stream.producers, stream.tied_at) == (("conv0", "conv3"), ("add4",))
    assert stream.consumers == ("conv1", "gemm7")
    assert inner.tied_at == () and inner.widths == (0, 4, 8, 12, 16)
    (branch,) = seen.branches
    assert (branch.group, branch.along, branch.joins) == ("conv1", (), ("add4",))
    assert branch.saving == inner.saving
    assert branch.saving.macs == (9 + 1) * 8 * 16 * 64
    kept = onnx_reap.inspect(tied(), vanish=False)
    assert kept.branches == () and groups_of(kept)["conv1"] == (4, 8, 12, 16)
    assert kept.least.macs > seen.least.macs


def test_groups_of_convolutions_take_steps_alike():
    seen = onnx_reap.inspect(grouped())
    assert groups_of(seen) == {"conv0": (4, 8), "conv1": (4, 8, 12)}
    passed = seen.groups[1].share  # the grouped layer, and the depthwise one that passes it on
    assert passed.macs == (8 // 4 * 9 * 12 + 9 * 12) * 64


def test_what_is_frozen_is_told_by_reason_the_costliest_first():
    seen = onnx_reap.inspect(stuck())
    assert list(groups_of(seen)) == ["conv6", "conv7"]
    first, *others = seen.frozen
    assert first.reason == "no rule for operator Trilu" and not first.normal
    assert [(n.node, n.channels, n.cause) for n in first.nodes] == [
        ("conv0", 32, "trilu3"),
        ("conv2", 4, "trilu4"),
    ]
    assert first.channels == 36
    assert first.share.macs == (3 * 9 * 32 + 9 * 32 + 3 * 4) * 64  # with the depthwise one
    assert [f.share.macs for f in others] == sorted((f.share.macs for f in others), reverse=True)
    assert {"graph output"} == {f.reason for f in others}


def test_settings_count():
    assert groups_of(onnx_reap.inspect(chain(16), round_to=1, min_channels=14)) == dict.fromkeys(
        ("conv0", "conv3", "conv6"), (14, 15, 16)
    )
    seen = onnx_reap.inspect(chain(16), exclude="conv3", input_shapes={"x": (1, 3, 8, 8)})
    assert list(groups_of(seen)) == ["conv0", "conv6"]
    assert seen.settings == {"exclude": ["conv3"], "input_shapes": {"x": (1, 3, 8, 8)}}
    reason = seen.frozen[0]
    assert (reason.reason, reason.nodes[0].cause) == ("excluded by --exclude", "conv3")
    with pytest.raises(ReapError, match="--exclude: matches no node"):
        onnx_reap.inspect(chain(16), exclude="nobody")
    with pytest.raises(UsageError, match=r"don't apply here \| got: --ratio"):
        onnx_reap.inspect(chain(16), ratio=0.5)


def test_the_model_is_not_modified():
    model = stuck()
    before = model.SerializeToString(deterministic=True)
    onnx_reap.inspect(model)
    assert model.SerializeToString(deterministic=True) == before


# What is shown


def test_tables_fit_a_terminal_and_end_with_what_can_go():
    text = text_of(onnx_reap.inspect(tied()))
    assert max(map(len, text.splitlines())) <= 80
    titles = ["Groups that can be pruned", "Tied together", "Residual branches", "Frozen"]
    places = [text.index(title) for title in titles]
    assert places == sorted(places)
    assert text.splitlines()[-1].startswith("At most 9")
    assert "graph output (normal)" in text and "outside layers with constant weights" not in text


def test_names_are_printed_as_they_are():
    model = chain(16)
    model.graph.node[0].name = "[bold]odd/name"
    assert "[bold]odd/name" in text_of(onnx_reap.inspect(model))


def test_a_model_that_can_not_be_pruned_is_inspected_all_the_same(capsys):
    n = Net({"x": ("N", 3, 8, 8)})
    onnx.save(n.model(n.node("Trilu", n.conv("x", 3, 4))), "one.onnx")
    assert main(["inspect", "one.onnx"]) == 0
    out, err = capsys.readouterr()
    text = " ".join(out.split())
    assert err == "" and "no rule for operator Trilu" in text
    assert "Nothing can go: the model has no channel that may be removed" in text
    assert "100.0 %" in out  # of the MACs, for that reason
    n = Net({"x": ("N", 3, 8, 8)})
    onnx.save(n.model(n.node("Relu", "x")), "relu.onnx")
    assert main(["inspect", "relu.onnx"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "0 MACs" in text and "no layer with a constant weight" in text


# The command


def test_the_json_file_holds_what_python_returns(workplace: Path, capsys):
    onnx.save(tied(), "in.onnx")
    assert main(["inspect", "in.onnx", "--json", "i.json", "--round-to", "2"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.endswith("Wrote i.json\n") and "At most" in out
    assert {path.name for path in workplace.iterdir()} == {"in.onnx", "i.json"}
    seen = onnx_reap.inspect("in.onnx", round_to=2)
    content = json.loads(Path("i.json").read_text())
    assert content == json.loads(json.dumps(seen.to_dict()))
    assert content["schema"] == 1 and content["settings"] == {"round_to": 2}
    assert content["groups"][0]["widths"] == list(seen.groups[0].widths)


def test_every_field_is_documented():
    text = (Path(__file__).parent.parents[1] / "docs" / "inspect.md").read_text()

    def names(value) -> set[str]:
        if isinstance(value, list):
            return set().union(*map(names, value))
        return set(value).union(*map(names, value.values())) if isinstance(value, dict) else set()

    for model in MODELS.values():
        assert all(f"`{name}`" in text for name in names(onnx_reap.inspect(model()).to_dict()))


def test_without_json_nothing_is_written_and_quiet_is_silent(workplace: Path, capsys):
    onnx.save(chain(), "in.onnx")
    assert main(["inspect", "in.onnx", "-q"]) == 0
    assert capsys.readouterr() == ("", "")
    assert {path.name for path in workplace.iterdir()} == {"in.onnx"}


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        ("inspect", 2, "required: in.onnx | try: onnx-reap inspect --help"),
        ("inspect in.onnx out.onnx", 2, "unrecognized arguments: out.onnx"),
        ("inspect in.onnx --ratio 0.5", 2, "unrecognized arguments: --ratio"),
        ("inspect in.onnx --input-shapes y:1,3,8,8", 2, "--input-shapes: no such input"),
        ("inspect in.onnx --json in.onnx", 1, "--json is the same file as the input model"),
        ("inspect in.onnx --json no/i.json", 1, "the folder of --json does not exist"),
        ("inspect in.onnx --include nobody", 1, "--include: matches no node"),
        ("inspect no.onnx --json i.json", 1, "model file no.onnx: not found"),
        ("inspect cut.onnx --json i.json", 1, "model file cut.onnx: not an ONNX model"),
        ("./inspect out.onnx", 1, "model file inspect: not found"),
    ],
)
def test_refusals_are_one_line_and_leave_nothing(
    line: str, status: int, message: str, workplace: Path, capsys
):
    onnx.save(chain(), "in.onnx")
    Path("cut.onnx").write_bytes(Path("in.onnx").read_bytes()[:1000])
    assert_refused(line, status, message, capsys)


def test_help_fits_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stopped:
        main(["inspect", "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert all(f"--{name} " in text for name in ("json", "input-shapes", "include", "exclude"))
