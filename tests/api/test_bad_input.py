"""Every kind of bad input: one line that helps, the right status, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from net import Net
from small_models import chain, images, stateful, weights_of

import onnx_reap
from onnx_reap.cli.main import main
from onnx_reap.onnxio import load as loading

Refused = Callable[..., str]


@pytest.fixture(autouse=True)
def workplace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with a model and its data, and a folder of its own for temporary files."""
    here, temporary = tmp_path / "here", tmp_path / "tmp"
    here.mkdir()
    temporary.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    onnx.save(chain(), "in.onnx")
    np.save("data.npy", images(24))
    return here


def contents(folder: Path) -> dict[str, bytes]:
    """Read all files below a folder, but for the mark that onnxruntime leaves at its import."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.name != ".ses"
    }


@pytest.fixture
def refused(workplace: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run the command and demand that it refuses as it should; return its line."""

    def run(line: str | list[str], *parts: str, status: int = 1) -> str:
        before = contents(workplace.parent)
        arguments = line.split() if isinstance(line, str) else line
        assert main(arguments) == status
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("onnx-reap: error: ") and err.endswith("\n")
        assert err.count("\n") == 1 and "\r" not in err
        assert "Traceback" not in err
        for part in parts:
            assert part in err
        assert contents(workplace.parent) == before
        return err

    return run


RUN = "in.onnx out.onnx --data data.npy --report r.json --plan p.json"
WHOLE = f"{RUN} --target-macs 0.6"  # gets to the end


def test_the_oracle_notices_what_it_must(refused, workplace, capsys):
    """A run that succeeds isn't refused, and a file that appears is seen."""
    with pytest.raises(AssertionError):
        refused(WHOLE)
    assert {"out.onnx", "r.json", "p.json"} <= contents(workplace).keys()


# The model


def test_a_missing_model(refused):
    refused("no.onnx out.onnx", "model file no.onnx: not found", "try: check the path")
    refused("no/in.onnx out.onnx", "not found")
    refused("in.onnx/in.onnx out.onnx", "can't be read")


def test_a_model_that_is_a_folder(refused, workplace):
    (workplace / "folder").mkdir()
    refused("folder out.onnx", "model file folder: can't be read", "got: Is a directory")


def test_a_model_that_may_not_be_read(refused, workplace, monkeypatch):
    def forbidden(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(onnx, "load", forbidden)
    refused("in.onnx out.onnx", "can't be read", "got: Permission denied")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.onnx", b"", "holds no nodes"),
        ("text.onnx", b"This is not a model.\n", "not an ONNX model"),
        ("zeros.onnx", bytes(1000), "not an ONNX model"),
        ("garbage.onnx", np.random.default_rng(0).bytes(5000), "not an ONNX model"),
        ("page.json", b"<html></html>", "not an ONNX model"),
        ("a.textproto", b"{", "not an ONNX model"),
    ],
)
def test_files_that_are_no_models(refused, workplace, name, content, message):
    (workplace / name).write_bytes(content)
    refused(f"{name} out.onnx", f"model file {name}: {message}", "got: ", "expected: ")


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.9, 0.999])
def test_a_truncated_model(refused, workplace, share):
    whole = (workplace / "in.onnx").read_bytes()
    (workplace / "cut.onnx").write_bytes(whole[: int(len(whole) * share)])
    refused("cut.onnx out.onnx", "model file cut.onnx: ", "expected: ")


def test_a_model_without_nodes(refused):
    model = chain()
    del model.graph.node[:]
    onnx.save(model, "none.onnx")
    refused("none.onnx out.onnx", "holds no nodes", "expected: an ONNX model with layers")


def test_a_model_without_operator_set(refused):
    model = chain()
    del model.opset_import[:]
    onnx.save(model, "none.onnx")
    refused("none.onnx out.onnx", "names no standard operator set", "got: none")


def test_a_model_with_nothing_to_prune(refused):
    n = Net({"x": ("N", 3, 8, 8)})
    onnx.save(n.model(n.conv("x", 3, 4)), "one.onnx")
    refused("one.onnx out.onnx", "no channel that may be removed", "conv0 (graph output")
    n = Net({"x": ("N", 3, 8, 8)})
    onnx.save(n.model(n.node("Relu", "x")), "relu.onnx")
    refused(
        "relu.onnx out.onnx", "no channel that may be removed", "no layer with a constant weight"
    )


def test_external_data_that_is_missing(refused, workplace):
    onnx.save(chain(64), "big.onnx", save_as_external_data=True, location="big.data")
    (workplace / "big.data").unlink()
    refused(
        "big.onnx out.onnx", "its external data can't be read", "big.data", "try: put the files"
    )


def test_external_data_that_is_too_short(refused, workplace):
    onnx.save(chain(64), "big.onnx", save_as_external_data=True, location="big.data")
    data = (workplace / "big.data").read_bytes()
    (workplace / "big.data").write_bytes(data[: len(data) // 2])
    refused("big.onnx out.onnx", "big.onnx")


def test_a_proto_whose_weights_lie_elsewhere(workplace):
    onnx.save(chain(64), "big.onnx", save_as_external_data=True, location="big.data")
    proto = onnx.load("big.onnx", load_external_data=False)
    with pytest.raises(onnx_reap.ReapError, match="weights lie in other files"):
        onnx_reap.reap(proto)


def test_external_data_that_is_far_too_short(refused, workplace):
    onnx.save(chain(64), "big.onnx", save_as_external_data=True, location="big.data")
    proto = onnx.load("big.onnx", load_external_data=False)
    proto.graph.initializer[0].dims[:] = [40_000, 20_000]
    (workplace / "big.onnx").write_bytes(proto.SerializeToString())
    refused("big.onnx out.onnx", "doesn't fill its shape", "expected: 3,200,000,000 bytes")


def test_a_file_over_2_gb_is_refused_by_its_size(refused, monkeypatch):
    monkeypatch.setattr(loading, "LARGEST", 1000)
    refused("in.onnx out.onnx", "model file in.onnx: too large", "less than 2 GB")


def test_a_custom_operator_that_nobody_knows(refused):
    model = chain()
    model.graph.node[2].op_type, model.graph.node[2].domain = "Magic", "com.wizards"
    model.opset_import.add(domain="com.wizards", version=1)
    onnx.save(model, "magic.onnx")
    refused("magic.onnx out.onnx --data data.npy", "onnxruntime can't load the model", "Magic")


def test_inputs_of_batches_of_different_sizes(refused):
    n = Net({"x": (4, 3, 8, 8), "y": (2, 8)})
    h = n.node("GlobalAveragePool", n.block(n.block("x", 3, 8), 8, 8))
    h = n.node("Add", n.node("Flatten", h), n.node("Concat", "y", "y", axis=0))
    onnx.save(n.model(n.gemm(h, 8, 5)), "two.onnx")
    np.savez("two.npz", x=images(8), y=np.zeros((8, 8), np.float32))
    refused("two.onnx out.onnx --data two.npz", "of different sizes", "y float32 (2, 8)")


def test_a_state_whose_size_nobody_tells(refused):
    onnx.save(stateful(), "stateful.onnx")
    refused("stateful.onnx out.onnx", "need to know their shape", "state float32 (2, ?, 8)")


def test_a_model_that_fails_when_run(refused):
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.node("Reshape", n.block("x", 3, 8), n.constant(np.array([0, 7, -1])))
    onnx.save(n.model(n.node("ReduceMean", h, axes=[2]), check=False), "bad.onnx")
    refused("bad.onnx out.onnx --data data.npy", "onnxruntime can't", "Reshape")


@pytest.mark.parametrize("what", ["opset", "ir"])
def test_a_model_from_the_future(refused, what):
    model = chain()
    if what == "opset":
        model.opset_import[0].version = 99
    else:
        model.ir_version = 99
    onnx.save(model, "future.onnx")
    refused("future.onnx out.onnx --data data.npy", "onnxruntime can't load the model", "99")


def test_an_input_that_is_no_tensor(refused):
    n = Net({"x": ("N", 3, 8, 8)})
    model = n.model(n.head(n.block("x", 3, 8), 8, 4))
    model.graph.input.append(oh.make_tensor_sequence_value_info("s", onnx.TensorProto.FLOAT, None))
    onnx.save(model, "sequence.onnx")
    refused("sequence.onnx out.onnx", "input s: not a tensor")


# The data


@pytest.mark.parametrize(
    ("arrays", "parts"),
    [
        ({"x": np.zeros((8, 4, 8, 8), np.float32)}, ["(8, 4, 8, 8)", "expected: x float32 (N, 3"]),
        ({"x": np.zeros((8, 3), np.float32)}, ["(8, 3)"]),
        ({"x": np.zeros((0, 3, 8, 8), np.float32)}, ["no samples"]),
        ({"x": np.zeros((8, 3, 8, 8), np.complex64)}, ["wrong dtype", "complex64"]),
        ({"a": np.zeros((8, 4)), "b": np.zeros((8, 4))}, ["a float64 (8, 4)", "expected: x"]),
        ({}, ["no arrays"]),
    ],
)
def test_data_that_does_not_fit(refused, arrays, parts):
    np.savez("bad.npz", **arrays)
    refused("in.onnx out.onnx --data bad.npz", "--data bad.npz", "got: ", "expected: ", *parts)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
@pytest.mark.parametrize("sample", [0, 13])
def test_data_that_is_not_finite(refused, value, sample):
    data = images(24).astype(np.float64)
    data[sample, 1, 2, 3] = value
    np.save("bad.npy", data)
    refused("in.onnx out.onnx --data bad.npy", "NaN or infinite", f"sample {sample}")


def test_data_that_is_missing_or_unreadable(refused, workplace):
    refused("in.onnx out.onnx --data no.npy", "--data no.npy doesn't exist")
    refused("in.onnx out.onnx --data in.onnx", "--data in.onnx is of an unknown kind")
    (workplace / "bad.npy").write_bytes((workplace / "data.npy").read_bytes()[:1000])
    refused("in.onnx out.onnx --data bad.npy", "--data bad.npy can't be read")
    (workplace / "bad.npz").write_bytes(b"PK nothing")
    refused("in.onnx out.onnx --data bad.npz", "--data bad.npz can't be read")


@pytest.mark.parametrize("op", ["Log", "Sqrt"])  # of zeros: -inf; of negative numbers: NaN
def test_a_model_whose_activations_are_not_finite(refused, op):
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.block("x", 3, 8) if op == "Log" else n.conv("x", 3, 8)
    h = n.block(n.node(op, h), 8, 8)
    onnx.save(n.model(n.head(h, 8, 4)), "nan.onnx")
    refused("nan.onnx out.onnx --data data.npy", "conv", "NaN or infinite")


def test_constant_and_dead_channels_are_no_problem(workplace, capsys):
    model = chain()
    values = {name: value.copy() for name, value in weights_of(model).items()}
    values["c0"][:5] = 0  # constant behind the norm
    values["c6"][:3] = 0  # gamma: constant
    values["c7"][:3] = -1  # and dead behind the activation
    for tensor in model.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(values[tensor.name], tensor.name))
    onnx.save(model, "dead.onnx")
    for data in ("data.npy", "flat.npy"):
        np.save("flat.npy", np.ones((24, 3, 8, 8), np.float32))
        assert main(f"dead.onnx out.onnx --data {data} --target-macs 0.6 -q".split()) == 0
        out = weights_of(onnx.load("out.onnx"))
        assert all(np.isfinite(value).all() for value in out.values())
    capsys.readouterr()


def test_fewer_samples_than_unknowns_work_and_a_warning_says_how_many_it_takes(capsys):
    np.save("few.npy", images(3))
    assert (
        main(
            [
                "in.onnx",
                "out.onnx",
                "--data",
                "few.npy",
                "--positions",
                "4",
                "--target-macs",
                "0.6",
                "-q",
            ]
        )
        == 0
    )
    err = capsys.readouterr().err
    assert "too few samples (3) for the unknowns of conv6: it takes 36 " in err  # 16 * 9 / 4
    assert Path("out.onnx").exists()


# The request


def test_targets_out_of_reach(refused, monkeypatch):
    def calibrated(*_args, **_kwargs):
        raise AssertionError("calibration has begun")

    monkeypatch.setattr("onnx_reap.prune.pruning_curves.capture_moments", calibrated)
    numbers = ["got: ", "expected: at least ", " % of "[1:2]]
    for flags in (
        "--target-macs 1%",
        "--target-params 200",
        "--target-macs 50% --min-channels 14 --round-to 1",
    ):
        refused(f"{RUN} {flags}", "can't be reached", "try: ", *numbers, status=3)
    for flags in ("--ratio 0.5 --min-channels 16", "--min-channels 99"):
        refused(f"{RUN} {flags}", "no group has an allowed width", "try: lower", status=3)
    refused(f"{RUN} --ratio 0.01", "the ratio removes nothing", "expected: at least", status=3)


def test_usage_errors(refused):
    refused(f"{RUN} --ratio 2", "--ratio", status=2)
    refused(f"{RUN} --input-shapes y:1,3,8,8", "no such input", "got: y", status=2)
    refused(f"{RUN} --input-shapes x:1,4,8,8", "contradicts input x", status=2)
    refused(f"{RUN} --provider abacus", "--provider: unknown", "got: abacus", "CPUExecution")
    refused(f"{RUN} --exclude nobody", "--exclude: matches no node", "got: nobody")


def test_bad_plans_and_ratio_files(refused, workplace):
    for name, content in {"no.json": "{", "other.json": '{"schema": 9}'}.items():
        (workplace / name).write_text(content)
        refused(f"in.onnx out.onnx --from-plan {name}", f"plan {name}: ")
    refused("in.onnx out.onnx --from-plan none.json", "plan none.json: can't be read")
    refused(f"{RUN} --layer-ratios no.json", "--layer-ratios no.json: can't be read")
    (workplace / "list.json").write_text("[1]")
    refused(f"{RUN} --layer-ratios list.json", "not ratios by name", "expected: a JSON object")
    refused(f"{RUN} --layer-ratios none.json", "can't be read")


def test_a_plan_that_keeps_a_channel_twice(refused, workplace):
    assert main(f"{WHOLE} -q --joint-refit 0 --tune 0".split()) == 0
    plan = json.loads((workplace / "p.json").read_text())
    plan["groups"][0]["kept"] = [1, 1, 2]
    (workplace / "p.json").write_text(json.dumps(plan))
    twice = "keeps a channel twice | got: [1, 1, 2]"
    refused("in.onnx again.onnx --from-plan p.json", twice, "try: ")


def test_names_that_are_nearly_those_of_options_and_commands(refused):
    refused(f"{RUN} --target-mac 0.5", "arguments: --target-mac ", "| try: --target-macs", status=2)
    refused(f"{RUN} --target_macs=0.5", "| try: --target-macs\n", status=2)
    refused(f"{RUN} --zzz", "| try: onnx-reap --help\n", status=2)
    refused("inspekt in.onnx", "model file inspekt: not found | try: onnx-reap inspect\n")
    refused("profil in.onnx -o t.json", "| try: onnx-reap profile\n")
    refused("sweep.onnx out.onnx", "model file sweep.onnx: not found | try: check the path")


def test_globs_of_all_commands_are_checked(refused):
    for line in ("profile in.onnx -o t.json", "inspect in.onnx", WHOLE):
        refused(f"{line} --include nosuch", "--include: matches no node | got: nosuch")


def test_lossless_tells_what_to_leave_out(refused):
    line = "in.onnx out.onnx --lossless --criterion l1 --no-refit"
    refused(line, "no method | try: leave out --criterion, --no-refit\n", status=2)


def test_refusals_say_what_to_try(refused, workplace):
    np.save("nan.npy", images(24) * np.nan)
    (workplace / "bad.json").write_text("{}")
    onnx.save(onnx.ModelProto(), "empty.onnx")
    for line, status in {
        "in.onnx out.onnx --data nan.npy": 1,
        "in.onnx out.onnx --data none.npy": 1,
        "in.onnx out.onnx --from-plan none.json": 1,
        "in.onnx out.onnx --from-plan bad.json": 1,
        "in.onnx out.onnx --data data.npy --std 0": 2,
        "empty.onnx out.onnx": 1,
        f"{RUN} --ratio 0.5 --target-macs 0.5": 2,
    }.items():
        refused(line, "| try: ", status=status)
    refused(f"{RUN} --provider abacus", "try: leave --provider out", "extra gpu")


def test_labels_are_counted_before_samples(refused):
    np.save("few.npy", images(14))
    np.save("labels.npy", np.zeros(200, int))
    line = "in.onnx out.onnx --data few.npy --max-drop 1% --labels"
    refused(f"{line} labels.npy", "--labels: not one class per sample", "got: int64 (200,)")
    np.save("labels.npy", np.zeros(14, int))
    refused(f"{line} labels.npy", "no samples are held out", "samples or more", "more --data")


def test_too_few_samples_tell_how_many_it_takes(refused, capsys):
    short = refused("in.onnx out.onnx --data data.npy --max-drop 5%", "takes", status=3)
    needed = int(re.search(r"which takes (\d+) samples", short)[1])
    for count, is_short in ((needed - 1, True), (needed, False)):
        np.save("more.npy", images(count))
        line = "in.onnx out.onnx --data more.npy --max-drop 5% --joint-refit 0 -q"
        main(line.split())
        assert ("too few samples" in capsys.readouterr().err) == is_short


def test_what_the_model_can_not_be_fed(refused):
    n = Net({"ids": ("N", 4)})
    table = n.constant(np.random.default_rng(0).standard_normal((5, 8)))
    y = n.gemm(n.node("Flatten", n.node("Gather", table, "ids")), 32, 4)
    onnx.save(n.model(n.gemm(y, 4, 3), types={"ids": onnx.TensorProto.INT64}), "ids.onnx")
    np.save("ids.npy", np.arange(96).reshape(24, 4))
    refused(
        "ids.onnx out.onnx --data ids.npy", "can't run the model", "fed: ids (", "try: check that"
    )


@pytest.mark.parametrize("scale", [1e18, 1e30])
@pytest.mark.parametrize("more", ["", " --criterion l1", " --criterion wanda"])
def test_numbers_whose_squares_are_too_large(refused, scale, more):
    np.save("large.npy", images(40) * np.float32(scale))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused(
            f"in.onnx out.onnx --data large.npy --target-macs 0.6{more}",
            "error: conv", "NaN or infinite values at this layer", "try: check the data's range",
        )  # fmt: skip


# Layers that have no channels


@pytest.mark.parametrize(
    ("shape", "weight", "place", "attributes"),
    [
        ((8, 4), (6, 8), "first", {}),
        ((3, 5, 8), (3, 8, 6), "second", {}),
        ((5, 8), (8, 6), "second", {"equation": "bnc,cd->bnd"}),
    ],
)
def test_weights_in_another_form_are_named(refused, shape, weight, place, attributes):
    n = Net({"x": ("N", *shape)})
    pair = (n.weight(*weight), "x") if place == "first" else ("x", n.weight(*weight))
    y = n.node("Einsum" if attributes else "MatMul", *pair, name="layer", **attributes)
    onnx.save(n.model(n.node("Relu", y)), "other.onnx")
    refused("other.onnx out.onnx", f"got: layer ({'Einsum' if attributes else 'MatMul'} with a "
            f"constant {weight} as its {place} operand", "try: onnx-reap inspect\n")  # fmt: skip
    assert onnx_reap.inspect("other.onnx").nothing.endswith("other layers read")


def test_globs_are_blamed_only_if_given(refused):
    line = "in.onnx out.onnx --data data.npy"
    refused(f"{line} --exclude *", "no channel that may be removed", "try: loosen --exclude\n")
    refused(f"{line} --include relu*", "try: loosen --include\n")
    assert onnx_reap.inspect("in.onnx", exclude="*").nothing.endswith("try: loosen --exclude")


# The outputs


def test_an_output_that_is_the_input(refused, workplace):
    refused("in.onnx in.onnx --data data.npy", "the same file as the input model", "try: ")
    refused("in.onnx ./in.onnx --data data.npy", "the same file")
    (workplace / "link.onnx").symlink_to("in.onnx")
    refused("in.onnx link.onnx --data data.npy", "the same file")
    refused("link.onnx in.onnx --data data.npy", "the same file")
    os.link("in.onnx", "hard.onnx")
    refused("in.onnx hard.onnx --data data.npy", "the same file")
    refused("in.onnx data.npy --data data.npy", "the same file as --data")


def test_an_output_that_can_not_be_written(refused, workplace):
    refused("in.onnx no/out.onnx --data data.npy", "does not exist", "try: mkdir -p")
    refused("in.onnx /dev/null --data data.npy", "not a regular file")
    if Path("/proc/self").exists():
        refused("in.onnx /proc/out.onnx --data data.npy", "can't be written", "try: ")
    (workplace / "locked").mkdir()
    (workplace / "locked").chmod(0o500)
    if os.access("locked", os.W_OK):
        return  # whoever may write anywhere
    refused("in.onnx locked/out.onnx --data data.npy", "can't be written", "Permission denied")


def test_a_disk_that_is_full_at_the_end(refused, monkeypatch):
    def full(_file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    refused(WHOLE, "can't be written", "No space left on device")


# In the middle of a run


@pytest.mark.parametrize(
    "stage",
    [
        "prune.pruning_curves.capture_moments",
        "prune.refit.layerwise.refit_model",
        "prune.apply.cut_model",
    ],
)
def test_an_interrupted_run_leaves_nothing(stage, monkeypatch, workplace, capsys):
    def interrupt(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"onnx_reap.{stage}", interrupt)
    before = contents(workplace.parent)
    assert main(WHOLE.split()) == 130
    assert capsys.readouterr() == ("", "onnx-reap: interrupted\n")
    assert contents(workplace.parent) == before


def test_an_interrupt_while_activations_lie_on_disk(monkeypatch, workplace, capsys):
    from onnx_reap.measure.activations import stream
    from onnx_reap.prune.refit import walk

    fit, seen = walk.fit_layer, []

    def second_time(*arguments, **options):
        seen.append(len(contents(workplace.parent / "tmp")))
        if len(seen) > 1 and seen[-1]:
            raise KeyboardInterrupt
        return fit(*arguments, **options)

    monkeypatch.setattr(stream, "MEMORY", 0)
    monkeypatch.setattr(walk, "fit_layer", second_time)
    before = contents(workplace.parent)
    assert main(WHOLE.split()) == 130
    assert seen[-1] > 0  # there was something on disk
    assert capsys.readouterr() == ("", "onnx-reap: interrupted\n")
    assert contents(workplace.parent) == before


def test_a_signal_stops_the_command(workplace, tmp_path):
    np.save("many.npy", images(64))
    code = """
import signal, sys, time
from onnx_reap.cli.main import main as cli
from onnx_reap.prune.refit import repairs

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in background

def repair(*arguments, **named):
    print("in the midst of the work", file=sys.stderr, flush=True)
    time.sleep(60)

repairs.repair = repair
sys.exit(cli(sys.argv[1:]))
"""
    line = "in.onnx out.onnx --data many.npy --report r.json"
    paths = os.pathsep.join(filter(None, sys.path))
    command = subprocess.Popen(
        [sys.executable, "-c", code, *line.split()],
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": paths, "TMPDIR": str(tmp_path / "tmp")},
        text=True,
    )
    before = contents(workplace.parent)
    assert command.stderr is not None
    assert command.stderr.readline() == "in the midst of the work\n"
    command.send_signal(signal.SIGINT)
    _, err = command.communicate(timeout=30)
    assert command.returncode == 130, err
    assert err == "onnx-reap: interrupted\n"
    assert contents(workplace.parent) == before


def test_a_result_that_the_checker_refuses(refused, monkeypatch):
    check = onnx.checker.check_model

    def refuse_pruned(model, **options):
        if any(entry.key == "onnx_reap.version" for entry in model.metadata_props):
            raise onnx.checker.ValidationError("a node\nis wrong")
        check(model, **options)

    monkeypatch.setattr(onnx.checker, "check_model", refuse_pruned)
    refused(WHOLE, "not valid ONNX", "got: a node is wrong", "expected: ", "try: ", status=3)


def test_a_result_that_gives_nan(refused, monkeypatch):
    from onnx_reap.prune.refit import walk

    set_layers = walk.set_layers

    def broken(model, layers, weight, biases):
        written = set_layers(model, layers, weight, biases)
        if layers[0].op == "Gemm":
            stored = model.node(layers[0].node).inputs[1]
            stored.values = stored.values * np.float32(np.nan)
        return written

    monkeypatch.setattr(walk, "set_layers", broken)
    refused(WHOLE, "the pruned model gives NaN or infinity", status=3)


def test_an_original_that_the_checker_refuses_is_pruned_with_a_warning(monkeypatch, capsys):
    def refuse_all(*_args, **_kwargs):
        raise onnx.checker.ValidationError("always")

    monkeypatch.setattr(onnx.checker, "check_model", refuse_all)
    assert main([*WHOLE.split(), "-q"]) == 0
    assert "warning: onnx.checker refuses the original model" in capsys.readouterr().err
