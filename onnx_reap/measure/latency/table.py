"""The latency table: how long every layer takes at some widths, as a file that other machines read.

The table says which runtime it was measured with, and enough of the model (names, operators,
shapes) to notice that it belongs to another one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from onnx_reap.errors import ReapError
from onnx_reap.onnxio.files import read_text

SCHEMA = 1
"""Version of the JSON file; raised when a field changes its meaning or goes."""


@dataclass(frozen=True)
class LayerTimes:
    """One linear layer's latency over a grid of widths."""

    # Key of the node, and its operator
    node: str
    op: str
    weight: tuple[int, ...]  # Shape of its weight in the model
    # Shape of its input in the model: of one sample, or one batch where that is fixed
    x_shape: tuple[int, ...]
    # Channels that it was measured at, ascending; the last is what the model has. A depthwise
    # layer's inputs follow its outputs, so there `inputs` holds one entry.
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    ms: tuple[tuple[float, ...], ...]  # Milliseconds, (inputs, outputs)


@dataclass(frozen=True)
class LatencyTable:
    """What was measured of one model on one device.

    Attributes
    ----------
    provider : str
        Execution provider that the layers ran on.
    onnxruntime : str
        Its version.
    round_to : int, optional
        Widths are multiples of this; None where they were rounded by the size of the group.
    whole_ms : float
        Milliseconds of the whole model as it is.
    layers : tuple of LayerTimes
        In topological order.
    """

    provider: str
    onnxruntime: str
    round_to: int | None
    whole_ms: float
    layers: tuple[LayerTimes, ...]

    def __str__(self) -> str:
        return f"latencies of {len(self.layers)} layers on {self.provider}"

    def to_json(self) -> str:
        """Write the table as text, one line a layer."""
        head: dict[str, Any] = {"schema": SCHEMA}
        head |= {n: getattr(self, n) for n in ("provider", "onnxruntime", "round_to", "whole_ms")}
        fields = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
        layers = ",\n".join(f"  {json.dumps(asdict(layer))}" for layer in self.layers)
        return "{\n" + ",\n".join(fields) + ',\n "layers": [\n' + layers + "\n ]\n}\n"

    @staticmethod
    def from_json(text: str, source: str = "latency table") -> LatencyTable:
        """Read a table from text.

        Parameters
        ----------
        source : str
            What to call the text in a refusal.

        Raises
        ------
        ReapError
            If the text is not a table of this schema.
        """
        try:
            content = json.loads(text)
            if content["schema"] != SCHEMA:
                raise ReapError(
                    f"{source}: another schema",
                    got=str(content["schema"]),
                    expected=str(SCHEMA),
                    hint="measure again with this version: onnx-reap profile",
                )
            return _table(content)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ReapError(
                f"{source}: not a latency table",
                got=f"{type(error).__name__}: {error}"[:200],
                expected="a file written by onnx-reap profile",
            ) from None

    @staticmethod
    def load(path: str | Path) -> LatencyTable:
        """Read a table from a file; see `from_json`."""
        return LatencyTable.from_json(read_text("latency table", path), f"latency table {path}")


def check_layers(table: LatencyTable, expected: Sequence[LayerTimes]) -> None:
    """Refuse a table of another model, or of other input shapes.

    Grids and times of the `expected` layers, the model's, are not looked at.

    Raises
    ------
    ReapError
    """
    got = {layer.node: _identity(layer) for layer in table.layers}
    want = {layer.node: _identity(layer) for layer in expected}
    for node in (*want, *got):
        if got.get(node) != want.get(node):
            raise ReapError(
                f"--latency-table: measured on another model, or at other input shapes; {node}",
                got=got.get(node, "not in the table"),
                expected=want.get(node, "no such layer"),
                hint="onnx-reap profile with this model and the same --input-shapes",
            )


def _identity(layer: LayerTimes) -> str:
    return f"{layer.op} with weight {list(layer.weight)} on {list(layer.x_shape)}"


def _table(content: Mapping[str, Any]) -> LatencyTable:
    round_to = content["round_to"]
    layers = tuple(_layer(entry) for entry in content["layers"])
    if len({layer.node for layer in layers}) < len(layers):
        raise ValueError("a layer is there twice")
    return LatencyTable(
        _text(content["provider"]),
        _text(content["onnxruntime"]),
        None if round_to is None else _size(round_to),
        _time(content["whole_ms"]),
        layers,
    )


def _layer(entry: Mapping[str, Any]) -> LayerTimes:
    node, inputs, outputs = _text(entry["node"]), _sizes(entry["inputs"]), _sizes(entry["outputs"])
    for widths in (inputs, outputs):
        if not widths or any(a >= b for a, b in pairwise(widths)):
            raise ValueError(f"widths of {node} don't ascend")
    ms = tuple(tuple(_time(value) for value in _list(row)) for row in _list(entry["ms"]))
    if len(ms) != len(inputs) or any(len(row) != len(outputs) for row in ms):
        raise ValueError(f"times of {node} are not {len(inputs)} x {len(outputs)}")
    op, weight, x_shape = _text(entry["op"]), _sizes(entry["weight"]), _sizes(entry["x_shape"])
    return LayerTimes(node, op, weight, x_shape, inputs, outputs, ms)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a name")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is not a list")
    return value


def _size(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise TypeError(f"{value!r} is not a size")
    return value


def _sizes(value: Any) -> tuple[int, ...]:
    return tuple(_size(size) for size in _list(value))


def _time(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value < math.inf:
        raise TypeError(f"{value!r} is not a time")
    return float(value)
