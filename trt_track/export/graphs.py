"""The six graphs of a model as PyTorch modules, each in the form and the precision that a recipe asks for."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Final

import torch
from torch import nn

from trt_track.export.careful_layers import compute_in_float32, torch_dtype
from trt_track.export.image_encoder import ImageEncoder
from trt_track.export.mask_decoder import MaskDecoder
from trt_track.export.mask_prompt import MaskPrompt
from trt_track.export.mask_upscale import MaskUpscale
from trt_track.export.memory_attention import MemoryAttention
from trt_track.export.memory_encoder import MemoryEncoder
from trt_track.recipe import NETWORKS, NetworkPrecision, Recipe

_WITH_FUSED_FORM: Final = frozenset({"image_encoder", "memory_attention"})


def graph_dtype(graph: str, recipe: Recipe) -> torch.dtype:
    """Return what a graph computes in, where it is not quantised."""
    return torch_dtype(recipe.of(graph).dtype if graph in NETWORKS else "float32")


def is_fused(graph: str, recipe: Recipe) -> bool:
    """Return whether a graph's attention is exported as `Attention` operators: in half precision, as TensorRT has no other kernels."""
    return graph in _WITH_FUSED_FORM and graph_dtype(graph, recipe) != torch.float32


def build_modules(predictor: nn.Module, recipe: Recipe) -> dict[str, nn.Module]:
    """Return the modules of all graphs.

    Args:
        predictor: upstream's `SAM2VideoPredictor` in evaluation mode; it is left as it is.
        recipe: what each computes in.

    Raises:
        ModelError: an exception of the recipe names layers that the model does not have.
    """
    modules = _modules(predictor, recipe, {graph: recipe.of(graph) for graph in NETWORKS})
    careful = any(recipe.own_layers(graph) for graph in modules)
    exact = _modules(predictor, recipe, dict.fromkeys(NETWORKS, NetworkPrecision())) if careful else {}
    for graph, module in modules.items():
        compute_in_float32(module, graph, recipe, exact.get(graph))
    return {name: module.eval() for name, module in modules.items()}


def _modules(predictor: nn.Module, recipe: Recipe, precision: Mapping[str, NetworkPrecision]) -> dict[str, nn.Module]:
    """Return the modules in the forms that a recipe asks for, in these precisions."""
    predictor = copy.deepcopy(predictor).requires_grad_(False)
    memory, features = torch_dtype(recipe.memory), torch_dtype(recipe.features)
    decoder, encoder = (torch_dtype(precision[graph].dtype) for graph in ("mask_decoder", "memory_encoder"))
    attention, image = (is_fused(graph, recipe) for graph in ("memory_attention", "image_encoder"))
    return {
        "mask_decoder": MaskDecoder(copy.deepcopy(predictor), decoder),
        "memory_encoder": MemoryEncoder(copy.deepcopy(predictor), encoder, memory),
        "mask_prompt": MaskPrompt(predictor),
        "mask_upscale": MaskUpscale(predictor),
        "memory_attention": MemoryAttention(copy.deepcopy(predictor), precision["memory_attention"], fused=attention, features=features),
        "image_encoder": ImageEncoder(predictor, precision["image_encoder"], fused=image),
    }
