from __future__ import annotations

import json
from pathlib import Path

import pytest
from conditional import SWITCH, in_branches, with_switch
from small_models import chain, images

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
    {"rate": 16000},
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
        (changed(input_values=[1]), "not a plan"),
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


@pytest.mark.parametrize("taken", [True, False])
def test_a_plan_knows_which_branch_was_pruned(taken: bool):
    """Samples that are made up may take the other one."""
    model, value = in_branches(chain(8)), 1 if taken else 16000
    feeds = [with_switch({"x": x[None]}, value) for x in images(12)]
    made = onnx_reap.reap(model, feeds, ratio=0.5, criterion="l1", refit=False)
    plan = Plan.from_json(made.plan.to_json())
    assert plan.input_values == {SWITCH: value}
    again = onnx_reap.api.replay(model, plan)
    assert again.model.graph == made.model.graph
    assert onnx_reap.cut(model, plan).graph == made.model.graph
    assert again.plan.input_values == plan.input_values


def test_values_of_inputs_are_left_out_where_no_branch_follows_from_them():
    assert "input_values" not in json.loads(onnx_reap.reap(chain(), ratio=0.5).plan.to_json())


@pytest.mark.parametrize("value", ["text", 0.5, 10**30, [1], None])
def test_a_value_that_an_input_can_not_hold_is_refused(value):
    model = in_branches(chain(8))
    feeds = [with_switch({"x": x[None]}) for x in images(4)]
    plan = onnx_reap.reap(model, feeds, ratio=0.5, criterion="l1", refit=False).plan
    text = json.dumps(json.loads(plan.to_json()) | {"input_values": {SWITCH: value}})
    with pytest.raises(ReapError, match="a value that input switch can't hold"):
        onnx_reap.cut(model, Plan.from_json(text))
