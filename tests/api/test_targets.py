"""Targets that only tries can tell: loss, latency, and the size of the file."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from small_models import chain, images, run

import onnx_reap
from onnx_reap.data.labels import read_labels
from onnx_reap.errors import ReapError, TargetError, UsageError
from onnx_reap.measure.latency.compare import Timing
from onnx_reap.measure.latency.table import LatencyTable
from onnx_reap.parsing import LATENCY
from onnx_reap.prune import accuracy_search, latency_search
from onnx_reap.prune.accuracy_search import _furthest
from onnx_reap.solve.intervals import agresti_min, wilson

MODEL = chain(16)
DATA = images(100)


def first_choices(model) -> np.ndarray:
    return run(model, {"x": DATA})[0].argmax(1)


@pytest.mark.parametrize("limit", [0.013, 0.1, 0.12, 0.37, 0.6])
def test_the_search_comes_near_the_limit_from_below(limit: float):
    tried = []

    def attempt(share: float) -> float | None:
        tried.append(share)
        return share if share <= limit else None

    found = _furthest(attempt, 0.01, 0.7, given=False)
    assert found is not None
    assert limit / 1.25 <= found <= limit, tried


def test_the_search_tries_what_is_given_first_and_gives_up_if_that_fails():
    tried = []
    assert _furthest(tried.append, 0.2, 0.7, given=True) is None
    assert tried == [0.2]


def test_the_search_goes_to_the_end_if_all_is_well():
    assert _furthest(lambda share: share, 0.01, 0.7, given=False) == 0.7


def test_wilson_interval():
    # Newcombe, Statistics in Medicine 17, 1998, table I: 81 of 263 and 0 of 20, without correction
    np.testing.assert_allclose(wilson(81 / 263, 263), (0.2553, 0.3662), atol=5e-5)
    np.testing.assert_allclose(wilson(0, 20), (0.0, 0.1611), atol=5e-5)


def test_the_smallest_model_within_a_disagreement():
    result = onnx_reap.reap(MODEL, DATA, max_drop=0.2)
    loss = result.report.loss
    assert loss.kind == "top-1 disagreement"
    assert (loss.samples, loss.limit) == (30, 0.2)
    assert loss.low <= loss.value <= loss.likely <= loss.high
    assert loss.value <= 0.2
    assert result.report.after.macs < result.report.before.macs
    changed = (first_choices(result.model) != first_choices(MODEL)).mean()
    assert changed <= 0.3  # all samples, of which the search saw 30


def test_a_model_that_is_no_classifier_is_judged_by_its_output_error():
    n = onnx_reap_features()
    result = onnx_reap.reap(n, images(60), max_drop=0.3)
    loss = result.report.loss
    assert loss.kind == "output error"
    assert loss.low < loss.value < loss.likely < loss.high
    assert loss.likely <= 0.3
    assert loss.value == pytest.approx(max(result.report.held_out.output_error.values()))


def onnx_reap_features():
    from net import Net

    n = Net({"x": ("N", 3, 8, 8)})
    return n.model(n.conv(n.block(n.block("x", 3, 16), 16, 16), 16, 4))


def test_with_labels_the_accuracy_is_bounded(tmp_path):
    labels = first_choices(MODEL)
    labels[::7] = (labels[::7] + 1) % 5
    np.save(tmp_path / "labels.npy", labels)
    result = onnx_reap.reap(MODEL, DATA, max_drop=0.2, labels=tmp_path / "labels.npy")
    assert result.report.loss.kind == "accuracy"
    assert result.report.loss.value <= 0.2


@pytest.mark.parametrize("shift", [-1, 1])
def test_labels_that_the_model_does_not_know_are_refused(shift):
    labels = np.arange(len(DATA)) % 5 + shift
    with pytest.raises(ReapError, match="--labels: not the model's classes"):
        onnx_reap.reap(MODEL, DATA, max_drop=0.2, labels=labels)


def test_no_change_among_few_samples_proves_little():
    low, high = agresti_min(0, 0, 18)
    assert low < -0.05 and high > 0.05
    # Agresti and Min's formula by hand: 12.5 lost, 4.5 gained, 102 samples.
    half = 1.96 * np.sqrt(17 - 8**2 / 102) / 102
    assert agresti_min(12, 4, 100) == pytest.approx((8 / 102 - half, 8 / 102 + half))


def test_labels_belong_to_the_samples_that_judge():
    result = onnx_reap.reap(MODEL, DATA, max_drop=0.3, labels=first_choices(MODEL), target_macs=0.6)
    report = result.report
    assert report.held_out.top1_agreement < 1  # otherwise this test tells nothing
    assert report.loss.value == pytest.approx(1 - report.held_out.top1_agreement)


def test_a_function_may_measure_the_loss():
    seen = []

    def evaluate(model) -> float:
        seen.append(sum(t.ByteSize() for t in model.graph.initializer))
        return seen[-1]

    result = onnx_reap.reap(MODEL, DATA, max_drop=0.5, evaluate=evaluate)
    assert result.report.loss.kind == "evaluate"
    assert seen[0] == max(seen)
    left = sum(t.ByteSize() for t in result.model.graph.initializer) / seen[0]
    assert 0.5 <= left < 0.75


def test_a_function_may_change_the_models_that_it_is_given():
    """A caller's model, and what is written, stay as they are."""
    model = chain(48)
    before = model.SerializeToString()

    def evaluate(given: onnx.ModelProto) -> float:
        size = sum(tensor.ByteSize() for tensor in given.graph.initializer)
        given.graph.initializer[0].raw_data = b""
        given.graph.node[0].name = "changed"
        return size

    result = onnx_reap.reap(model, DATA, max_drop=0.5, evaluate=evaluate)
    assert model.SerializeToString() == before
    assert result.model.graph.node[0].name != "changed"
    onnx.checker.check_model(result.model, full_check=True)


def test_budgets_are_kept_next_to_a_loss():
    result = onnx_reap.reap(MODEL, DATA, max_drop=0.9, target_macs=0.5)
    assert result.report.after.macs <= 0.5 * result.report.before.macs


def test_a_loss_that_a_budget_exceeds_is_refused():
    with pytest.raises(TargetError, match=r"--max-drop: can't be kept .* top-1 disagreement"):
        onnx_reap.reap(MODEL, images(40, seed=3), max_drop=0.05, target_macs=0.1, refit=False)


def test_few_samples_show_no_small_loss():
    message = r"--max-drop: too few samples .* 12 samples held out, which show 3\.65% at best"
    with pytest.raises(TargetError, match=message):
        onnx_reap.reap(MODEL, images(40), max_drop=0.01)
    with pytest.raises(TargetError, match="--max-drop: too few samples"):
        onnx_reap.reap(MODEL, images(40), max_drop=0.01, labels=np.zeros(40, int))
    # Without a budget that is no reason to refuse.
    report = onnx_reap.reap(MODEL, images(40), samples=None).report
    assert report.loss is None
    assert report.after.macs <= 0.6 * report.before.macs
    assert report.held_out.samples == 4
    assert any("too few samples to show a loss of at most 1%" in note for note in report.notes)


def test_scores_of_several_boxes_a_sample_are_no_classes():
    n = onnx_reap_features()
    y = n.graph.output[0].name
    rows = onnx.numpy_helper.from_array(np.array([-1, 4], np.int64), "rows")
    n.graph.initializer.append(rows)
    n.graph.node.append(onnx.helper.make_node("Reshape", [y, "rows"], ["boxes"]))
    n.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("boxes", 1, ["boxes", 4]))
    assert onnx_reap.reap(n, images(60), max_drop=0.3).report.loss.kind == "output error"


def test_an_output_that_can_not_be_compared_tells_no_loss():
    model = onnx.ModelProto()
    model.CopyFrom(MODEL)
    y = model.graph.output[0].name
    model.graph.node.append(onnx.helper.make_node("ArgMax", [y], ["first"], axis=1))
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("first", 7, ["N", 1]))
    with pytest.raises(ReapError, match="--max-drop: no output tells what is lost"):
        onnx_reap.reap(model, images(200), max_drop=0.01)


def test_an_output_may_be_a_sequence():
    model = onnx.ModelProto()
    model.CopyFrom(MODEL)
    y = model.graph.output[0].name
    model.graph.node.append(onnx.helper.make_node("SequenceConstruct", [y, y], ["both"]))
    sequence = onnx.helper.make_tensor_sequence_value_info("both", 1, None)
    model.graph.output.append(sequence)
    report = onnx_reap.reap(model, images(60), target_macs=0.7).report
    assert report.after.macs <= 0.7 * report.before.macs


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive"])
def test_damaged_labels(tmp_path, content):
    path = tmp_path / "labels.npz"
    path.write_bytes(content)
    with pytest.raises(ReapError, match="can't be read"):
        onnx_reap.reap(MODEL, images(100), max_drop=0.2, labels=path)


def test_labels_need_data():
    with pytest.raises(UsageError, match="--labels requires --data"):
        onnx_reap.reap(MODEL, max_drop=0.2, labels=[0] * 256)


def test_the_metric_tells_what_is_a_classifier():
    report = onnx_reap.reap(MODEL, images(60), max_drop=0.3, metric="error").report
    assert report.loss.kind == "output error"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": [1], "target_macs": 0.5}, "--labels requires --max-drop"),
        ({"evaluate": "a:b", "ratio": 0.5}, "--evaluate requires --max-drop"),
        ({"evaluate": "a:b", "labels": [1], "max_drop": 0.1}, "one of them"),
        ({"max_drop": 1}, "--max-drop"),
        ({"target_latency": [5]}, "--target-latency"),
        ({"ratio": 0.5, "max_drop": 0.1}, "contradict"),
    ],
)
def test_settings_that_make_no_sense(settings, message: str):
    with pytest.raises(UsageError, match=message):
        onnx_reap.reap(MODEL, DATA, **settings)


@pytest.mark.parametrize("labels", [np.zeros(3, int), np.zeros(100), "nowhere.npy"])
def test_labels_that_do_not_fit(labels):
    with pytest.raises(ReapError, match="--labels"):
        onnx_reap.reap(MODEL, DATA, max_drop=0.1, labels=labels)


@pytest.mark.parametrize(
    "name", ["no_such_module:f", "math:no_such", "math", "math:pi", "broken:f", "slip:f"]
)
def test_functions_that_do_not_exist_are_refused_before_calibration(
    name: str, monkeypatch, tmp_path
):
    (tmp_path / "broken.py").write_text("raise RuntimeError('broken')")
    (tmp_path / "slip.py").write_text("def f(:")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("onnx_reap.prune.pruning_curves.capture_moments", None)
    with pytest.raises(ReapError, match="--evaluate"):
        onnx_reap.reap(MODEL, DATA, max_drop=0.1, evaluate=name)


def test_labels_in_an_archive(tmp_path):
    from onnx_reap.data import open_calibration
    from onnx_reap.graph.inputs import model_inputs

    np.savez(tmp_path / "l.npz", other=np.zeros(2), labels=np.arange(100))
    samples = open_calibration(DATA, model_inputs(MODEL))
    np.testing.assert_array_equal(read_labels(tmp_path / "l.npz", samples), np.arange(100))


CONSTANT = 4.0  # ms


def time_of(model: onnx.ModelProto) -> float:
    """Milliseconds that a model is said to take."""
    return CONSTANT + sum(t.ByteSize() for t in model.graph.initializer) / 1000


def timed(monkeypatch) -> None:
    """Let a model take a constant time and one by the bytes of its weights; of layers, the latter.

    So what layers predict is too little, and the more so the smaller the model.
    """

    def compare(before, after, *_args, **_kwargs):
        both = (time_of(m.whole()) for m in (before, after))
        return tuple(Timing(each, 0.0, 1, "CPUExecutionProvider") for each in both)

    table = LatencyTable("CPUExecutionProvider", "1", None, time_of(MODEL), ())
    monkeypatch.setattr(latency_search, "measured_table", lambda *_: table)
    monkeypatch.setattr(latency_search, "predicted_latency", lambda analysis, _: analysis.params)
    monkeypatch.setattr(latency_search, "compare_latency", compare)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("target", ["0.6x", "12ms"])
def test_a_latency_is_reached_but_not_overdone(target, known, monkeypatch):
    timed(monkeypatch)
    if not known:  # too small a model to time its layers
        monkeypatch.setattr(
            latency_search, "predicted_latency", lambda analysis, _: analysis.params * 0
        )
    planned = []
    decide = latency_search.decide

    def spied(work, goal, evidence):
        planned.append(goal.budgets[-1])
        return decide(work, goal, evidence)

    monkeypatch.setattr(latency_search, "decide", spied)
    result = onnx_reap.reap(MODEL, DATA, target_latency=target, criterion="l1", refit=False)
    wanted = 0.6 * time_of(MODEL) if target == "0.6x" else 12
    assert 0.8 * wanted <= time_of(result.model) <= wanted  # widths are few
    assert len(planned) > 1  # the layers' times alone mislead
    assert {budget.name for budget in planned} == {"--target-latency"}  # as the user said


@pytest.mark.parametrize("target", ["1x", "1.5x", "900ms"])
def test_a_latency_that_is_met_takes_nothing_off(target, monkeypatch):
    timed(monkeypatch)
    monkeypatch.setattr("onnx_reap.prune.pruning_curves.capture_moments", None)
    result = onnx_reap.reap(MODEL, DATA, target_latency=target)
    assert result.report.after.macs == result.report.before.macs
    assert "nothing was removed" in " ".join(result.report.notes)


def test_a_busy_machine_is_told(monkeypatch):
    timing = Timing(3.0, 2.0, 9, "CPUExecutionProvider")
    monkeypatch.setattr(
        "onnx_reap.prune.conclude.compare_latency", lambda *_, **__: (timing, timing)
    )
    timed(monkeypatch)
    result = onnx_reap.reap(MODEL, DATA, target_latency="0.6x", criterion="l1", refit=False)
    assert "the machine was busy" in " ".join(result.report.notes)


@pytest.mark.parametrize("wrong", [lambda model: None, lambda model: 1 / 0])
def test_a_function_that_fails_is_named(wrong):
    with pytest.raises(ReapError, match="--evaluate: the function failed"):
        onnx_reap.reap(MODEL, DATA, max_drop=0.1, evaluate=wrong)


def test_a_file_may_be_as_large_as_it_is():
    result = onnx_reap.reap(MODEL, DATA, target_size=1.0, criterion="l1", refit=False)
    assert result.report.after.params == result.report.before.params


def test_a_latency_out_of_reach_is_refused_before_calibration(monkeypatch):
    timed(monkeypatch)
    monkeypatch.setattr("onnx_reap.prune.pruning_curves.capture_moments", None)
    with pytest.raises(TargetError, match=r"--target-latency: can't be reached .* at least"):
        onnx_reap.reap(MODEL, DATA, target_latency="0.001x")


def test_a_latency_that_no_try_reached_is_refused(monkeypatch):
    timed(monkeypatch)
    # Narrow widths are not looked at then.
    monkeypatch.setattr(accuracy_search, "MOST_REMOVED", 0.3)
    with pytest.raises(TargetError, match="--target-latency: can't be reached"):
        onnx_reap.reap(MODEL, DATA, target_latency="0.2x", criterion="l1", refit=False)


def test_a_file_that_is_larger_than_planned_is_refused(monkeypatch):
    monkeypatch.setattr("onnx_reap.prune.budgets.RESERVE", -3000)
    with pytest.raises(TargetError, match="--target-size: not met by the result"):
        onnx_reap.reap(chain(48), DATA, target_size=0.5, criterion="l1", refit=False)


def test_a_size_out_of_reach_is_refused_in_bytes(monkeypatch):
    monkeypatch.setattr("onnx_reap.prune.pruning_curves.capture_moments", None)
    with pytest.raises(TargetError, match=r"--target-size: can't be reached \| got: 200 \| .* of"):
        onnx_reap.reap(MODEL, DATA, target_size=200)


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_the_file_is_as_small_as_was_asked_for(share: float):
    model = chain(48)
    result = onnx_reap.reap(model, DATA, target_size=share, criterion="l1", refit=False)
    assert 0.6 * share < result.model.ByteSize() / model.ByteSize() <= share


@pytest.mark.parametrize(
    ("text", "value"), [("5ms", (5, "ms")), ("0.6x", (0.6, "x")), ("800us", (0.8, "ms"))]
)
def test_latencies_as_users_write_them(text: str, value: tuple[float, str]):
    number, unit = LATENCY.parse(text)
    assert (pytest.approx(number), unit) == value
