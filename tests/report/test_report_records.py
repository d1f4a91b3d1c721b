from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from sample_report import sample_report

from onnx_reap.report.records import SCHEMA, GroupResult, Report


def test_dict_survives_json():
    values = sample_report().to_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["schema"] == SCHEMA
    assert values["before"]["macs"] == 40_812_544
    assert values["frozen"][0]["reason"] == "graph output"


def test_dict_holds_plain_values_only():
    settings = {"layer_ratios": Path("a.json"), "samples": np.int64(3), "include": ("a",)}
    group = GroupResult("g", 4, 2, (), (), float("inf"))
    values = sample_report(settings=settings, groups=(group,)).to_dict()
    assert values["settings"] == {"layer_ratios": "a.json", "samples": 3, "include": ["a"]}
    assert type(values["settings"]["samples"]) is int
    assert values["groups"][0]["error"] is None


def test_every_field_is_documented():
    page = (Path(__file__).parents[2] / "docs" / "report.md").read_text()
    values = sample_report().to_dict()
    nested = [values[key] for key in ("before", "fitted")]
    nested += [values[key][0] for key in ("groups", "frozen", "refits", "blocks")]
    names = {"schema", *Report.__dataclass_fields__} | {name for part in nested for name in part}
    assert sorted(name for name in names if f"`{name}`" not in page) == []
