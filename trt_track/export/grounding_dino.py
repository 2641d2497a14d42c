"""transformers' Grounding DINO: from a local folder, from the hub at a pinned revision, or with weights from a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from transformers import GroundingDinoConfig, GroundingDinoForObjectDetection, SwinConfig
from transformers.utils.logging import disable_progress_bar

from trt_track.detector_specs import DetectorSpec
from trt_track.errors import ModelError
from trt_track.export.random_weights import random_weight
from trt_track.export.seeded_tokenizer import seeded_tokenizer

TOKENIZER: Final = "tokenizer.json"
WEIGHTS: Final = "model.safetensors"
_NEEDED: Final = ("config.json", TOKENIZER, WEIGHTS)
_LAYER_SCALE: Final = 0.3
"""Of what the fusion adds to frames and words; at upstream's initial 1e-4 an error in it would not show."""
_WORD_SCALE: Final = 0.2
"""Of the words at the end of the enhancer: logits are then of order 1 to 10, as those of the trained model."""


@dataclass(frozen=True, slots=True)
class HubModel:
    """An official model on the Hugging Face hub."""

    repository: str
    revision: str
    """Commit that is downloaded."""
    sha256: str
    """Of its `model.safetensors`."""
    backbone: Mapping[str, Any]
    """What its Swin differs in from transformers' default configuration."""


HUB_MODELS: Final = {
    "grounding-dino-tiny": HubModel(
        "IDEA-Research/grounding-dino-tiny",
        "a2bb814dd30d776dcf7e30523b00659f4f141c71",
        "1a2412ef99bd74bcd3c2a246fa1e48581f8889a1300c9051974741314fc042f3",
        {},
    ),
    "grounding-dino-base": HubModel(
        "IDEA-Research/grounding-dino-base",
        "12bdfa3120f3e7ec7b434d90674b3396eccf88eb",
        "5548f844c928c4b6f411fa8cbcc2bfa8dbbba437cb1d513975519f93c2a9ed21",
        {"image_size": 384, "embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32], "window_size": 12},
    ),
}
"""By the name that users type: Swin-T and Swin-B."""


@dataclass(frozen=True, slots=True)
class LoadedDetector:
    """A model in evaluation mode and what belongs to it."""

    model: Any
    """transformers' `GroundingDinoForObjectDetection`, float32."""
    tokenizer_json: bytes
    source: str
    sha256: str | None
    """Of the weights' file; None for weights from a seed."""


def load_detector(folder: Path) -> LoadedDetector:
    """Load a model from a folder as `save_pretrained` writes it.

    Raises:
        ModelError: a file is missing, or it is another model.
    """
    missing = [name for name in _NEEDED if not (folder / name).is_file()]
    if missing:
        raise ModelError(f"{folder} lacks {', '.join(missing)}: a Grounding DINO folder holds {', '.join(_NEEDED)}")
    disable_progress_bar()
    try:
        config = GroundingDinoConfig.from_pretrained(folder)
        _check_config(config, folder)
        config.disable_custom_kernels = True
        model = GroundingDinoForObjectDetection.from_pretrained(folder, config=config, dtype=torch.float32)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{folder} is no Grounding DINO that transformers can load: {str(error).splitlines()[0]}") from error
    with (folder / WEIGHTS).open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    return LoadedDetector(model.eval(), (folder / TOKENIZER).read_bytes(), folder.name, sha256)


def download_detector(name: str) -> LoadedDetector:
    """Load an official model from the hub, or from its cache, at the pinned revision, and check the SHA-256 of its weights.

    Raises:
        ModelError: no such model, the download failed, or the weights are others.
    """
    official = find_hub_model(name)
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(official.repository, revision=official.revision, allow_patterns=list(_NEEDED))
    except Exception as error:  # every kind of network and hub error
        raise ModelError(f"{official.repository} cannot be downloaded: {str(error).splitlines()[0]}; give a local folder") from error
    loaded = load_detector(Path(folder))
    if loaded.sha256 != official.sha256:
        raise ModelError(f"{folder}/{WEIGHTS} is not the official one: its SHA-256 is {loaded.sha256}, expected {official.sha256}")
    return LoadedDetector(loaded.model, loaded.tokenizer_json, official.repository, loaded.sha256)


def seed_detector(config: GroundingDinoConfig, seed: int) -> LoadedDetector:
    """Make a model with random weights, the same for the same seed and versions of PyTorch and transformers."""
    config.disable_custom_kernels = True
    model = GroundingDinoForObjectDetection(config).eval()
    _enliven(model, torch.Generator().manual_seed(seed))
    return LoadedDetector(model, seeded_tokenizer(config.text_config.vocab_size), f"random weights, seed {seed}", None)


@torch.no_grad()
def _enliven(model: Any, generator: torch.Generator) -> None:
    """Replace every weight: transformers' own initialisation leaves the box heads at zero, and most branches next to it."""
    seen: set[int] = set()  # the heads of all decoder layers are one
    for name, module in model.named_modules():
        for key, weight in module.named_parameters(recurse=False):
            if id(weight) in seen:
                continue
            seen.add(id(weight))
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(
                _LAYER_SCALE + 0.1 * noise if key in {"vision_param", "text_param"} else random_weight(module, name, key, noise=noise)
            )
    model.model.encoder.layers[-1].text_enhancer_layer.layer_norm_after.weight.mul_(_WORD_SCALE)


def official_config(name: str) -> GroundingDinoConfig:
    """Return the configuration of an official model.

    Raises:
        ModelError: there is no such model.
    """
    return GroundingDinoConfig(backbone_config=SwinConfig(out_indices=[2, 3, 4], **find_hub_model(name).backbone))


def find_hub_model(name: str) -> HubModel:
    """Return the official model called `name`.

    Raises:
        ModelError: there is no such model.
    """
    if name not in HUB_MODELS:
        raise ModelError(f"no detector is called {name!r}: choose {' or '.join(HUB_MODELS)}, or give the folder of another with --weights")
    return HUB_MODELS[name]


def detector_spec(loaded: LoadedDetector, name: str, frame_hw: tuple[int, int], box_threshold: float = 0.35) -> DetectorSpec:
    """Return what the runtime must know of a model; `box_threshold` is for users who name none."""
    config = loaded.model.config
    delimiters = tuple(int(token) for token in loaded.model.model.special_tokens)
    return DetectorSpec(name, frame_hw, config.d_model, config.num_queries, config.max_text_len, delimiters, box_threshold)


def _check_config(config: GroundingDinoConfig, folder: Path) -> None:
    """Refuse what the graphs do not compute.

    Raises:
        ModelError: names the key.
    """
    wanted = {"model_type": "grounding-dino", "two_stage": True, "embedding_init_target": True, "query_dim": 4}
    for key, value in wanted.items():
        if getattr(config, key, None) != value:
            raise ModelError(f"{folder}: {key} is {getattr(config, key, None)!r}, only {value!r} can be exported")
    if config.backbone_config.model_type != "swin":
        raise ModelError(f"{folder}: its backbone is {config.backbone_config.model_type!r}, only 'swin' can be exported")
