"""Recurrent layers: they end the channels that arrive, and make units of a hidden state.

A unit is an entry of the hidden state: its rows in the weights of all gates, its column in the
recurrent weight, and what it has in biases, peepholes and states. Both directions keep as many,
since one attribute counts them, and the tensors that hold both are boxes: entries of the same index
go together.
"""

import numpy as np

from onnx_reap.graph.ir.recurrent import hidden_axes, projection
from onnx_reap.graph.labels.labels import LabelArray, along
from onnx_reap.graph.labels.records import Linear
from onnx_reap.graph.labels.site import Site
from onnx_reap.graph.rules.correction import Correction
from onnx_reap.graph.rules.rule import Rule
from onnx_reap.graph.rules.traits import Trait

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
"""Results of the projection by entry of the hidden state."""

X, W, R, BIAS, LENGTHS, STATE, CELL, PEEPHOLES = range(8)
"""Inputs."""


def _recurrent(site: Site) -> None:
    constants = (W, R, *(index for index in (BIAS, PEEPHOLES) if site.has_input(index)))
    computed = not all(site.is_constant(index) for index in constants)
    if computed or site.is_constant(X):
        what = "a computed weight or bias" if computed else "a constant input"
        site.freeze_inputs(f"{site.op} with {what}")
        for index in range(len(site.node.outputs)):
            site.set_labels(np.array(0), index)
        return
    labels = site.labels(X)
    site.uniform(labels, [0, 1])
    units = site.new_channels(site.shape(R)[2])
    site.bind(W, 2, site.name(X), 2)
    _bind_constants(site, units)
    _unite_states(site, units)
    if site.has_input(LENGTHS):
        site.freeze_inputs(f"{site.op} reads them as lengths", [LENGTHS])
    _set_projection(site, units)
    for index in range(len(site.node.outputs)):
        if site.has_output(index):
            site.set_labels(units, index)
    site.linear(
        Linear(
            site.key,
            site.op,
            site.name(X),
            projection(site.key),
            x_axis=2,
            y_axis=2,
            weight=site.name(W),
            bias=site.name(BIAS) if site.has_input(BIAS) else None,
            weight_in=2,
            weight_out=1,
        )
    )
    # What the hidden state is multiplied by at every step.
    steps = 1 if site.has_output(0) else site.shape(X)[1 if site.attribute("layout", 0) else 0]
    made = next((index for index in range(len(site.node.outputs)) if site.has_output(index)), None)
    if made is not None:
        state, *_ = hidden_axes(site.key)
        site.product(GATES[site.op] * steps, made, over=state, weight=site.name(R))


def _set_projection(site: Site, units: LabelArray) -> None:
    directions, results, _ = site.shape(W)
    shape = (*site.shape(X)[:2], directions * results)
    of_all = np.tile(units, directions * GATES[site.op])
    site.set_named(projection(site.key), along(of_all, shape, 2))


def _bind_constants(site: Site, units: LabelArray) -> None:
    """Let the constants follow the hidden state, entry by entry of every gate."""
    gates = GATES[site.op]
    state, rows, biases, peepholes = hidden_axes(site.key)
    for name, times in ((state, 1), (rows, gates), (biases, 2 * gates), (peepholes, 3)):
        site.set_named(name, np.tile(units, times))
    site.bind(W, 1, rows, 0)
    site.bind(R, 1, rows, 0)
    site.bind(R, 2, state, 0)
    if site.has_input(BIAS):
        site.bind(BIAS, 1, biases, 0)
    if site.has_input(PEEPHOLES):
        site.bind(PEEPHOLES, 1, peepholes, 0)


def _unite_states(site: Site, units: LabelArray) -> None:
    """Let initial states follow, constants or what nodes make."""
    for index in (STATE, CELL):
        if not site.has_input(index):
            continue
        if site.is_constant(index):
            site.bind(index, 2, hidden_axes(site.key)[0], 0)
            continue
        arriving = site.uniform(site.labels(index), [0, 1])
        if not site.node.inputs[index].inputs:
            site.freeze(units, "its initial state is an input of the model")
        site.unite(arriving.reshape(-1), units)


def _correct_recurrent(node: Correction) -> None:
    state, *_ = hidden_axes(node.key)
    if (cut := node.kept(state)) is not None:
        node.node.attrs["hidden_size"] = len(cut[1])


_RULE = Rule(_recurrent, _correct_recurrent, Trait.RECURRENT)

RECURRENT: dict[str, Rule] = dict.fromkeys(GATES, _RULE)
