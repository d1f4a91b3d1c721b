#!/usr/bin/env bash
# Torch-Pruning prunes a shortcut that pads channels with zeros as if it didn't: another function.
#
# One would guess: the dependency graph, which follows slices and concatenations by index, follows
# `F.pad` along channels too, or refuses it, as the shortcuts of the first ResNets for CIFAR-10 do.
# What happens: padding counts as an elementwise operation. Channel 5 of 8 that is padded by 4 on
# both sides is taken for channel 5 of 16, not 9. `group.prune()` leaves a model that runs, and
# whose shortcut adds other channels than before: its outputs differ from those of the original
# with the same channels at zero. Channel 0 comes out right, by luck. The pruner that chooses
# channels by magnitude stops with an IndexError.
# What follows: compare a pruned model with the masked one, and keep the layers on both sides of such
# a shortcut out of pruning.
#
# Versions: torch-pruning 1.6.1, torch 2.13.0, numpy 2.4.6; Python 3.11.
# Output seen:
#     channel 0: largest difference from the masked model 0
#     channel 5: largest difference from the masked model 0.3
#     MagnitudeImportance: IndexError
source "$(dirname "$0")/environment.bash" \
    numpy==2.4.6 torch==2.13.0 torch-pruning==1.6.1
venv/bin/python - <<'PYTHON'
import torch
import torch_pruning
from torch import nn


class Shortcut(nn.Module):
    """A block that doubles channels, beside a shortcut of strides and zeros."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.wide = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.last = nn.Conv2d(16, 4, 3, padding=1)

    def forward(self, x):
        x = torch.relu(self.first(x))
        around = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        return self.last(torch.relu(self.wide(x) + around))


def network():
    torch.manual_seed(0)
    return Shortcut().eval()


def masked(channel):
    """Set to zero what reads a channel of the first layer, and the one of equal index behind."""
    model = network()
    with torch.no_grad():
        model.first.weight[channel] = 0
        model.first.bias[channel] = 0
        model.last.weight[:, channel] = 0
    return model


def pruned(channel):
    model = network()
    graph = torch_pruning.DependencyGraph().build_dependency(model, x)
    remove = torch_pruning.prune_conv_out_channels
    group = graph.get_pruning_group(model.first, remove, idxs=[channel])
    assert graph.check_pruning_group(group)
    group.prune()
    assert (model.first.out_channels, model.wide.out_channels) == (7, 15)
    return model


x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
differences = {}
for channel in (0, 5):
    difference = float((pruned(channel)(x) - masked(channel)(x)).detach().abs().max())
    differences[channel] = difference
    print(f"channel {channel}: largest difference from the masked model {difference:.1g}")
model = network()
importance = torch_pruning.importance.MagnitudeImportance(p=1)
pruner = torch_pruning.pruner.MetaPruner(
    model, x, importance=importance, pruning_ratio=0.5, ignored_layers=[model.last]
)
try:
    pruner.step()
    raised = "nothing"
except IndexError:
    raised = "IndexError"
print(f"MagnitudeImportance: {raised}")
assert differences[0] < 1e-5, "channel 0 is wrong too"
assert differences[5] > 0.01, "channel 5 is right"
assert raised == "IndexError", "the pruner by magnitude runs"
PYTHON
