"""Upstream's video predictor, driven as its users drive it, without progress bars, warnings and files.

Unlike the reference of the parity checks nothing is kept of the results, so that its memory and its time are its own.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from trt_track.export.image_encoder import MEAN_RGB, STD_RGB
from trt_track.export.reference import components
from trt_track.runtime.prompts import Prompt

_MODULE = "sam2.sam2_video_predictor"


@contextmanager
def quiet() -> Iterator[None]:
    """Switch progress bars and the warning about the missing extension off."""
    with warnings.catch_warnings(), mock.patch(f"{_MODULE}.tqdm", lambda frames, **_: frames), torch.inference_mode():
        warnings.simplefilter("ignore")
        yield


class HoleFilling:
    """Lets upstream fill holes without its CUDA extension, with a labelling from SciPy whose time is known and can be taken off."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def components(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Stand in for `get_connected_components`."""
        started = time.perf_counter()
        labelled = components(mask)
        self.seconds += time.perf_counter() - started
        return labelled

    @contextmanager
    def installed(self) -> Iterator[HoleFilling]:
        with mock.patch("sam2.utils.misc.get_connected_components", self.components):
            yield self


def upstream_images(frames: Iterable[np.ndarray], count: int, size: int) -> Tensor:
    """Fill the one tensor (T, 3, S, S) float32 that upstream's loader makes: (pixel / 255 - mean) / std."""
    images = torch.empty(count, 3, size, size)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN_RGB, STD_RGB))
    for i, frame in enumerate(frames):
        images[i] = (torch.from_numpy(frame).permute(2, 0, 1).float() / 255.0 - mean) / std
    return images


def open_state(predictor: Any, images: Tensor, video_wh: tuple[int, int]) -> dict[str, Any]:
    """Hand the frames over where upstream would load files; as always, this encodes frame 0."""
    with mock.patch(f"{_MODULE}.load_video_frames", return_value=(images, video_wh[1], video_wh[0])):
        state: dict[str, Any] = predictor.init_state("")
    return state


def propagate(predictor: Any, state: dict[str, Any], prompts: Sequence[Prompt]) -> Generator[tuple[int, Tensor], None, None]:
    """Prompt with boxes and track to the end; yield the frame and the logits (B, 1, H, W) at the video's size."""
    for prompt in prompts:
        predictor.add_new_points_or_box(state, prompt.frame, prompt.object_id, box=prompt.box_xyxy_px)
    for frame, _, logits in predictor.propagate_in_video(state):
        yield frame, logits
