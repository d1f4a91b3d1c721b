"""Hints name only options that the command takes."""

import ast
from pathlib import Path

import numpy as np
import onnx
import pytest
from net import Net

import onnx_reap
from onnx_reap.cli.main import ALL, main
from onnx_reap.errors import ReapError, named

PACKAGE = Path(onnx_reap.__file__).parent
FLAGS = {flag for command in ALL for flag in command.flags}


def hints() -> list[str]:
    """List all constant parts of hints in the package."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "hint":
                ways = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
                for way in ways:
                    parts = [n.value for n in ast.walk(way) if isinstance(n, ast.Constant)]
                    found.append(" ".join(part for part in parts if isinstance(part, str)))
    return found


def test_hints_name_flags_that_exist():
    others = {"--upgrade"}  # of pip
    assert len(hints()) > 30
    assert {flag for hint in hints() for flag in named(hint)} <= FLAGS | others


@pytest.mark.parametrize("command", ALL, ids=lambda command: command.name)
def test_a_command_hints_only_at_what_it_takes(command):
    for hint in hints():
        told = ReapError("what", hint=(hint, "another way")).told_to(command.flags, FLAGS)
        assert not named(told) & FLAGS - command.flags
        assert told.endswith("another way")
        taken = not named(hint) & FLAGS - command.flags
        assert (" ".join(hint.split()) in told) == taken


def test_a_message_without_a_way_out_has_no_hint():
    error = ReapError("what", got="this", hint="--data")
    assert error.told_to({"--input-shapes"}, FLAGS) == "what | got: this"
    assert str(error) == "what | got: this | try: --data"


@pytest.fixture
def open_model(tmp_path):
    n = Net({"left": ("N", "A", 8), "right": ("N", "B", 8)})
    parts = [
        n.node("ReduceMean", n.node("MatMul", name, n.weight(8, 32)), axes=[1])
        for name in ("left", "right")
    ]
    relu = n.node("Relu", n.node("Add", *parts))
    path = tmp_path / "m.onnx"
    onnx.save(n.model(n.node("MatMul", relu, n.weight(32, 2))), path)
    return path


def test_inspect_names_all_open_inputs_and_takes_data(open_model, tmp_path, capsys):
    assert main(["inspect", str(open_model)]) == 1
    told = capsys.readouterr().err
    assert "--data, or --input-shapes left:1,?,8 --input-shapes right:1,?,8" in told
    np.savez(tmp_path / "x.npz", left=np.ones((4, 5, 8)), right=np.ones((4, 6, 8)))
    assert main(["inspect", str(open_model), "--data", str(tmp_path / "x.npz")]) == 0


def test_profile_does_not_hint_at_data(open_model, tmp_path, capsys):
    assert main(["profile", str(open_model), "-o", str(tmp_path / "t.json")]) == 1
    told = capsys.readouterr().err
    assert "--data" not in told
    assert "--input-shapes left:1,?,8" in told
