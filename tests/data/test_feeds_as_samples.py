"""Samples that are whole feeds, each of which a run takes by itself."""

import numpy as np
import pytest
from data_helpers import collect, spec

from onnx_reap.data import open_calibration, synthetic_calibration
from onnx_reap.data.feeds import NOTE
from onnx_reap.errors import ReapError

GRAPH = [spec(None, 4, name="nodes"), spec(2, None, name="edges", dtype="int64")]


def graph(nodes: int, edges: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"nodes": rng.normal(size=(nodes, 4)), "edges": rng.integers(0, nodes, (2, edges))}


def test_graphs_of_different_sizes_are_one_sample_each():
    graphs = [graph(5, 7), graph(9, 12), graph(3, 2)]
    samples = open_calibration(graphs, GRAPH)
    assert samples.alone
    assert len(samples) == 3
    assert samples.notes == (NOTE,)
    for given, fed in zip(graphs, samples.batches(1), strict=True):
        np.testing.assert_allclose(fed["nodes"], given["nodes"].astype(np.float32))
        np.testing.assert_array_equal(fed["edges"], given["edges"])
    assert samples.shapes == {"nodes": (9, 4), "edges": (2, 12)}
    largest, smallest = samples.extremes()
    assert (len(largest["nodes"]), len(smallest["nodes"])) == (9, 3)


def test_extremes_of_the_same_shapes_are_one():
    assert len(open_calibration([graph(5, 7), graph(5, 7, 1)], GRAPH).extremes()) == 1


def test_parts_of_whole_feeds_stay_whole():
    samples = open_calibration([graph(n, n) for n in range(2, 12)], GRAPH)
    fit, held_out = samples.split(0.3, 0)
    assert fit.alone
    assert held_out.alone
    sizes = [len(feed["nodes"]) for part in (fit, held_out) for feed in part.batches(1)]
    assert sorted(sizes) == list(range(2, 12))


def test_one_graph_is_one_sample():
    samples = open_calibration(graph(5, 7), GRAPH).feeds()
    assert len(samples) == 1
    assert [feed["nodes"].shape for feed in samples.batches(1)] == [(5, 4)]


def test_a_stack_has_one_axis_more():
    graphs = [graph(5, 7, seed) for seed in range(3)]
    stack = {name: np.stack([each[name] for each in graphs]) for name in graphs[0]}
    samples = open_calibration(stack, GRAPH)
    assert samples.alone
    np.testing.assert_array_equal(collect(samples, 1, "edges"), np.concatenate(stack["edges"]))


def test_sequences_of_different_lengths_are_one_sample_each():
    samples = open_calibration([np.ones((1, n, 3)) for n in (4, 6)], [spec(None, None, 3)])
    assert samples.alone
    assert [feed["x"].shape for feed in samples.batches(1)] == [(1, 4, 3), (1, 6, 3)]


def test_feeds_of_batches_are_rows_unless_the_model_says_otherwise():
    samples = open_calibration([np.ones((4, 3)), np.ones((2, 3))], [spec(None, 3)])
    assert not samples.alone
    assert samples.by_feed
    assert len(samples) == 6
    assert len(samples.feeds()) == 2
    assert not open_calibration([np.ones((1, 3))] * 4, [spec(None, 3)]).by_feed


def test_a_feed_that_fits_neither_way_is_refused():
    graphs = [graph(5, 7), graph(5, 7) | {"nodes": np.ones((5, 3))}]
    with pytest.raises(ReapError, match=r"feed 1 of data doesn't fit .* got: nodes float64"):
        open_calibration(graphs, GRAPH)


def test_infinite_values_are_told_with_the_feed():
    graphs = [graph(5, 7), graph(5, 8)]
    graphs[1]["nodes"][2, 1] = np.inf
    with pytest.raises(ReapError, match="'nodes' has NaN or infinite values in sample 1"):
        list(open_calibration(graphs, GRAPH).batches(1))


def test_a_stream_of_graphs_stops_after_the_samples_that_were_asked_for():
    stream = (graph(n, n) for n in range(2, 9))
    assert len(open_calibration(stream, GRAPH, samples=3)) == 3
    assert len(list(stream)) == 4


def test_made_up_feeds_have_the_sizes_that_were_named():
    inputs = [
        spec(None, 4, name="nodes", named=(5, 4)),
        spec(2, 7, name="edges", dtype="int64", named=(2, 7), lookup=(0, 5)),
    ]
    samples = synthetic_calibration(inputs, samples=3, seed=0).feeds()
    assert samples.alone
    feeds = list(samples.batches(1))
    assert [feed["nodes"].shape for feed in feeds] == [(5, 4)] * 3
    assert len({feed["edges"].tobytes() for feed in feeds}) == 3
