"""Names, order, outputs, subgraphs, functions, batches: the shape of the graph itself."""

import numpy as np
import onnx
import pytest
from net import Net, sandwich
from onnx import helper
from oracle import assert_slice_is_mask, study

from onnx_reap.graph.ir.model import Model

ints = np.array


def _relu(net, x):
    return net("Relu", x)


def test_graph_output_freezes():
    def middle(net, x):
        net.output(x)
        return net("Relu", net.conv(x, 8, 6, name="b"))

    proto = sandwich(middle, out=6)
    assert_slice_is_mask(proto, groups={"b": 6}, frozen={"a": "graph output"})


def test_graph_output_that_is_a_copy_freezes():
    def middle(net, x):
        net.output(net("Identity", x))
        return x

    assert_slice_is_mask(sandwich(middle), groups={}, frozen={"a": "graph output"})


def test_output_that_is_the_input():
    def middle(net, x):
        net.output(net("Identity", "x"))
        return x

    assert_slice_is_mask(sandwich(middle), groups={"a": 8})


def test_shape_as_graph_output_freezes_the_count():
    def middle(net, x):
        net.output(net("Shape", x))
        return net("Relu", x)

    assert_slice_is_mask(sandwich(middle), groups={}, frozen={"a": "graph output"})


def test_unknown_operator_freezes():
    def middle(net, x):
        return net("Det", net("Reshape", x, ints([0, 8, 6, 6])))

    proto = sandwich(
        lambda n, x: n("Add", x, n("Unsqueeze", n("Unsqueeze", middle(n, x), ints([2])), ints([3])))
    )
    assert_slice_is_mask(proto, groups={}, frozen={"a": "no rule for operator Det"})


def test_custom_domain_freezes():
    """The name of a standard operator in another domain means nothing."""

    def middle(net, x):
        return net("Pad", net.conv(x, 8, 6, name="b"), ints([0] * 8), domain="com.microsoft")

    proto = sandwich(middle, out=6, check=False)
    frozen = {"b": "no rule for operator com.microsoft::Pad"}
    assert_slice_is_mask(proto, groups={"a": 8}, frozen=frozen, check=False)


def _with_function(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    proto = sandwich(
        lambda net, x: net("Own", net.conv(x, 8, 6, name="b"), domain="own"), out=6, check=False
    )
    sets = [helper.make_opsetid("", 17)]
    proto.functions.append(helper.make_function("own", "Own", ["x"], ["y"], nodes, sets))
    return proto


def test_local_functions_are_followed():
    proto = _with_function(helper.make_node("Add", ["x", "x"], ["y"]))
    studied = assert_slice_is_mask(proto, groups={"a": 8, "b": 6})
    for removed in ([], studied.groups[1].units[:2]):
        cut = studied.cut(removed)
        assert [node.op_type for node in cut.graph.node] == ["Conv", "Conv", "Own", "Conv"]
        assert list(cut.functions) == list(proto.functions)


def test_what_a_function_cannot_do_is_said_of_the_node_inside():
    nodes = [
        helper.make_node("Det", ["x"], ["d"]),
        helper.make_node("ReduceMean", ["d"], ["m"]),
        helper.make_node("Add", ["x", "m"], ["y"], name="sum"),
    ]
    proto = _with_function(*nodes)
    frozen = {"b": "no rule for operator Det"}
    assert_slice_is_mask(proto, groups={"a": 8}, frozen=frozen)


def _with_if(capture: str, cond_from_size: bool = False) -> onnx.ModelProto:
    """An If whose bodies read `capture`, a tensor of the outer graph."""

    def body(op):
        node = helper.make_node(op, [capture], ["body_y"])
        out = helper.make_tensor_value_info("body_y", onnx.TensorProto.FLOAT, None)
        return helper.make_graph([node], op, [], [out])

    def middle(net, x):
        b = net.conv(x, 8, 8, name="b")
        if cond_from_size:
            cond = net("Greater", net("Gather", net("Shape", x), ints(0)), ints(1))
        else:
            cond = net("Greater", net("ReduceMax", "x", keepdims=0), np.float32(0))
        y = net("If", cond, then_branch=body("Relu"), else_branch=body("Neg"))
        return net("Add", y, b) if capture != b else y

    return sandwich(middle, check=False)


@pytest.mark.parametrize("cond_from_size", [False, True])
def test_tensors_captured_by_bodies_freeze(cond_from_size):
    proto = _with_if("b_y", cond_from_size)
    assert_slice_is_mask(proto, groups={"a": 8}, frozen={"b": "used inside the body of If"})


def test_weights_captured_by_bodies_freeze():
    """The conv's weight is added up inside of the body."""
    out = helper.make_tensor_value_info("body_y", onnx.TensorProto.FLOAT, None)
    bodies = [
        helper.make_graph(
            [helper.make_node("ReduceSum", ["c5"], ["body_y"], keepdims=0)], n, [], [out]
        )
        for n in ("then", "else")
    ]

    def middle(net, x):
        cond = net("Greater", net("ReduceMax", "x", keepdims=0), np.float32(0))
        total = net("If", cond, then_branch=bodies[0], else_branch=bodies[1])
        return net("Add", net.conv(net.conv(x, 8, 6, name="c"), 6, 6, name="b"), total)

    proto = sandwich(middle, out=6, check=False)
    frozen = {"b": "weights used elsewhere", "c": "weights used elsewhere"}
    assert_slice_is_mask(proto, groups={"a": 8}, frozen=frozen)


def test_nodes_without_names():
    proto = sandwich(lambda net, x: net("Relu", net.conv(x, 8, 6, name="b")), out=6)
    for node in proto.graph.node:
        node.name = ""
    assert_slice_is_mask(proto, groups={"Conv_0": 8, "Conv_1": 6})


def test_equal_names():
    """Newer versions of onnxruntime refuse them, older ones don't mind."""
    proto = sandwich(lambda net, x: net("Relu", net.conv(x, 8, 6, name="b")), out=6)
    for node in proto.graph.node:
        node.name = "same"
    assert set(Model(proto).keys.values()) == {"same", "same#2", "same#3", "same#4"}


def test_unsorted_graph():
    proto = sandwich(lambda net, x: net("Relu", net.conv(x, 8, 6, name="b")), out=6)
    nodes = list(proto.graph.node)[::-1]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    assert_slice_is_mask(proto, groups={"a": 8, "b": 6})


def test_dead_branches_are_cut_along():
    def middle(net, x):
        net("Reshape", net("Relu", x), ints([0, 8, 36]), name="unread")
        return x

    assert_slice_is_mask(sandwich(middle), groups={"a": 8})


@pytest.mark.parametrize("batch", [1, 2, "N"])
def test_batches(batch):
    assert_slice_is_mask(sandwich(_relu, batch=batch), groups={"a": 8})


def test_dynamic_image_size():
    net = Net({"x": ("N", 3, "H", "W")})
    y = net.conv("x", 3, 8, name="a")
    shape = net("Shape", y)
    y = net("Reshape", y, ints([0, 8, -1]))
    y = net("Reshape", net("Relu", y), shape)
    studied = assert_slice_is_mask(net.model(net.conv(y, 8, 5, name="z")), groups={"a": 8})
    assert studied.probe.shapes["a_y"][2:] == (8, 8)


def test_an_image_without_a_batch_axis():
    """The channels of the image are no samples: costs are those of the whole run."""
    net = Net({"x": (3, 6, 6)})
    x = net("Unsqueeze", "x", ints([0]))
    studied = assert_slice_is_mask(
        net.model(net("Flatten", net.conv(net.conv(x, 3, 8, name="a"), 8, 5, name="z"))),
        groups={"a": 8},
    )
    assert studied.macs.at([8]) == 36 * 9 * (3 * 8 + 8 * 5)


def test_macs_and_parameters_are_those_of_one_sample():
    proto = sandwich(lambda net, x: net("Flatten", x), out=288, head="gemm", batch=2)
    studied = assert_slice_is_mask(proto, groups={"a": 8})
    assert studied.macs.at([8]) == 36 * 9 * 3 * 8 + 288 * 5
    assert studied.params.at([4]) == 9 * 3 * 4 + 4 + 144 * 5 + 5


def test_a_batch_of_one_inside_of_a_dynamic_model():
    """Exported with a batch of 1 baked into a Reshape."""

    def middle(net, x):
        return net("Reshape", net("Reshape", x, ints([1, 8, 36])), ints([1, 8, 6, 6]))

    assert_slice_is_mask(sandwich(middle), groups={"a": 8}, batches=(1,))


def test_metadata_is_kept():
    proto = sandwich(_relu)
    proto.doc_string, proto.producer_name, proto.model_version = "about", "maker", 7
    proto.graph.doc_string = "about the graph"
    proto.metadata_props.add(key="k", value="v")
    proto.graph.node[0].doc_string = "about the node"
    proto.graph.node[1].doc_string = "about the other node"
    proto.graph.quantization_annotation.add(tensor_name="a_y")
    proto.graph.value_info.extend(onnx.shape_inference.infer_shapes(proto).graph.value_info)
    proto.opset_import.add(domain="com.microsoft", version=1)
    studied = assert_slice_is_mask(proto, groups={"a": 8})
    cut = studied.cut(studied.groups[0].units[:4])
    assert (cut.doc_string, cut.producer_name, cut.model_version) == ("about", "maker", 7)
    assert cut.graph.doc_string == "about the graph"
    assert [n.doc_string for n in cut.graph.node] == ["about the node", "about the other node", ""]
    assert cut.graph.quantization_annotation == proto.graph.quantization_annotation
    assert not cut.graph.value_info, "stale shapes"


def test_corrected_nodes_keep_what_else_they_have():
    proto = sandwich(lambda net, x: net.conv(x, 8, 8, group=8, name="dw"))
    node = proto.graph.node[1]
    node.doc_string = "depthwise"
    studied = assert_slice_is_mask(proto, groups={"a": 8})
    after = studied.cut(studied.groups[0].units[:4]).graph.node[1]
    assert after.doc_string == "depthwise"
    assert {a.name: helper.get_attribute_value(a) for a in after.attribute} == {
        "pads": [1, 1, 1, 1],
        "group": 4,
    }


def test_exclusion():
    proto = sandwich(lambda net, x: net("Relu", net.conv(x, 8, 6, name="b")), out=6)
    studied = study(proto, lambda key: "by request" if key == "a" else None)
    assert [g.name for g in studied.groups] == ["b"]
    assert ("a", 8, "by request") in [(f.node, f.channels, f.reason) for f in studied.frozen]


def _deep(blocks: int) -> onnx.ModelProto:
    net = Net({"x": ("N", 3, 4, 4)})
    x = net.conv("x", 3, 16, name="stem")
    for i in range(blocks):
        y = net.conv(net("Relu", x), 16, 16, 1, name=f"a{i}")
        y = net.conv(net("Relu", y), 16, 16, 1, name=f"b{i}")
        x = net("Add", x, net("Mul", y, np.float32(0.1)))
    return net.model(net.conv(x, 16, 5, name="z"))


def test_thousands_of_nodes_are_no_problem(monkeypatch):
    """Neither recursion nor quadratic time: of 500 branches each writes its own nodes alone."""
    proto, write, written = _deep(500), Model.node_proto, []

    def counted(self, node):
        written.append(node)
        return write(self, node)

    monkeypatch.setattr(Model, "node_proto", counted)
    studied = study(proto)
    assert len(written) < 5 * len(proto.graph.node)
    assert len(proto.graph.node) > 2900
    assert len(studied.groups) == 501
    assert len(studied.groups[0].producers) == 501
    removed = [u for g in studied.groups for u in g.units[:8]]
    assert len(studied.cut(removed).graph.node) == len(proto.graph.node)
