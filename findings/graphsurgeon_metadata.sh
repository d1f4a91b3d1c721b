#!/usr/bin/env bash
# onnx-graphsurgeon loses a model's metadata on the way from import to export.
#
# One would guess: what is imported and exported unchanged is the same model, but for the order of
# fields; at least metadata_props, which hold class names, strides and preprocessing, come back.
# What happens: operator sets and functions are kept, and metadata_props of model, graph and
# nodes, doc strings of model and nodes, the domain and the model version are gone without a
# warning.
#
# Versions: onnx-graphsurgeon 0.6.1, onnx 1.23.2, numpy 2.4.6.
# Output seen:
#     lost from the model: doc_string, domain, metadata_props, model_version
#     lost from the graph: metadata_props
#     lost from the node: doc_string, metadata_props
#     functions: ['twice']
#     operator sets: {'': 17, 'local': 1}
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    numpy==2.4.6 onnx==1.23.2 onnx-graphsurgeon==0.6.1
cd "$folder"
venv/bin/python - <<'PYTHON'
import onnx
import onnx_graphsurgeon
from onnx import parser

model = parser.parse_model(
    '<ir_version: 10, opset_import: ["": 17, "local": 1], domain: "org.example",'
    ' model_version: 3, doc_string: "text", metadata_props: ["names": "cat, dog"]>'
    "classifier (float[n] x) => (float[n] y) { z = Relu(x) y = local.twice(z) }"
    '<domain: "local", opset_import: ["": 17]> twice (a) => (b) { b = Add(a, a) }'
)
model.graph.doc_string = model.graph.node[0].doc_string = "text"
model.graph.metadata_props.add(key="task", value="classify")
model.graph.node[0].metadata_props.add(key="layer", value="1")
onnx.checker.check_model(model, full_check=True)
exported = onnx_graphsurgeon.export_onnx(onnx_graphsurgeon.import_onnx(model))


def fields(of):
    """Return the names of the fields that are set in the model, the graph and the first node."""
    messages = {"model": of, "graph": of.graph, "node": of.graph.node[0]}
    return {name: {field.name for field, _ in m.ListFields()} for name, m in messages.items()}


before, after = fields(model), fields(exported)
lost = {name: sorted(before[name] - after[name]) for name in before}
for name, gone in lost.items():
    print(f"lost from the {name}: {', '.join(gone)}")
print("functions:", [function.name for function in exported.functions])
print("operator sets:", {entry.domain: entry.version for entry in exported.opset_import})
assert lost == {
    "model": ["doc_string", "domain", "metadata_props", "model_version"],
    "graph": ["metadata_props"],
    "node": ["doc_string", "metadata_props"],
}, "other fields are lost"
assert len(exported.functions) == 1 and len(exported.opset_import) == 2
PYTHON
