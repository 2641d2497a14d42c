"""`trt-track parity` of a detector's bundle: boxes and words of real frames beside transformers' model with the same weights."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from trt_track.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from trt_track.engines.bundle import Bundle
    from trt_track.export.grounding_dino import LoadedDetector
    from trt_track.parity.detector_check import DetectorDeviation
    from trt_track.parity.thresholds import Thresholds

FRAMES: Final = 4
"""Frames of a clip that are compared where no number is given: each takes upstream and us some seconds."""
_UNUSED_PX: Final = 32
"""Side of the tracker's picture of each frame, which nobody looks at."""


@dataclass(frozen=True, slots=True)
class DetectorParity:
    """What the user said of the comparison."""

    text: str | None = None
    """What to look for; default: what the check after an export looks for."""
    weights: Path | None = None
    """transformers' folder of the weights; default: the seed or the hub model that the bundle names."""
    clip: Path | None = None
    """None for one frame of noise."""
    frames: int = FRAMES
    """Frames of the clip, from its first one on at equal distances."""

    def compare(self, bundle: Bundle, backend: str, thresholds: Thresholds) -> dict[int, DetectorDeviation]:
        """Return how far each frame is from transformers, by its number in the clip.

        Raises:
            ModelError: there are no weights to compare with, or they are others than the bundle's.
            PromptError: the text cannot be read.
            VideoError: the clip cannot be read.
        """
        from trt_track.cli.export_detector_command import check_text
        from trt_track.parity.detector_check import check_detector
        from trt_track.runtime.grounding_dino import GroundingDino, TextQuery
        from trt_track.runtime.phrases import TOKENIZER, PromptReader

        pictures = self._pictures(bundle.detector.frame_hw)
        upstream = load_upstream(bundle, self.weights)
        text = self.text or check_text(PromptReader(bundle.file_path(TOKENIZER), bundle.detector))
        limits = thresholds.detector(bundle.manifest.description.dtypes.values())
        detector = GroundingDino.open(bundle, TextQuery(text), backend=backend)
        try:
            rows = [check_detector(detector, upstream.model, picture[None], limits=limits)[0] for picture in pictures.values()]
        finally:
            detector.close()
        return dict(zip(pictures, rows, strict=True))

    def _pictures(self, frame_hw: tuple[int, int]) -> dict[int, npt.NDArray[np.uint8]]:
        """Return (h, w, 3) frames at the size of the model, by number."""
        import numpy as np

        from trt_track.runtime.grounding_dino import scaled_frame
        from trt_track.runtime.video import open_video

        if self.clip is None:
            return {0: np.random.default_rng(0).integers(0, 256, (*frame_hw, 3), np.uint8)}
        with open_video(self.clip) as source:
            wanted = {round(place) for place in np.linspace(0, source.info.frame_count - 1, self.frames)}
            frames = source.frames(size=_UNUSED_PX, only=wanted, keep_video=True)
            return {frame.index: scaled_frame(frame.video_rgb_hwc, frame_hw) for frame in frames if frame.video_rgb_hwc is not None}


def load_upstream(bundle: Bundle, weights: Path | None) -> LoadedDetector:
    """Load transformers' model with the weights that a detector's bundle was made of.

    Raises:
        ModelError: nothing says where they are, or they are others.
    """
    from trt_track.cli.export_command import export_extra
    from trt_track.models import GROUNDING_DINO_PICO

    with export_extra():
        from trt_track.export.grounding_dino import HUB_MODELS, download_detector, load_detector, official_config, seed_detector

    description, name = bundle.manifest.description, bundle.detector.name
    if weights is None and name == GROUNDING_DINO_PICO.name:
        weights = GROUNDING_DINO_PICO
    seed = re.fullmatch(r"random weights, seed (\d+)", description.source)
    if seed and weights is None:
        return seed_detector(official_config(name), int(seed[1]))
    of_hub = name in HUB_MODELS and description.source == HUB_MODELS[name].repository
    if weights is None and not of_hub:
        raise ModelError(f"{bundle.folder} was exported from a folder called {description.source}: give it with --weights FOLDER")
    loaded = download_detector(name) if weights is None else load_detector(weights)
    if loaded.sha256 != description.source_sha256:
        raise ModelError(
            f"{weights or loaded.source} is not what the bundle was exported from: its SHA-256 is {loaded.sha256}, the manifest says "
            f"{description.source_sha256 or description.source}"
        )
    return loaded
