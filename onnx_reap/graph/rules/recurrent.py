"""Recurrent layers: they end the channels that arrive; the hidden size stays."""

import numpy as np

from onnx_reap.graph.ir.recurrent import projection
from onnx_reap.graph.labels.records import Linear
from onnx_reap.graph.labels.site import Site
from onnx_reap.graph.rules.rule import Rule
from onnx_reap.graph.rules.traits import Trait

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
"""Results of the projection by entry of the hidden state."""


def _recurrent(site: Site) -> None:
    """Let the input weight follow what arrives; freeze all that carries the hidden state."""
    why = f"{site.op} keeps its hidden size"
    for index in range(len(site.node.outputs)):
        site.set_labels(np.array(0), index)
    if not site.is_constant(1) or (site.has_input(3) and not site.is_constant(3)):
        site.freeze_inputs(f"{site.op} with a computed weight or bias")
        return
    site.freeze_inputs(why, [index for index in site.inputs() if index > 1])
    labels = site.labels(0)
    site.uniform(labels, [0, 1])
    site.bind(1, 2, site.name(0), 2)
    directions, results, _ = site.shape(1)
    hidden = results // GATES[site.op]
    site.freeze(site.new_channels(directions * hidden), why)
    site.linear(
        Linear(
            site.key,
            site.op,
            site.name(0),
            projection(site.key),
            x_axis=2,
            y_axis=2,
            weight=site.name(1),
            bias=site.name(3) if site.has_input(3) else None,
            weight_in=2,
            weight_out=1,
        )
    )
    # What the hidden state is multiplied by at every step.
    if site.has_output(0):
        site.product(results)
    elif site.has_output(1):
        steps = site.shape(0)[1 if site.attribute("layout", 0) else 0]
        site.product(results * steps, 1)


RECURRENT: dict[str, Rule] = dict.fromkeys(GATES, Rule(_recurrent, traits=Trait.RECURRENT))
