"""Upstream's predictor as the reference of a drift run. It wants all frames up front and keeps every output, so it runs first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
from torch import nn

from trt_track.export.reference import Found, Track, track_upstream
from trt_track.parity.drift import Seen
from trt_track.runtime.prompts import Prompt
from trt_track.runtime.tracker import Source

_ABSENT: Final = -1024.0
"""Upstream's logits everywhere of an object that is not in the frame (`NO_OBJ_SCORE` of `sam2.modeling.sam2_base`)."""


class UpstreamReference:
    """What upstream found on every frame of a clip."""

    def __init__(self, track: Track) -> None:
        """Use a track that was made already; `of_clip` makes one."""
        self._track = track

    @classmethod
    def of_clip(
        cls,
        predictor: nn.Module,
        source: Source,
        prompts: Sequence[Prompt],
        *,
        size: int,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> UpstreamReference:
        """Track a clip with upstream.

        Args:
            predictor: upstream's `SAM2VideoPredictor`.
            source: the clip.
            prompts: in pixels of the video.
            size: side of the model's square, in pixels.
            on_progress: called with the frames that were encoded so far and those in all.
        """
        frames = [frame.model_rgb_hwc for frame in source.frames(size=size)]
        video_wh = (source.info.width, source.info.height)
        encoded = 0

        def count(*_: object) -> None:
            nonlocal encoded
            encoded += 1
            if on_progress:
                on_progress(min(encoded, len(frames)), len(frames))

        hook = predictor.get_submodule("image_encoder").register_forward_hook(count)
        try:
            return cls(track_upstream(predictor, frames, prompts, video_wh=video_wh))
        finally:
            hook.remove()

    def __call__(self, frame: int) -> Mapping[int, Seen]:
        """Return what it found on a frame, and forget that."""
        return {object_id: _seen(found) for object_id, found in self._track.pop(frame, {}).items()}


def _seen(found: Found) -> Seen:
    return Seen(found.mask_hw, found.logits, present=bool(np.max(found.logits) > _ABSENT), chosen=found.chosen)
