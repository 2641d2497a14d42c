"""Layers that a recipe wants in float32 inside a network of lower precision.

A layer is a product, a convolution, a norm: a module with weights of its own and no others inside, which is called. Weights that are only
read belong to what passes between layers, which has the network's dtype: tables of modules that hold layers, such as the trunk's codes of
positions, and embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from trt_track.errors import ModelError
from trt_track.export.layer_names import belongs_to
from trt_track.recipe import Recipe


def compute_in_float32(module: nn.Module, network: str, recipe: Recipe, exact: nn.Module | None = None) -> None:
    """Let the layers of a module that a recipe wants in float32 compute in it, in place; their names in the graph stay.

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
            _widen(layer, getattr(torch, recipe.of(network).dtype))
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


def _widen(layer: nn.Module, low: torch.dtype) -> None:
    """Let a layer compute in float32 between a cast to it and one back to `low`."""

    def widen(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(x.float() for x in given)

    def narrow(_: nn.Module, __: tuple[Tensor, ...], found: Tensor) -> Tensor:
        return found.to(low)

    # Hooks, not a module around it: that would give the layer another name in the graph, where exceptions look for it, and hide its sizes.
    layer.float()
    layer.register_forward_pre_hook(widen)
    layer.register_forward_hook(narrow)


def _told(layers: list[str]) -> str:
    shown = layers[:6]
    return ", ".join(shown) + (f" and {len(layers) - len(shown)} more" if len(layers) > len(shown) else "")
