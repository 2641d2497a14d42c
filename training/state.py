"""Everything that a later piece of training needs, in a folder of small safetensors files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

PART_BYTES = 15_000_000


class Averaged:
    """The exponential moving average of a model's weights, which scores better than any moment of training."""

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        """Begin at the weights as they are."""
        self.decay = decay
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after a step; early ones count more."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            if value.dtype.is_floating_point:
                self.weights[name].lerp_(value, 1 - decay)


def save_state(folder: Path, numbers: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write numbers and tensors; the old state stays until the new one is complete."""
    draft = folder.with_name(folder.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    parts: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, value in tensors.items():
        if size + value.nbytes > PART_BYTES and parts[-1]:
            parts.append({})
            size = 0
        parts[-1][name] = value.detach().cpu().contiguous().clone()
        size += value.nbytes
    for index, part in enumerate(parts):
        save_file(part, draft / f"part-{index:02}.safetensors")
    (draft / "state.json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    draft.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load_state(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what `save_state` wrote.

    Raises:
        FileNotFoundError: there is no state.
    """
    numbers = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    tensors: dict[str, Tensor] = {}
    for part in sorted(folder.glob("part-*.safetensors")):
        tensors |= load_file(part)
    return numbers, tensors
