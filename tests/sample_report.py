"""A report that looks like a real one."""

from onnx_reap.graph.groups import FrozenChannels
from onnx_reap.prune.refit.block_walk import BlockFit
from onnx_reap.prune.refit.layer import LayerRefit
from onnx_reap.prune.refit.network import Distance
from onnx_reap.prune.refit.networkwise import NetworkFit
from onnx_reap.prune.refit.tuning import Schedule
from onnx_reap.report.records import (
    Figures,
    GroupResult,
    Loss,
    Quality,
    Report,
)


def sample_report(**changes) -> Report:
    values = {
        "version": "0.1.0",
        "settings": {"ratio": 0.5, "exclude": ("/head/*",)},
        "calibration": "calib.npz (512 samples)",
        "provider": "CPUExecutionProvider",
        "before": Figures(40_812_544, 272_474, 1_095_743, 1.234, 0.2),
        "after": Figures(20_400_000, 140_000, 600_123, 0.8, 0.1),
        "fitted": Quality(448, {"logits": 0.0123}, 0.981),
        "held_out": Quality(64, {"logits": 0.0451}, 0.953),
        "loss": Loss("top-1 disagreement", 0.0061, 0.0098, 0.0014, 0.0431, 64, 0.01),
        "lossless": None,
        "groups": (
            GroupResult("/layer1/conv1/Conv", 16, 8, ("/layer1/conv1/Conv",), ("c2",), 0.0123),
            GroupResult("[bold]odd/name", 64, 64, ("a", "b"), ("c",), None),
        ),
        "frozen": (
            FrozenChannels("/fc/Gemm", 10, "graph output", "logits"),
            FrozenChannels("/attention/MatMul", 64, "Foo is not in the rule table", "/foo_1"),
            FrozenChannels("/attention/MatMul_1", 32, "Foo is not in the rule table", "/foo_2"),
        ),
        "refits": (LayerRefit("c2", 0.01, 0.3, 0.1),),
        "blocks": (BlockFit(("c1", "c2"), 0.2, 0.1, 10), BlockFit(("c3",), 0.05, 0.05, 10)),
        "network": NetworkFit(
            20,
            Schedule(0.005, augmented=True),
            Distance(0.2, None, 0.4),
            Distance(0.1, None, 0.3),
            ("c1", "c2"),
            ("c3",),
            0.05,
        ),
        "tiling": None,
        "seconds": {"capture": 1.5},
        "notes": ("5 samples are few",),
    }
    return Report(**(values | changes))
