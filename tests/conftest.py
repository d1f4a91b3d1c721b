"""Options for tests that need more than this repository holds."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Any

import pytest

# Behind all others: a script is called coverage, as pytest's plugin's library is.
sys.path.append(str(Path(__file__).parent.parent / "scripts"))


def _keep_to_one_core() -> None:
    """Bind each of pytest-xdist's workers to a core, before any library counts the cores."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is None or not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


_keep_to_one_core()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--zoo", metavar="DIR", help="folder of structure-only exports to cut")
    parser.addoption(
        "--zoo-all", action="store_true", help="all models of the zoo instead of a quick tenth"
    )


def zoo_folder(config: pytest.Config) -> Path | None:
    """The folder given by --zoo or ONNX_REAP_ZOO."""
    given = config.getoption("--zoo") or os.environ.get("ONNX_REAP_ZOO")
    return Path(given) if given else None


def times_by_macs(points: Iterable[Any], _providers: object, _on_point: object) -> dict[Any, float]:
    """Time layers by what they multiply, as `measure_layers` does by running them."""
    return {p: 1e-3 * p.inputs * p.outputs * prod(p.layer.kernel) for p in points}


@pytest.fixture(autouse=True)
def quick_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time whole models once only, and layers not at all."""
    from onnx_reap.prune import conclude
    from onnx_reap.prune.low_rank import timing

    monkeypatch.setattr(conclude, "LATENCY_SECONDS", 0.0)
    monkeypatch.setattr(timing, "measure_layers", times_by_macs)


@pytest.fixture(autouse=True)
def quick_repairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make few passes and steps where a test doesn't ask for more."""
    from onnx_reap.prune.refit import pace, tuning

    monkeypatch.setattr(pace, "PASSES", (2, 1, 0.5))
    monkeypatch.setattr(tuning, "ENOUGH_STEPS", 30)


@pytest.fixture
def quick_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Visit each layer and the whole model once, for as short as can be."""
    from onnx_reap.measure.latency import measure, profile

    for module in (measure, profile):
        monkeypatch.setattr(module, "ROUNDS", 1)
    for name in ("SECONDS", "WHOLE_SECONDS"):
        monkeypatch.setattr(measure, name, 0.0)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave tests out that download, unless they are asked for."""
    if "wild" in config.getoption("markexpr"):
        return
    left_out = [item for item in items if item.get_closest_marker("wild")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("wild")]


@pytest.fixture
def zoo(pytestconfig: pytest.Config) -> Path:
    folder = zoo_folder(pytestconfig)
    if folder is None:
        pytest.skip("needs --zoo DIR or ONNX_REAP_ZOO")
    return folder


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "zoo_model" not in metafunc.fixturenames:
        return
    folder = zoo_folder(metafunc.config)
    if folder is None:
        skip = pytest.mark.skip(reason="needs --zoo DIR or ONNX_REAP_ZOO")
        metafunc.parametrize("zoo_model", [pytest.param(None, marks=skip)], ids=["none"])
        return
    files = sorted(folder.glob("*.onnx.xz"), key=lambda path: path.stat().st_size)
    if not metafunc.config.getoption("--zoo-all"):
        files = files[: 3 * len(files) // 5 : 6]  # every sixth of the smaller three fifths
    metafunc.parametrize("zoo_model", files, ids=[path.name.split(".onnx")[0] for path in files])
