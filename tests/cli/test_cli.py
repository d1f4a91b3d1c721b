from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import onnx
import onnx.helper as oh
import pytest
from sample_report import sample_report
from small_models import chain

from onnx_reap import parsing
from onnx_reap.cli.arguments import parse
from onnx_reap.cli.main import main
from onnx_reap.cli.run import RUN
from onnx_reap.errors import CheckError, ReapError, TargetError
from onnx_reap.onnxio.light_model import LightModel
from onnx_reap.options import OPTIONS, Settings
from onnx_reap.report.result import Result


def tiny_model() -> onnx.ModelProto:
    ends = [oh.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in "xy"]
    node = oh.make_node("Relu", ["x"], ["y"])
    return oh.make_model(oh.make_graph([node], "tiny", ends[:1], ends[1:]))


RESULT = Result(
    LightModel(tiny_model()), sample_report(), SimpleNamespace(to_json=lambda: '{"groups": []}\n')
)


class Pipeline(ModuleType):
    """Stands in for `onnx_reap.api`: notes how it is called and does as it is told."""

    def __init__(self) -> None:
        super().__init__("onnx_reap.api")
        self.calls: list[tuple] = []
        self.action: Callable[[], object] = lambda: RESULT

    def reap(self, model, data=None, *, progress=None, **settings):
        self.calls.append(("reap", model, data, settings))
        return self.action()

    def replay(self, model, plan, *, progress=None, **settings):
        self.calls.append(("replay", model, plan, settings))
        return self.action()


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Pipeline:
    stub = Pipeline()
    monkeypatch.setitem(sys.modules, stub.__name__, stub)
    monkeypatch.chdir(tmp_path)
    Path("in.onnx").write_bytes(b"a model")
    return stub


def run(line: str) -> int:
    return main(line.split())


def written() -> set[str]:
    return {path.name for path in Path().iterdir()} - {"in.onnx"}


# Flags and settings


def test_nothing_given_is_nothing_set():
    arguments = parse(RUN, ["in.onnx", "out.onnx"])
    assert arguments.settings == {}
    assert (arguments.model, arguments.output) == (Path("in.onnx"), Path("out.onnx"))
    assert arguments.data is None and not arguments.quiet


@pytest.mark.parametrize(
    ("line", "settings"),
    [
        ("--ratio 30%", {"ratio": 0.3}),
        ("--target-macs 1.2G", {"target_macs": 1.2e9}),
        ("--target-params 60%", {"target_params": 0.6}),
        ("--target-macs 0.5 --target-params 1k", {"target_macs": 0.5, "target_params": 1e3}),
        (
            "--target-latency 5ms --latency-table t.json",
            {"target_latency": (5.0, "ms"), "latency_table": Path("t.json")},
        ),
        ("--layer-ratios a.json", {"layer_ratios": Path("a.json")}),
        ("--exclude a/* --exclude c", {"exclude": ["a/*", "c"]}),
        ("--include a", {"include": ["a"]}),
        ("--round-to auto", {"round_to": None}),
        ("--round-to 16 --min-channels 4", {"round_to": 16, "min_channels": 4}),
        ("--no-refit --criterion l1", {"refit": False, "criterion": "l1"}),
        (
            "--input-shapes a:0:1,3,8,8 --input-shapes b:7",
            {"input_shapes": {"a:0": (1, 3, 8, 8), "b": (7,)}},
        ),
        ("--resize 256 --crop 224,320", {"resize": 256, "crop": (224, 320)}),
        ("--mean 0.5,0.25 --std=2", {"mean": (0.5, 0.25), "std": (2.0,)}),
        ("--scale 1e-2 --color bgr", {"scale": 0.01, "color": "bgr"}),
        ("--seed 0 --samples 8 --positions 4", {"seed": 0, "samples": 8, "positions": 4}),
        ("--provider cuda", {"provider": "cuda"}),
    ],
)
def test_flags_become_settings(line: str, settings: dict):
    assert parse(RUN, ["a", "b", *line.split()]).settings == settings
    assert parse(RUN, [*line.split(), "a", "b"]).settings == settings
    Settings(**settings)


def test_help_names_every_flag_and_its_default(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    switches = [option for option in RUN.options if option.kind is parsing.SWITCH]
    named = [option for option in RUN.options if not option.positional]
    assert all(f"{option.flag} " in text or f"{option.flag}\n" in text for option in named)
    shown = " ".join(text.split())
    assert shown.count("(default:") == len(named) - len(switches)
    assert {option.name for option in named} >= set(OPTIONS)
    assert "--no-refit " in text and "--refit" not in text


def test_help_tells_of_no_data_where_none_is_taken(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["profile", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "repeatable (default: the model's own)" in shown and "from the data" not in shown


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (parsing.TARGET, "0.6", 0.6),
        (parsing.TARGET, "60%", 0.6),
        (parsing.TARGET, "1", 1.0),
        (parsing.TARGET, "100%", 1.0),
        (parsing.TARGET, "250k", 250e3),
        (parsing.TARGET, "500M", 500e6),
        (parsing.TARGET, "1.2G", 1.2e9),
        (parsing.TARGET, "3e8", 3e8),
        (parsing.LATENCY, "5ms", (5.0, "ms")),
        (parsing.LATENCY, "0.02s", (20.0, "ms")),
        (parsing.LATENCY, "800us", (0.8, "ms")),
        (parsing.LATENCY, "0.6x", (0.6, "x")),
        (parsing.LATENCY, "60%", (0.6, "x")),
        (parsing.NUMBERS, "0.485, 0.456,0.406", (0.485, 0.456, 0.406)),
        (parsing.NUMBERS, "[1 2]", (1.0, 2.0)),
        (parsing.PIXELS, "224x320", (224, 320)),
    ],
)
def test_values_are_read(kind: parsing.Kind, text: str, value: object):
    if kind is parsing.LATENCY:
        (number, unit), (value, wanted) = kind.parse(text), value
        assert (number, unit) == (pytest.approx(value, rel=1e-15), wanted)
        return
    assert kind.parse(text) == pytest.approx(value, rel=1e-15)  # decimal to binary


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        (parsing.TARGET, ["", "0", "-1", "0%", "150%", "nan", "inf", "1.2X", "k", "1k%", "%"]),
        (parsing.LATENCY, ["", "5", "0ms", "-1x", "ms", "5 m", "infx", "nan%", "5mm"]),
        (parsing.FRACTION, ["0", "1", "100%", "-0.1", "half", "", "500M"]),
        (parsing.POSITIVE, ["0", "-1", "1.5", "x", ""]),
        (parsing.SEED, ["-1", "x"]),
        (parsing.MULTIPLE, ["0", "8.0", "automatic"]),
        (parsing.PIXELS, ["0", "1,2,3", "", "a"]),
        (parsing.NUMBERS, ["", ",", "1,x", "nan"]),
        (parsing.NUMBER, ["inf", "x"]),
        (parsing.SHAPES, ["1,3", "x", "x:", ":1,3", "x:1,-3", "x:0", "x:1,,3", "x:N,3"]),
    ],
)
def test_nonsense_is_refused(kind: parsing.Kind, texts: list[str]):
    for text in texts:
        with pytest.raises(argparse.ArgumentTypeError, match="expected:"):
            kind.parse(text)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "required: in.onnx, out.onnx"),
        ("a", "required: out.onnx"),
        ("a b c", "unrecognized arguments: c"),
        ("a b --ratio 2", "--ratio: invalid value | got: '2' | expected: a fraction"),
        (
            "a b --target-macs 0.5 --ratio 0.5",
            "contradict each other | got: --ratio and --target-macs",
        ),
        ("a b --layer-ratios f --ratio 0.5", "got: --ratio and --layer-ratios"),
        ("a b --criterion l3", "--criterion: invalid value | got: 'l3' | expected: reap, l1"),
        ("a b --sam 3", "unrecognized arguments: --sam"),
        ("a b --input-shapes x:1 --input-shapes x:2", "--input-shapes names an input twice"),
        ("a b --from-plan p --data d --no-refit", "can't go with --no-refit, --data"),
        ("a b --from-plan p --ratio 0.5", "can't go with --ratio"),
    ],
)
def test_usage_errors_are_one_line_and_status_2(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
):
    assert run(line) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("onnx-reap: error: ") and err.count("\n") == 1
    assert message in err


def test_help_and_version_load_nothing_heavy():
    code = (
        "import sys; from onnx_reap.cli.main import main\n"
        "try: main(['--version'])\n"
        "except SystemExit: pass\n"
        "heavy = {'onnxruntime', 'cupy', 'torch', 'onnx', 'numpy', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("onnx-reap ")


# A run


def test_a_run_writes_the_model_and_prints_the_report(
    pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
):
    assert main(["in.onnx", "out.onnx", "--data", "d.npz", "--samples", "5"]) == 0
    assert pipeline.calls == [("reap", Path("in.onnx"), Path("d.npz"), {"samples": 5})]
    assert onnx.load("out.onnx") == RESULT.light.proto
    assert written() == {"out.onnx"}
    out, err = capsys.readouterr()
    assert "MACs" in out and out.endswith("Wrote out.onnx\n")
    assert err == "warning: 5 samples are few\n"
    assert Path("in.onnx").read_bytes() == b"a model"


def test_report_and_plan_are_written_too(pipeline: Pipeline):
    assert run("in.onnx out.onnx --report r.json --plan p.json") == 0
    assert written() == {"out.onnx", "r.json", "p.json"}
    assert json.loads(Path("r.json").read_text()) == RESULT.report.to_dict()
    assert Path("p.json").read_text() == RESULT.plan.to_json()


def test_a_plan_is_replayed(pipeline: Pipeline):
    assert run("in.onnx out.onnx --from-plan p.json --input-shapes x:2") == 0
    settings = {"input_shapes": {"x": (2,)}}
    assert pipeline.calls == [("replay", Path("in.onnx"), Path("p.json"), settings)]


def test_quiet_keeps_warnings_only(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]):
    assert main(["in.onnx", "out.onnx", "-q"]) == 0
    assert capsys.readouterr() == ("", "warning: 5 samples are few\n")


@pytest.mark.parametrize(
    ("error", "status"),
    [(ReapError("bad", got="a\nb"), 1), (TargetError("far"), 3), (CheckError("off"), 3)],
)
def test_refusals_are_one_line_and_leave_nothing(
    pipeline: Pipeline, error: ReapError, status: int, capsys: pytest.CaptureFixture[str]
):
    def refuse():
        raise error

    pipeline.action = refuse
    assert run("in.onnx out.onnx --report r.json --plan p.json") == status
    assert capsys.readouterr() == ("", f"onnx-reap: error: {error}\n")
    assert written() == set()


def test_an_interrupted_run_leaves_nothing(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]):
    def interrupt():
        raise KeyboardInterrupt

    pipeline.action = interrupt
    assert run("in.onnx out.onnx --report r.json") == 130
    assert capsys.readouterr() == ("", "onnx-reap: interrupted\n")
    assert written() == set()


def test_a_bug_keeps_its_traceback(pipeline: Pipeline):
    def stumble():
        raise ZeroDivisionError

    pipeline.action = stumble
    with pytest.raises(ZeroDivisionError):
        main(["in.onnx", "out.onnx"])
    assert written() == set()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("in.onnx in.onnx", "the output model is the same file as the input model"),
        ("in.onnx o --report ./in.onnx", "--report is the same file as the input model"),
        ("in.onnx o --plan ./o", "--plan is the same file as the output model"),
        ("in.onnx o --report o", "--report is the same file as the output model"),
        ("in.onnx d.npz --data d.npz", "the output model is the same file as --data"),
        ("in.onnx o --from-plan p --plan p", "--plan is the same file as --from-plan"),
        ("in.onnx o --layer-ratios l --report l", "same file as --layer-ratios"),
        ("in.onnx o --max-drop 1% --labels l --data d --report l", "same file as --labels"),
        ("in.onnx o --custom-op-library l.so --plan l.so", "same file as --custom-op-library"),
        ("in.onnx no/o", "the folder of the output model does not exist"),
        ("in.onnx o --report no/r", "the folder of --report does not exist"),
        ("in.onnx .", "the output model is a folder"),
    ],
)
def test_bad_outputs_are_refused_before_the_work(
    pipeline: Pipeline, line: str, message: str, capsys: pytest.CaptureFixture[str]
):
    assert run(line) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err
    assert pipeline.calls == []
    assert written() == set()


def test_the_command_alone_tells_what_it_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["onnx-reap"])
    assert main() == 2
    assert "required: in.onnx, out.onnx" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_where_nothing_can_be_printed_the_files_are_there(tmp_path: Path):
    onnx.save(chain(), tmp_path / "in.onnx")
    run = "in.onnx out.onnx --ratio 0.5 --no-refit --criterion l1"
    for line, status in ((run, 0), ("inspect in.onnx", 1)):
        with Path("/dev/full").open("w") as full:
            found = subprocess.run(
                [sys.executable, "-m", "onnx_reap", *line.split()],
                stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path, check=False,
            )  # fmt: skip
        assert found.returncode == status, found.stderr
        assert "Traceback" not in found.stderr and "Exception ignored" not in found.stderr
    assert (tmp_path / "out.onnx").exists()


def test_a_model_that_fits_no_file_is_refused(
    pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
):
    class Huge:
        graph = onnx.GraphProto()

        def SerializeToString(self, **_):
            raise ValueError("exceeds maximum protobuf size of 2GB")

    pipeline.action = lambda: replace(RESULT, light=LightModel(Huge()))
    assert run("in.onnx out.onnx --report r.json") == 1
    assert "2 GB" in capsys.readouterr().err
    assert written() == set()


def test_names_that_the_terminal_can_not_show_are_no_failure(pipeline: Pipeline):
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from test_cli import Pipeline\n"
        "sys.modules['onnx_reap.api'] = Pipeline()\n"
        "from onnx_reap.cli.main import main; sys.exit(main(['in.onnx', 'out.onnx']))"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent.parent), *sys.path]
    ran = subprocess.run(
        command, capture_output=True, check=False, env={"PYTHONIOENCODING": "ascii"}
    )
    assert ran.returncode == 0, ran.stderr.decode()
    assert b"1.23 ? 0.10" in ran.stdout
