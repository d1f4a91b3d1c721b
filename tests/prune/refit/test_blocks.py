"""Where a graph is cut into blocks."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import onnx
from net import Net
from nets import residual_chain
from small_models import chain, images

from onnx_reap.data import open_calibration
from onnx_reap.graph.analysis import Analysis, analyse
from onnx_reap.graph.inputs import model_inputs
from onnx_reap.measure.activations.frontier import Frontier
from onnx_reap.prune.refit.blocks import FEWEST, MOST, Block, blocks

DATA = images(8)


def analysed(model: onnx.ModelProto) -> Analysis:
    inputs = model_inputs(model)
    return analyse(model, inputs, open_calibration(DATA, inputs))


def divided(analysis: Analysis, unknown: tuple[str, ...] = ()) -> list[Block]:
    shapes = {n: s for n, s in analysis.probe.shapes.items() if n not in unknown}
    model = analysis.model
    frontier = Frontier(model, replace(analysis.probe, shapes=shapes), len(DATA))
    found = list(blocks(frontier, places_of(analysis), len(model.nodes)))
    assert found[0].first == 0
    assert all(a.end == b.first for a, b in pairwise(found))
    return found


def places_of(analysis: Analysis) -> list[int]:
    nodes = {linear.node for linear in analysis.flow.linears}
    model = analysis.model
    return [i for i, node in enumerate(model.nodes) if model.keys[id(node)] in nodes]


def ends_of(model: onnx.ModelProto) -> list[str]:
    """What comes out of each block of a residual chain."""
    sums = {node.output[0] for node in model.graph.node if node.op_type == "Add"}
    return [node.output[0] for node in model.graph.node if node.input[0] in sums]


def test_a_residual_chain_is_cut_behind_its_blocks():
    model = residual_chain(4, 8)
    ends = ends_of(model)
    found = divided(analysed(model))
    behind = [tuple(block.after.tensors) for block in found]
    assert behind[:4] == [(end,) for end in ends]


def test_stretches_cover_the_graph_and_hold_a_few_layers():
    for model in (chain(), residual_chain(5, 8)):
        analysis = analysed(model)
        found = divided(analysis)
        assert found[-1].end == len(analysis.model.nodes)
        layers = np.array(places_of(analysis))
        counts = [((layers >= s.first) & (layers < s.end)).sum() for s in found]
        assert sum(counts) == len(layers)
        assert all(FEWEST <= count <= MOST for count in counts[:-1])


def test_tensors_that_the_original_lacks_are_never_a_start():
    model = residual_chain(4, 8)
    ends = ends_of(model)
    found = divided(analysed(model), unknown=(ends[1],))
    assert all(ends[1] not in block.after.tensors for block in found)
    assert (ends[0],) == tuple(found[0].after.tensors)
    assert found[-1].end == len(analysed(model).model.nodes)


def test_where_no_start_is_known_there_are_no_more_stretches():
    analysis = analysed(chain())
    everything = tuple(analysis.probe.shapes)
    nodes = len(analysis.model.nodes)
    shapes = replace(analysis.probe, shapes={})
    frontier = Frontier(analysis.model, shapes, len(DATA))
    assert everything
    assert list(blocks(frontier, places_of(analysis), nodes)) == []


def test_targets_lie_in_front_of_pooling():
    """Pooling leaves few equations."""
    n = Net({"x": ("N", 3, 8, 8)})
    h, ends = "x", []
    for cin, cout in ((3, 8), (8, 8)):
        h = n.block(n.block(h, cin, cout), cout, cout)
        ends.append((h,))
        h = n.node("MaxPool", h, kernel_shape=[2, 2], strides=[2, 2])
    found = divided(analysed(n.model(n.head(h, 8, 5))))
    assert [tuple(block.after.tensors) for block in found[:2]] == ends
