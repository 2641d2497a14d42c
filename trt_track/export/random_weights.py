"""Seeded random weights that make a lively model: for structure, speed and parity where no trained checkpoint is at hand.

PyTorch's own initialisation is no use for that: it leaves parameters at zero or 1e-6, so an error in them goes unseen, and its
masks have logits of 0.1 and are empty or full.
"""

from __future__ import annotations

import math
import re
from typing import Final

import torch
from torch import nn

# Gain of a layer's weights over 1/sqrt(inputs), first match wins. Hidden ReLU layers keep their scale with sqrt(2); queries and keys get
# enough to make attention choose; the branches of residual blocks less, so that deep trunks stay in range.
_GAINS: Final = (
    (r"trunk\.blocks\.\d+\.(attn\.proj|mlp\.layers\.1)$", 0.5),
    (r"neck\.convs\.", 0.5),
    (r"(q_proj|k_proj)$", 1.5),
    (r"(output_hypernetworks_mlps\.\d|iou_prediction_head|pred_obj_score_head|obj_ptr_proj)\.layers\.[01]$", math.sqrt(2)),
    (r"output_hypernetworks_mlps\.\d\.layers\.2$", 2.0),
    (r"iou_prediction_head\.layers\.2$", 2.0),
    (r"pred_obj_score_head(\.layers\.2)?$", 1.0),
)
_BIAS_STD: Final = 0.1
_EMBEDDING_STD: Final = 0.5
_OBJECT_SCORE: Final = 4.0
"""Bias of the object score: present on nearly every frame, but not out of reach."""


@torch.no_grad()
def random_checkpoint(model: nn.Module, seed: int) -> None:
    """Replace every weight of upstream's predictor with a random one, the same for the same seed and PyTorch version.

    Activations keep a scale near 1 through the network, mask logits are of order 1 to 10 with both signs, the three IoU predictions
    differ and objects are present.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, module in model.named_modules():
        for key, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(random_weight(module, name, key, noise=noise))
    _balance_masks(model)
    _make_present(model)


def random_weight(module: nn.Module, name: str, key: str, *, noise: torch.Tensor) -> torch.Tensor:
    """Scale unit noise for one parameter or buffer of a module called `name`, so that activations keep a scale near 1."""
    if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        return noise * (_BIAS_STD if key == "bias" else _gain(name) / math.sqrt(_inputs(module)))
    if "LayerNorm" in type(module).__name__ or isinstance(module, nn.GroupNorm):
        return noise * 0.1 + (1.0 if key == "weight" else 0.0)
    if key == "gamma":  # layer scale, 1e-6 at the start of upstream's training
        return 0.3 + 0.1 * noise
    if key == "positional_encoding_gaussian_matrix":
        return noise
    return noise * _EMBEDDING_STD


def _inputs(module: nn.Linear | nn.Conv2d | nn.ConvTranspose2d) -> int:
    """Return how many products one output of a layer sums up."""
    if isinstance(module, nn.ConvTranspose2d):  # kernel and stride are equal: patches do not overlap
        return module.in_channels
    return module.weight[0].numel()


def _gain(name: str) -> float:
    return next((gain for pattern, gain in _GAINS if re.search(pattern, name)), 1.0)


def _balance_masks(model: nn.Module) -> None:
    """Let each mask's channel weights sum up to zero: what all channels share would else make every pixel's logit of one sign."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and re.search(r"output_hypernetworks_mlps\.\d\.layers\.2$", name):
            module.weight.sub_(module.weight.mean(0, keepdim=True))
            module.bias.sub_(module.bias.mean())


def _make_present(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and re.search(r"pred_obj_score_head(\.layers\.2)?$", name):
            module.bias.fill_(_OBJECT_SCORE)
