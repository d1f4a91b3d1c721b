"""What derives from the table of options agrees with what is written by hand."""

from __future__ import annotations

import dataclasses
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import onnx_reap
from onnx_reap.cli.inspect import INSPECT
from onnx_reap.cli.profile import PROFILE
from onnx_reap.cli.run import RUN
from onnx_reap.cli.sweep import SWEEP
from onnx_reap.errors import UsageError
from onnx_reap.fields import CRITERIA
from onnx_reap.options import OPTIONS, RunKeywords, Settings

COMMANDS = {command.name: command for command in (RUN, INSPECT, PROFILE, SWEEP)}


def test_every_setting_is_an_option_and_a_keyword():
    fields = {field.name for field in dataclasses.fields(Settings)}
    assert fields == set(OPTIONS) == RunKeywords.__optional_keys__


@pytest.mark.parametrize("name", OPTIONS)
def test_defaults_are_valid_and_groups_known(name: str):
    option = OPTIONS[name]
    assert option.accept(option.default) == option.default or option.default == ()
    assert option.group in ("budget", "data", "method", "zeros")
    assert option.default is None or option.kind.is_valid(option.default)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_no_command_has_an_option_twice(command):
    flags = [option.flag for option in command.options]
    assert len(flags) == len(set(flags))


@pytest.mark.parametrize("name", sorted(set(CRITERIA) - {"reap"}))
def test_every_criterion_has_a_module(name: str):
    module = import_module(f"onnx_reap.prune.criteria.{name}")
    assert hasattr(module, "rank" if CRITERIA[name].merges else "order")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"min_channels": 0}, "--min-channels: invalid value | got: 0 | expected: an integer >= 1"),
        ({"seed": -1}, "--seed: invalid value | got: -1 | expected: an integer >= 0"),
        ({"samples": True}, "--samples: invalid value"),
        ({"ratio": 1.0}, "--ratio: invalid value"),
        ({"ratio": "130%"}, "--ratio: invalid value"),
        ({"target_macs": float("nan")}, "--target-macs: invalid value"),
        ({"target_latency": "5"}, "--target-latency: invalid value | got: '5'"),
        ({"allocation": "fair"}, "expected: pro, local or uniform"),
        ({"criterion": None}, "--criterion: invalid value"),
        ({"augment": "flip"}, "expected: auto, none, image or signal"),
        ({"round_to": "no"}, "--round-to: invalid value"),
        ({"refit": 1}, "--refit: invalid value | got: 1 | expected: True or False"),
        ({"latency_table": 3}, "--latency-table: invalid value"),
        ({"resize": [1, 2, 3]}, "--resize: invalid value"),
        ({"target_mac": 0.5}, "unknown settings | got: target_mac | expected:"),
    ],
)
def test_values_that_are_refused(given: dict, message: str):
    with pytest.raises(UsageError) as caught:
        Settings.make(given)
    assert message in str(caught.value)


def test_what_python_passes_becomes_what_the_command_reads():
    given = {
        "include": "a/*", "custom_op_library": Path("ops.so"), "round_to": "auto",
        "target_latency": "60%", "target_macs": "1.2G", "target_params": "60%", "target_size": "5M",
        "ratio": "30%", "max_drop": "1%", "tile_sparsity": "0.5",
        "mean": np.array([0.5, 0.25]), "low_rank": True, "samples": None,
    }  # fmt: skip
    settings = Settings.make(given)
    assert settings.include == ["a/*"] and settings.custom_op_library == [Path("ops.so")]
    assert (settings.round_to, settings.low_rank, settings.mean) == (None, "also", [0.5, 0.25])
    assert settings.target_latency == (pytest.approx(0.6), "x")
    targets = (settings.target_macs, settings.target_params, settings.target_size)
    assert targets == pytest.approx((1.2e9, 0.6, 5e6))
    shares = (settings.ratio, settings.max_drop, settings.tile_sparsity)
    assert shares == pytest.approx((0.3, 0.01, 0.5))


def test_what_differs_from_the_defaults_is_chosen():
    chosen = Settings(ratio=0.5, labels=[1, 2], evaluate=len, seed=0).chosen()
    assert chosen == {"ratio": 0.5, "labels": "2 given", "evaluate": "builtins:len"}


def test_a_misspelt_keyword_is_a_type_error(tmp_path: Path):
    mypy = pytest.importorskip("mypy.api")
    code = tmp_path / "code.py"
    code.write_text(
        "from onnx_reap.options import RunKeywords\n"
        "right: RunKeywords = {'ratio': 0.5}\n"
        "wrong: RunKeywords = {'ratoi': 0.5}\n"
    )
    text, _, _ = mypy.run(["--follow-imports=silent", str(code)])
    assert 'Extra key "ratoi"' in text and "code.py:2" not in text


def test_public_functions_take_the_keywords_of_their_commands():
    for command in COMMANDS.values():
        function = getattr(onnx_reap, {"run": "reap"}.get(command.name, command.name))
        assert f"{command.keywords.__name__}]" in function.__annotations__["settings"]
