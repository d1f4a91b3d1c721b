from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from latency_helpers import layer, table

from onnx_reap.errors import ReapError
from onnx_reap.measure.latency.table import SCHEMA, LatencyTable, check_layers

TABLE = table(layer("/c1/Conv"), layer("ü", inputs=(3,)), whole=2.5)


def changed(**changes) -> str:
    return json.dumps(json.loads(TABLE.to_json()) | changes)


def entry(**changes) -> list[dict]:
    return [json.loads(TABLE.to_json())["layers"][0] | changes]


def test_a_table_comes_back_as_it_was(tmp_path: Path):
    assert LatencyTable.from_json(TABLE.to_json()) == TABLE
    rounded = replace(TABLE, round_to=8, layers=())
    assert LatencyTable.from_json(rounded.to_json()) == rounded
    path = tmp_path / "latency.json"
    path.write_text(TABLE.to_json(), encoding="utf-8")
    assert LatencyTable.load(path) == TABLE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a latency table | got: JSONDecodeError"),
        (TABLE.to_json()[:-20], "not a latency table"),
        ("[]", "not a latency table"),
        ("{}", "not a latency table | got: KeyError: 'schema'"),
        (changed(schema=SCHEMA + 1), f"another schema | got: {SCHEMA + 1} | expected: {SCHEMA}"),
        (changed(layers=5), "not a latency table"),
        (changed(layers=[5]), "not a latency table"),
        (changed(provider=1), "1 is not a name"),
        (changed(round_to=0), "0 is not a size"),
        (changed(whole_ms=None), "None is not a time"),
        (changed(layers=entry() * 2), "a layer is there twice"),
        (changed(layers=entry(inputs=[])), "widths of /c1/Conv don't ascend"),
        (changed(layers=entry(inputs=[2, 2, 8])), "widths of /c1/Conv don't ascend"),
        (changed(layers=entry(inputs=[2, 8])), "times of /c1/Conv are not 2 x 2"),
        (changed(layers=entry(ms=[[1, 2], [1, 2], [1]])), "times of /c1/Conv are not 3 x 2"),
        (changed(layers=entry(ms=[[1, 2], [1, -2], [1, 2]])), "-2 is not a time"),
        (changed(layers=entry(ms=[[1, 2], [1, float("nan")], [1, 2]])), "nan is not a time"),
        (changed(layers=entry(outputs=[4, True])), "True is not a size"),
        (changed(layers=entry(weight="big")), "'big' is not a list"),
        ("[" * 100_000, "not a latency table"),
    ],
)
def test_what_is_no_table_is_refused(text: str, message: str):
    with pytest.raises(ReapError) as refusal:
        LatencyTable.from_json(text, "latency table t.json")
    said = str(refusal.value)
    assert said.startswith("latency table t.json: ") and message in said and "\n" not in said


def test_a_file_that_can_not_be_read_is_refused(tmp_path: Path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("missing", "binary", "."):
        with pytest.raises(ReapError, match="can't be read"):
            LatencyTable.load(tmp_path / name)


def test_layers_of_another_model_are_refused():
    a, b = layer("a"), layer("b")
    check_layers(table(b, a), [a, b])
    check_layers(table(a), [replace(a, inputs=(), ms=())])
    for got, want, named in [
        ([a], [a, b], "not in the table"),
        ([a, b], [a], "no such layer"),
        ([a], [replace(a, weight=(8, 8, 1, 1))], r"weight \[8, 8, 1, 1\]"),
        ([a], [replace(a, x_shape=(1, 8, 7, 7))], r"on \[1, 8, 7, 7\]"),
        ([a], [replace(a, op="ConvTranspose")], "expected: ConvTranspose"),
    ]:
        with pytest.raises(ReapError, match=named):
            check_layers(table(*got), want)
