"""The six graphs of a model as PyTorch modules, each in the form and the precision that it is exported in."""

from __future__ import annotations

import copy

import torch
from torch import nn

from trt_track.export.image_encoder import ImageEncoder
from trt_track.export.mask_decoder import MaskDecoder
from trt_track.export.mask_prompt import MaskPrompt
from trt_track.export.mask_upscale import MaskUpscale
from trt_track.export.memory_attention import MemoryAttention
from trt_track.export.memory_encoder import MemoryEncoder

LOW_PRECISION_GRAPHS = frozenset({"image_encoder", "memory_attention"})
"""What computes in FP16 in an `fp16` bundle. FP16 in the mask decoder and the memory encoder too compounds through the memories until
the mask is lost, and saves nothing: they are under 1 % of the work."""


def graph_dtype(graph: str, precision: str) -> torch.dtype:
    """Return what a graph computes in."""
    return torch.float16 if precision == "fp16" and graph in LOW_PRECISION_GRAPHS else torch.float32


def is_fused(graph: str, precision: str) -> bool:
    """Return whether a graph's attention is exported as `Attention` operators."""
    return graph_dtype(graph, precision) == torch.float16


def build_modules(predictor: nn.Module, precision: str) -> dict[str, nn.Module]:
    """Return the modules of all graphs.

    Args:
        predictor: upstream's `SAM2VideoPredictor` in evaluation mode; it is left as it is.
        precision: one of `specs.PRECISIONS`.
    """
    predictor = copy.deepcopy(predictor).requires_grad_(False)
    low = torch.float16 if precision == "fp16" else torch.float32
    modules = {
        "mask_decoder": MaskDecoder(copy.deepcopy(predictor)),
        "memory_encoder": MemoryEncoder(copy.deepcopy(predictor), low),
        "mask_prompt": MaskPrompt(predictor),
        "mask_upscale": MaskUpscale(predictor),
        "memory_attention": MemoryAttention(copy.deepcopy(predictor), fused=is_fused("memory_attention", precision), dtype=low),
        "image_encoder": ImageEncoder(predictor, low),
    }
    return {name: module.eval() for name, module in modules.items()}
