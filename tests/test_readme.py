"""The README's examples run; its set-up commands, which install, are left to .ci/run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from onnx_reap.cli.arguments import make_parser
from onnx_reap.cli.inspect import INSPECT
from onnx_reap.cli.profile import PROFILE
from onnx_reap.cli.run import RUN
from onnx_reap.cli.sweep import SWEEP
from onnx_reap.options import DEFAULT_MAX_DROP, DEFAULT_TARGET_MACS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
SETUP = [code.strip() for kind, code in BLOCKS if code.startswith("pip install")]
SHELL = [code for kind, code in BLOCKS if kind == "bash" and not code.startswith("pip install")]
PYTHON = "".join(code for kind, code in BLOCKS if kind == "python")

QUICK = """
from onnx_reap.measure.latency import measure, profile
from onnx_reap.prune import conclude
from onnx_reap.prune.refit import pace, repairs, tuning

repairs.MOST_COPIES = 0
pace.PASSES, tuning.ENOUGH_STEPS = (1,), 30
conclude.LATENCY_SECONDS = measure.SECONDS = measure.WHOLE_SECONDS = 0.0
measure.ROUNDS = profile.ROUNDS = 1
"""
"""Before an example: descents take few steps, samples aren't copied, what is timed runs once."""

FEW = 96  # calibration samples

with_models = pytest.mark.skipif(
    not (ROOT / "models" / "fashion_resnet.onnx").exists(),
    reason="models/ is missing; scripts/train_fashion_mnist.py makes it",
)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder like the repository's root, with fewer calibration samples.

    Later examples find what earlier ones wrote.
    """
    folder = tmp_path_factory.mktemp("readme")
    (folder / "models").mkdir()
    for path in (ROOT / "models").iterdir():
        (folder / "models" / path.name).symlink_to(path)
    data = folder / "models" / "fashion_calib.npz"
    few = {name: array[:FEW] for name, array in np.load(data).items()}
    data.unlink()
    np.savez(data, **few)
    (folder / "bin").mkdir()
    script = folder / "bin" / "onnx-reap"
    command = f"import sys\n{QUICK}\nfrom onnx_reap.cli.main import main\n\nsys.exit(main())\n"
    script.write_text(f"#!{sys.executable}\n{command}")
    script.chmod(0o755)
    return folder


def run(command: list[str], workplace: Path) -> str:
    path = os.pathsep.join([str(workplace / "bin"), os.environ["PATH"]])
    modules = os.pathsep.join(filter(None, sys.path))
    ran = subprocess.run(
        command,
        cwd=workplace,
        env=os.environ | {"PATH": path, "PYTHONPATH": modules},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr
    return ran.stdout


def test_the_two_commands_are_there():
    assert SETUP == [
        'pip install ".[cpu]" && onnx-reap models/fashion_resnet.onnx pruned.onnx '
        "--data models/fashion_calib.npz",
        'pip install ".[cpu,test]" && pytest',
    ]


def test_every_block_is_of_a_known_kind():
    assert {kind for kind, _ in BLOCKS} <= {"bash", "python", "console"}
    assert len(BLOCKS) == TEXT.count("```") // 2
    assert len(SHELL) > 2 and PYTHON


@with_models
def test_shell_examples_run(workplace: Path):
    for example in SHELL:  # in order: a plan is written, then replayed
        code = re.sub(r"(--joint-refit|--tune) [1-9]\d*", r"\1 1", example)
        output = run(["bash", "-euo", "pipefail", "-c", code], workplace)
        assert "Wrote " in output


@with_models
def test_python_examples_run(workplace: Path):
    output = run([sys.executable, "-c", QUICK + PYTHON], workplace)
    assert "->" in output


def test_flags_that_the_text_names_exist():
    parsers = [make_parser(command) for command in (RUN, INSPECT, PROFILE, SWEEP)]
    known = {flag for parser in parsers for flag in parser._option_string_actions} | {"--refit"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", TEXT)) <= known


def test_the_default_budget_is_the_one_that_the_text_names():
    assert f"estimated loss is at most {100 * DEFAULT_MAX_DROP:g} % (`--max-drop`" in TEXT
    assert f"at most {100 * DEFAULT_TARGET_MACS:g} % of the multiply-accumulates" in TEXT


@pytest.mark.parametrize("target", re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT))
def test_links_lead_somewhere(target: str):
    if target.startswith("models/") and not (ROOT / "models" / "fashion_resnet.onnx").exists():
        pytest.skip("models/ is missing; scripts/train_fashion_mnist.py makes it")
    assert (ROOT / target).exists()
