"""How much arithmetic a frame is, counted in upstream's own methods."""

from __future__ import annotations

from typing import Any, Final

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from trt_track.export.tracing import sample_inputs
from trt_track.export.upstream import model_spec
from trt_track.export.upstream_graphs import UpstreamGraphs
from trt_track.parity.graph_check import STEADY
from trt_track.specs import graph_specs

_PER_OBJECT: Final = ("memory_attention", "mask_decoder", "memory_encoder")


def frame_gmac(predictor: Any) -> dict[str, float]:
    """Return billions of multiplications with addition per graph, for one object with seven memories and sixteen pointers.

    Matrix products and convolutions are counted, in upstream's form; ours reaches the same values with fewer in the memory attention.
    """
    upstream = UpstreamGraphs(predictor)
    specs = graph_specs(model_spec(predictor, "counted"), "float32")
    found = {}
    for graph in ("image_encoder", *_PER_OBJECT):
        # The counter does not know every fused attention of the CPU; spelled out, it is two products.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            upstream.run(specs[graph], sample_inputs(specs[graph], STEADY, seed=1))
        found[graph] = counter.get_total_flops() / 2e9
    return found
