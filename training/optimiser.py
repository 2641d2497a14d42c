"""Muon for the matrices inside the networks, AdamW for everything else (https://kellerjordan.github.io/posts/muon/)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_EDGES = ("patch_embed", "pos_embed", "embed", "tokens", "hypernetworks", "prediction_head", "pred_obj_score_head")
"""Parts of names whose weights meet the input or the output: AdamW."""


class Optimiser:
    """Both optimisers with one learning rate."""

    def __init__(self, model: nn.Module, decay: float = 0.05) -> None:
        """Divide the trainable weights of a model between the two."""
        matrices: dict[str, Tensor] = {}
        others: dict[str, Tensor] = {}
        for name, weight in model.named_parameters():
            chosen = matrices if weight.ndim == 2 and not any(edge in name for edge in _EDGES) else others
            chosen[name] = weight
        self._names = {id(weight): name for name, weight in (matrices | others).items()}
        self._parts = (
            torch.optim.Muon(list(matrices.values()), weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(list(others.values()), betas=(0.9, 0.98), weight_decay=0.01),
        )
        self._weights = list(matrices.values()) + list(others.values())

    def step(self, rate: float) -> None:
        """Change the weights by their gradients and forget these; a norm above 1 is cut down to 1."""
        nn.utils.clip_grad_norm_(self._weights, 1.0)
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = rate
            part.step()
            part.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """Return the state as named tensors."""
        return {
            f"{self._names[id(weight)]}#{key}": torch.as_tensor(value)
            for part in self._parts
            for weight, state in part.state.items()
            for key, value in state.items()
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `tensors` returned."""
        weights = {self._names[id(weight)]: weight for weight in self._weights}
        owner = {id(weight): part for part in self._parts for group in part.param_groups for weight in group["params"]}
        for name, value in tensors.items():
            weight_name, _, key = name.partition("#")
            weight = weights[weight_name]
            owner[id(weight)].state[weight][key] = value.to(weight.device) if value.ndim else value
