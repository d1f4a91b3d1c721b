"""Forms that models come in: versions, interfaces, names, and tensors that no layer reads."""

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from net import Net
from onnx import TensorProto, numpy_helper
from small_models import chain, images, run, stateful

import onnx_reap

CHEAP = {"ratio": 0.5, "criterion": "l1", "refit": False}
DATA = images(8)


def _prune(model: onnx.ModelProto, data=DATA, least: int = 1, **settings) -> onnx.ModelProto:
    """Prune at least so many groups; the cut must be the masked model, and the interface kept."""
    result = onnx_reap.reap(model, data, **CHEAP, **settings)
    assert sum(group.after < group.before for group in result.report.groups) >= least
    fed = data if isinstance(data, dict) else {"x": data}
    masked = onnx_reap.mask(model, result.plan)
    for a, b in zip(run(result.model, fed), run(masked, fed), strict=True):
        if a.dtype.kind == "f":
            np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max(initial=1))  # float32 sums
        else:
            np.testing.assert_array_equal(a, b)
    assert [v.name for v in result.model.graph.output] == [v.name for v in model.graph.output]
    return result.model


def _chain(opset: int, ir: int) -> onnx.ModelProto:
    n = Net({"x": ("N", 3, 8, 8)}, opset=opset)
    h = n.block(n.block("x", 3, 16), 16, 16)
    model = n.model(n.head(h, 16, 5), check=False)
    model.ir_version = ir
    return model


def _loads(model: onnx.ModelProto) -> bool:
    try:
        run(model, {"x": DATA})
    except Exception:  # onnxruntime's exceptions share no base class
        return False
    return True


@pytest.mark.parametrize("opset", range(9, onnx.defs.onnx_opset_version() + 1))
def test_operator_sets(opset):
    model = _chain(opset, 4)
    if not _loads(model):
        with pytest.raises(onnx_reap.ReapError, match="onnxruntime can't load"):
            onnx_reap.reap(model, DATA, **CHEAP)
        return
    pruned = _prune(model, least=2)
    assert list(pruned.opset_import) == list(model.opset_import)
    notes = onnx_reap.reap(model, images(24), target_macs=0.6).report.notes
    assert not any("gradients don't pass" in note for note in notes)


@pytest.mark.parametrize("ir", range(3, onnx.IR_VERSION + 1))
@pytest.mark.parametrize("listed", [False, True])
def test_ir_versions(ir, listed):
    model = _chain(9, ir)
    if listed or ir == 3:
        model.graph.input.extend(
            oh.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer
        )
    if not _loads(model):
        with pytest.raises(onnx_reap.ReapError, match="onnxruntime can't load"):
            onnx_reap.reap(model, DATA, **CHEAP)
        return
    pruned = _prune(model, least=2)
    assert pruned.ir_version == ir
    assert {v.name for v in pruned.graph.input} == {v.name for v in model.graph.input}


def test_an_output_that_is_read_inside_keeps_its_channels():
    n = Net({"x": ("N", 3, 8, 8)})
    seen = n.block("x", 3, 16)
    h = n.block(n.block(seen, 16, 16), 16, 16)
    model = n.model(seen, n.head(h, 16, 5))
    pruned = _prune(model, least=2)
    assert pruned.graph.output[0] == model.graph.output[0]


def test_inputs_that_are_outputs_and_inputs_that_nobody_reads():
    n = Net({"x": ("N", 3, 8, 8), "idle": ("N", 2)})
    h = n.block(n.block("x", 3, 16), 16, 16)
    model = n.model(n.head(h, 16, 5))
    model.graph.output.append(model.graph.input[0])
    idle = np.zeros((8, 2), np.float32)
    pruned = _prune(model, {"x": DATA, "idle": idle}, least=2)
    assert list(pruned.graph.input) == list(model.graph.input)


def test_optional_inputs_that_are_left_out():
    n = Net({"x": ("N", 3, 8, 8)})
    weight = n.random(16, 3, 3, 3, scale=0.3)
    h = n.node("Conv", "x", weight, "", pads=[1] * 4)
    h = n.node("Clip", h, "", n.constant(np.float32(2)))
    h = n.block(h, 16, 16)
    h = n.node("Resize", h, "", n.constant(np.array([1, 1, 2, 2], np.float32)), mode="nearest")
    _prune(n.model(n.head(n.block(h, 16, 16), 16, 5)), least=3)


def test_what_nobody_reads_is_harmless():
    model = _chain(17, 8)
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.zeros((0, 4), np.float32), "empty"))
    graph.initializer.append(oh.make_tensor("texts", TensorProto.STRING, [2], [b"a", "ü".encode()]))
    graph.initializer.append(numpy_helper.from_array(np.ones(7, np.float32), "unused"))
    first = graph.node[0].output[0]
    graph.node.append(oh.make_node("Exp", [first], ["dead"]))
    _prune(model, least=2)


def test_texts_and_empty_tensors_that_are_read():
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.block(n.block("x", 3, 16), 16, 16)
    empty = n.constant(np.zeros((0, 5), np.float32))
    y = n.node("Concat", n.head(h, 16, 5), empty, axis=0)
    label = n.node("Identity", "names")
    model = n.model(y, label, types={label: TensorProto.STRING}, shapes={label: [2]}, check=False)
    names = oh.make_tensor("names", TensorProto.STRING, [2], [b"cat", b"dog"])
    model.graph.initializer.append(names)
    _prune(model, least=2)


def test_names_that_are_empty_and_nodes_in_any_order():
    model = chain(16)
    nodes = list(model.graph.node)
    for node in nodes:
        node.name = ""
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    result = onnx_reap.reap(model, DATA, **CHEAP)
    ordered = chain(16)
    for a, b in zip(
        run(result.model, {"x": DATA}),
        run(onnx_reap.reap(ordered, DATA, **CHEAP).model, {"x": DATA}),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_tied_weights_are_cut_alike_or_not_at_all(elsewhere):
    n = Net({"x": ("N", 3, 8, 8)})
    first = n.block("x", 3, 16)
    weight = n.random(16, 16, 3, 3, scale=0.1)
    a = n.node("Conv", first, weight, pads=[1] * 4)
    b = n.node("Conv", n.node("Relu", a), weight, pads=[1] * 4)
    outputs = [n.head(n.block(b, 16, 16), 16, 5)]
    if elsewhere:
        outputs.append(n.node("Conv", first, weight))
    pruned = _prune(n.model(*outputs))
    tied = [node.input[1] for node in pruned.graph.node if node.op_type == "Conv"][1:3]
    assert tied[0] == tied[1]


def test_words_that_go_with_a_model_stay():
    model = _chain(17, 10)
    model.doc_string, model.producer_name, model.domain = "a model", "somebody", "org.example"
    model.metadata_props.add(key="author", value="somebody")
    model.graph.doc_string = "a graph"
    model.graph.metadata_props.add(key="of", value="the graph")
    for node in model.graph.node:
        node.doc_string = f"made in {node.op_type}"
        node.metadata_props.add(key="of", value=node.op_type)
    model.graph.input[0].doc_string = "an image"
    pruned = _prune(model, least=2)
    assert (pruned.doc_string, pruned.producer_name) == (model.doc_string, model.producer_name)
    assert pruned.domain == model.domain and pruned.graph.doc_string == model.graph.doc_string
    assert model.metadata_props[0] in list(pruned.metadata_props)
    assert list(pruned.graph.metadata_props) == list(model.graph.metadata_props)
    assert pruned.graph.input[0] == model.graph.input[0]
    assert all(node.doc_string == f"made in {node.op_type}" for node in pruned.graph.node)
    assert all(node.metadata_props for node in pruned.graph.node)


def test_a_state_whose_batch_lies_along_another_axis_is_fed_whole():
    model, state = stateful(), np.zeros((2, 1, 8), np.float32)
    result = onnx_reap.reap(model, {"x": images(24), "state": state}, target_macs=0.6)
    assert result.report.after.macs < 0.7 * result.report.before.macs
    onnx_reap.reap(model, **CHEAP, input_shapes={"state": (2, 1, 8)})
    result = onnx_reap.reap(model, {"x": DATA, "state": state}, **CHEAP)
    masked = onnx_reap.mask(model, result.plan)
    for size in (1, 3):
        feed = {"x": DATA[:size], "state": np.ones((2, size, 8), np.float32)}
        for a, b in zip(run(result.model, feed), run(masked, feed), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)  # float32 sums


def test_the_shape_of_a_scalar_may_be_told():
    n = Net({"x": ("N", 3, 8, 8), "scale": ()})
    h = n.node("Mul", n.block(n.block("x", 3, 8), 8, 8), "scale")
    result = onnx_reap.reap(n.model(n.head(h, 8, 5)), **CHEAP, input_shapes={"scale": ()})
    assert result.report.after.macs < result.report.before.macs


def test_a_file_that_grows_is_told():
    """One weight that two layers read as copies becomes two weights."""
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.block("x", 3, 64)
    shared = n.random(64, 64, 3, 3, scale=0.05)
    for _ in range(2):
        h = n.node("Relu", n.node("Conv", h, n.node("Identity", shared), pads=[1] * 4))
    model = n.model(n.head(h, 64, 5))
    grown = onnx_reap.reap(model, target_macs=0.95, refit=False, criterion="l1")
    assert grown.model.ByteSize() > model.ByteSize()
    assert any("larger than the original" in note for note in grown.report.notes)
    shrunk = onnx_reap.reap(model, target_macs=0.2, refit=False, criterion="l1")
    assert not any("larger than the original" in note for note in shrunk.report.notes)
