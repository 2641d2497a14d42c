"""Upstream's predictor with the very weights that a bundle was exported from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from trt_track.engines.file_record import file_sha256
from trt_track.errors import ModelError

if TYPE_CHECKING:
    from trt_track.engines.bundle import Bundle


@dataclass(frozen=True, slots=True)
class UpstreamModel:
    """What upstream's predictor is made of."""

    config: str | Path
    """What `build_model` takes."""
    image_size: int
    """Side in pixels of the square that the model sees."""
    checkpoint: Path | None
    """Its weights; None for random ones."""
    seed: int | None = None
    """Of random weights."""

    @classmethod
    def of_bundle(cls, bundle: Bundle, *, checkpoint: Path | None = None, config: Path | None = None) -> Self:
        """Find the model that a bundle was exported from.

        Args:
            bundle: an opened bundle of a tracker.
            checkpoint: the weights; by default what belongs to the model's name.
            config: the model's YAML file, for a model that is not in the catalogue.

        Raises:
            ModelError: the model or its weights are not known, or they are others than the bundle's.
        """
        from trt_track.export.local_models import config_of, weights_of

        description, name = bundle.manifest.description, bundle.model.name
        network = config_of(name) if config is None else config.absolute()
        seed = re.fullmatch(r"random weights, seed (\d+)", description.source)
        if seed:
            return cls(network, bundle.model.image_size, None, int(seed[1]))
        path = checkpoint or weights_of(name)
        sha256 = _sha256(path)
        if sha256 != description.source_sha256:
            raise ModelError(
                f"{path} is not what the bundle was exported from: its SHA-256 is {sha256}, the manifest says {description.source_sha256}"
            )
        return cls(network, bundle.model.image_size, path.absolute())

    def build(self) -> Any:
        """Build `SAM2VideoPredictor` on the CPU and load its weights.

        Raises:
            ModelError: configuration or checkpoint cannot be used.
        """
        from trt_track.export.checkpoint import load_checkpoint
        from trt_track.export.random_weights import random_checkpoint
        from trt_track.export.upstream import build_model

        predictor = build_model(self.config, self.image_size)
        if self.checkpoint is None:
            random_checkpoint(predictor, self.seed or 0)
        else:
            load_checkpoint(predictor, self.checkpoint)
        return predictor


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise ModelError(f"cannot read checkpoint {path}: {error.strerror}") from error
