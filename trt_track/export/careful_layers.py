"""Layers that a recipe wants in float32 inside a network of lower precision."""

from __future__ import annotations

from torch import Tensor, nn

from trt_track.errors import ModelError
from trt_track.recipe import Recipe


class InFloat32(nn.Module):
    """A layer that computes in float32 between a cast to it and one back."""

    def __init__(self, layer: nn.Module) -> None:
        """Take over a layer."""
        super().__init__()
        self.layer = layer.float()

    def forward(self, x: Tensor) -> Tensor:
        """Return what the layer makes of `x`, in the dtype of `x`."""
        out: Tensor = self.layer(x.float()).to(x.dtype)
        return out


def compute_in_float32(module: nn.Module, network: str, recipe: Recipe) -> None:
    """Wrap the layers of a module that a recipe wants in float32, in place. Layers are modules with weights of their own.

    Raises:
        ModelError: an exception names no layer of the module.
    """
    layers = [name for name, layer in module.named_modules() if name and any(True for _ in layer.parameters(recurse=False))]
    for one in recipe.exceptions:
        if one.network == network and not any(one.covers(network, name) for name in layers):
            raise ModelError(f"recipe {recipe.name}: {network} of this model has no layer {', '.join(one.layers)}; it has {_told(layers)}")
    for name in layers:
        if any(one.covers(network, name) for one in recipe.own_layers(network)):
            parent, _, own = name.rpartition(".")
            setattr(module.get_submodule(parent), own, InFloat32(module.get_submodule(name)))


def _told(layers: list[str]) -> str:
    shown = layers[:6]
    return ", ".join(shown) + (f" and {len(layers) - len(shown)} more" if len(layers) > len(shown) else "")
