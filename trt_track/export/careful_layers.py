"""The dtype that each layer of a network computes in, and that of the features between them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor, nn

from trt_track.errors import ModelError
from trt_track.recipe import NetworkPrecision, Recipe

_PRODUCTS: Final = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
"""Layers that multiply features with weights. All else (norms, position codes, sums) computes in the dtype of the stream."""


def torch_dtype(name: str) -> torch.dtype:
    """Return PyTorch's dtype of a name."""
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def set_precision(module: nn.Module, precision: NetworkPrecision) -> None:
    """Bring products into the dtype of a network and everything else into that of its stream, in place.

    Products cast what they are given, and their results are added to the stream as they are.
    """
    module.to(torch_dtype(precision.stream))
    for _, layer in _layers(module):
        if isinstance(layer, _PRODUCTS):
            layer.to(torch_dtype(precision.dtype))
            _cast_inputs(layer)


def compute_in_float32(module: nn.Module, network: str, recipe: Recipe) -> None:
    """Bring the layers of a module that a recipe wants in float32 into it, in place. Layers are modules with weights of their own.

    They cast what they are given, and give what they compute in the dtype of the network's stream.

    Raises:
        ModelError: an exception names no layer of the module.
    """
    layers = dict(_layers(module))
    for one in recipe.exceptions:
        if one.network == network and not any(one.covers(network, name) for name in layers):
            raise ModelError(
                f"recipe {recipe.name}: {network} of this model has no layer {', '.join(one.layers)}; it has {_told(list(layers))}"
            )
    stream, wide = torch_dtype(recipe.of(network).stream), recipe.own_layers(network)
    for name, layer in layers.items() if wide else ():
        _cast_inputs(layer)
        if any(one.covers(network, name) for one in wide):
            for weight in layer.parameters(recurse=False):
                weight.data = weight.data.float()
            if stream != torch.float32:
                layer.register_forward_hook(lambda _layer, _inputs, output: output.to(stream))


def _layers(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((name, layer) for name, layer in module.named_modules() if name and any(True for _ in layer.parameters(recurse=False)))


def _cast_inputs(layer: nn.Module) -> None:
    """Let a layer cast what it is given to the dtype that its weights have when it runs."""
    if _in_own_dtype not in layer._forward_pre_hooks.values():
        layer.register_forward_pre_hook(_in_own_dtype)


def _in_own_dtype(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    dtype = next(layer.parameters(recurse=False)).dtype
    return tuple(x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs)


def _told(layers: list[str]) -> str:
    shown = layers[:6]
    return ", ".join(shown) + (f" and {len(layers) - len(shown)} more" if len(layers) > len(shown) else "")
