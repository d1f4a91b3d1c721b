from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_models import chain

import onnx_reap
from onnx_reap.errors import ReapError
from onnx_reap.graph.groups import FrozenChannels
from onnx_reap.prune.plan import SCHEMA, GroupPlan, Plan

PLAN = Plan(
    {"target_macs": 0.5, "exclude": ["/a/*"]},
    (GroupPlan("/c1/Conv", 6, (0, 2, 5), ("/c1/Conv",), ("/c2/Conv",)), GroupPlan("ü", 2, (1,))),
    {"w": {"0": [0, 2, 5], "1": [[0, 1], [2]]}},
    (FrozenChannels("/fc/Gemm", 10, "graph output", "logits"),),
    {"x": (2, 3, 8, 8)},
)


def changed(**changes) -> str:
    return json.dumps(json.loads(PLAN.to_json()) | changes)


def group(**changes) -> list[dict]:
    return [json.loads(PLAN.to_json())["groups"][0] | changes]


def test_a_plan_comes_back_as_it_was():
    assert Plan.from_json(PLAN.to_json()) == PLAN


def test_a_plan_comes_back_from_a_file(tmp_path: Path):
    path = tmp_path / "plan.json"
    path.write_text(PLAN.to_json(), encoding="utf-8")
    assert Plan.load(path) == PLAN


def test_the_file_is_what_the_documentation_says():
    content = json.loads(PLAN.to_json())
    text = (Path(__file__).parents[2] / "docs" / "plan.md").read_text(encoding="utf-8")
    assert all(f"| `{field}` |" in text for field in content)
    assert content["schema"] == SCHEMA and f"version of this format: {SCHEMA}" in text
    for field in (*content["groups"][0], *content["frozen"][0]):
        assert f"`{field}`" in text


def test_an_edited_plan_may_be_in_any_order_and_without_names():
    edited = Plan.from_json(changed(groups=[{"name": "a", "width": 3, "kept": [2, 0]}]))
    assert edited.groups == (GroupPlan("a", 3, (0, 2)),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a plan | got: JSONDecodeError"),
        ("{", "not a plan"),
        ("[]", "not a plan"),
        ("{}", "not a plan | got: KeyError: 'schema'"),
        (changed(schema=2), "another schema | got: 2 | expected: 1"),
        (changed(groups=5), "not a plan"),
        (changed(groups=[5]), "not a plan"),
        (
            changed(groups=group(kept=[0.5])),
            "kept of group /c1/Conv is not a list of whole numbers",
        ),
        (changed(groups=group(kept=[True])), "not a list of whole numbers"),
        (changed(groups=group(kept="12")), "not a list of whole numbers"),
        (changed(groups=group(width="wide")), "not a plan"),
        (changed(frozen=[{"node": "a"}]), "not a plan"),
        (changed(settings=[1]), "not a plan"),
        (changed(input_shapes=[1]), "not a plan"),
        (changed(input_shapes={"x": [1, "3"]}), "input shape of x is not a list of whole numbers"),
        ("[" * 100_000, "not a plan"),
    ],
)
def test_what_is_no_plan_is_refused(text: str, message: str):
    with pytest.raises(ReapError) as refusal:
        Plan.from_json(text, "plan p.json")
    assert str(refusal.value).startswith("plan p.json: ") and message in str(refusal.value)


def test_a_plan_file_that_can_not_be_read_is_refused(tmp_path: Path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("missing", "binary", "."):
        with pytest.raises(ReapError, match="can't be read"):
            Plan.load(tmp_path / name)


@pytest.mark.parametrize("plan", [{}, None, 3])
def test_an_object_that_is_no_plan_is_refused(plan):
    with pytest.raises(ReapError, match="plan: no plan"):
        onnx_reap.cut(chain(), plan)
