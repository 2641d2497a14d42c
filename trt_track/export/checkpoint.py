"""Checkpoints in upstream's format: read, refuse with a reason, write.

What belongs to a checkpoint stands here too, so that one import is enough: `build_model` and `model_spec` for the network that the
weights go into, `random_checkpoint` for weights where no trained file is at hand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from trt_track.errors import ModelError
from trt_track.export.random_weights import random_checkpoint
from trt_track.export.upstream import build_model, model_spec

__all__ = ["build_model", "load_checkpoint", "model_spec", "random_checkpoint", "save_checkpoint"]

_SHOWN: Final = 3
"""Keys that an error names before it only counts."""

_TRUNKS: Final = {(96, 12): "tiny", (96, 16): "small", (112, 24): "base-plus", (144, 48): "large"}
"""Hiera's first width and number of blocks -> the size in the model's name."""


def load_checkpoint(model: nn.Module, path: str | Path) -> str:
    """Fill a model with the weights of a checkpoint: the official form `{"model": {name: tensor}}`, or a `.safetensors` file of tensors.

    The file is read as data: a pickle that would run code is refused. The model stays as it was when anything is wrong.

    Returns:
        SHA-256 of the file, lower-case hex.

    Raises:
        ModelError: the file cannot be read, is no checkpoint, or its weights are not those of this model.
    """
    path = Path(path)
    sha256 = file_sha256(path)
    weights = _read_weights(path)
    _refuse_other_weights(model.state_dict(), weights, path)
    model.load_state_dict(weights)
    return sha256


def save_checkpoint(model: nn.Module, path: str | Path) -> None:
    """Write a model's weights in the official form.

    Raises:
        ModelError: the file cannot be written.
    """
    try:
        torch.save({"model": model.state_dict()}, path)
    except (OSError, RuntimeError) as error:
        raise ModelError(f"cannot write checkpoint {path}: {_first_line(error)}") from error


def file_sha256(path: Path) -> str:
    """Return a file's SHA-256 in lower-case hex.

    Raises:
        ModelError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"cannot read checkpoint {path}: {error.strerror}") from error


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a `.safetensors` file, or those below `model` of a PyTorch file."""
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler answers damaged data with almost any exception
        raise ModelError(f"{path} is no PyTorch checkpoint, is damaged, or holds more than weights: {_first_line(error)}") from error
    weights = content.get("model") if isinstance(content, Mapping) else None
    if not isinstance(weights, Mapping) or not weights:
        raise ModelError(f"{path} has no weights below 'model': expected a checkpoint in the form of the official SAM 2 files")
    strangers = [str(key) for key, value in weights.items() if not isinstance(value, torch.Tensor)]
    if strangers:
        raise ModelError(f"{path} has values that are no tensors: {_some(strangers)}")
    return {str(key): value for key, value in weights.items()}


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a file, those in half precision as float32."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is no safetensors file or is damaged: {_first_line(error)}") from error
    return {key: value.float() if value.is_floating_point() else value for key, value in weights.items()}


def _refuse_other_weights(expected: Mapping[str, torch.Tensor], got: Mapping[str, torch.Tensor], path: Path) -> None:
    """Compare names, shapes and values of a checkpoint with what a model needs."""
    faults = {
        "missing": [key for key in expected if key not in got],
        "unexpected": [key for key in got if key not in expected],
        "of another shape": [
            f"{key} (expected {list(expected[key].shape)}, got {list(got[key].shape)})"
            for key in expected
            if key in got and expected[key].shape != got[key].shape
        ],
    }
    told = [f"{len(keys)} {fault}: {_some(keys)}" for fault, keys in faults.items() if keys]
    if told:
        name = guess_model(got)
        hint = f"; this looks like {name}" if name else ""
        raise ModelError(f"{path} does not fit the model: {'; '.join(told)}{hint}")
    sick = [key for key, value in got.items() if not bool(torch.isfinite(value).all())]
    if sick:
        raise ModelError(
            f"{path} has weights that are infinite or no numbers in {_some(sick)}: the training diverged or the file is damaged"
        )


def guess_model(weights: Mapping[str, Any]) -> str | None:
    """Return the name of the official model that weights belong to, from the shape of the trunk; None if it is none of them."""
    patches = weights.get("image_encoder.trunk.patch_embed.proj.weight")
    if not isinstance(patches, torch.Tensor) or not patches.ndim:
        return None
    blocks = {key.split(".")[3] for key in weights if key.startswith("image_encoder.trunk.blocks.")}
    size = _TRUNKS.get((patches.shape[0], len(blocks)))
    family = "sam2.1" if "no_obj_embed_spatial" in weights else "sam2"
    return f"{family}-hiera-{size}" if size else None


def _some(keys: Iterable[str]) -> str:
    """Return the first keys, and how many more there are."""
    keys = list(keys)
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more


def _first_line(error: BaseException) -> str:
    """Return what an error says in its first sentence: PyTorch's go on for a page."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text.split(". ")[0][:200]
