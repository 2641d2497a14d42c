"""What each layer of a network computes in: products in its dtype, all between them in that of its stream, exceptions in float32.

A layer is a product, a convolution, a norm: a module with weights of its own and no others inside, which is called. Weights that are only
read belong to what passes between layers, which has the stream's dtype: tables of modules that hold layers, such as the trunk's codes of
positions, and embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, Final

import torch
from torch import Tensor, nn

from trt_track.errors import ModelError
from trt_track.export.layer_names import belongs_to
from trt_track.recipe import NetworkPrecision, Recipe

_PRODUCTS: Final = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
"""Layers that multiply features with weights."""


def torch_dtype(name: str) -> torch.dtype:
    """Return PyTorch's dtype of a name."""
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def set_precision(module: nn.Module, precision: NetworkPrecision) -> None:
    """Bring the products of a module into a network's dtype and all else into that of its stream, in place.

    Products cast what they are given; what they give is added to the stream as it is.
    """
    module.to(torch_dtype(precision.stream))
    for layer in module.modules():
        if isinstance(layer, _PRODUCTS):
            layer.to(torch_dtype(precision.dtype))
            layer.register_forward_pre_hook(_as_weights)


def _as_weights(layer: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Cast what a layer is given to the dtype that its weights have by then."""
    dtype = next(layer.parameters(recurse=False)).dtype
    return tuple(x.to(dtype) for x in given)


def compute_in_float32(module: nn.Module, network: str, recipe: Recipe, exact: nn.Module | None = None) -> None:
    """Let the layers of a module that a recipe wants in float32 compute in it, in place; their names in the graph stay.

    They give what they compute in the dtype of the network's stream.

    Args:
        module: of the whole graph, already in the network's dtype.
        network: one of `recipe.NETWORKS`, or another graph, which no recipe speaks of.
        recipe: whose exceptions count.
        exact: the same module in float32, of which these layers take their weights; without it they keep those that were rounded.

    Raises:
        ModelError: an exception names no layer of the network, or tables that are none.
    """
    owners = {name: _own_weights(part) for name, part in module.named_modules() if name and belongs_to(network, name)}
    layers = [name for name, weights in owners.items() if weights and _is_layer(module.get_submodule(name))]
    _check(network, recipe, layers, {name: weights for name, weights in owners.items() if weights and name not in layers})
    for name in layers:
        if any(one.covers(network, name) for one in recipe.own_layers(network)):
            layer = module.get_submodule(name)
            _widen(layer, torch_dtype(recipe.of(network).stream))
            if exact is not None:
                layer.load_state_dict(exact.get_submodule(name).state_dict())


def _own_weights(part: nn.Module) -> list[str]:
    return [name for name, _ in part.named_parameters(recurse=False)]


def _is_layer(part: nn.Module) -> bool:
    return not isinstance(part, nn.Embedding) and next(part.children(), None) is None


def _check(network: str, recipe: Recipe, layers: list[str], tables: Mapping[str, list[str]]) -> None:
    """Refuse an exception that names no layer at all, and one of whose patterns asks for tables alone."""
    for one in recipe.exceptions:
        if one.network != network:
            continue
        for pattern in one.layers:
            named = [name for name in tables if fnmatchcase(name, pattern)]
            if named and not any(fnmatchcase(name, pattern) for name in layers):
                raise ModelError(
                    f"recipe {recipe.name}: {pattern} in {network} is no layer; its tables ({', '.join(tables[named[0]])}) have the dtype "
                    f"of the network: name layers, such as {next((name for name in layers if name.startswith(named[0])), layers[0])}"
                )
        if not any(one.covers(network, name) for name in layers):
            raise ModelError(f"recipe {recipe.name}: {network} of this model has no layer {', '.join(one.layers)}; it has {_told(layers)}")


def _widen(layer: nn.Module, stream: torch.dtype) -> None:
    """Let a layer compute in float32 between a cast to it and one to the stream's dtype."""

    def narrow(_: nn.Module, __: tuple[Tensor, ...], found: Tensor) -> Tensor:
        return found.to(stream)

    # Hooks, not a module around it: that would give the layer another name in the graph, where exceptions look for it, and hide its sizes.
    layer.float()
    layer.register_forward_pre_hook(_as_weights)
    layer.register_forward_hook(narrow)


def _told(layers: list[str]) -> str:
    shown = layers[:6]
    return ", ".join(shown) + (f" and {len(layers) - len(shown)} more" if len(layers) > len(shown) else "")
