"""Upstream's video predictor, driven as its users drive it, without progress bars, warnings and files.

Unlike the reference of the parity checks nothing is kept of the results, so that its memory and its time are its own.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from trt_track.export.image_encoder import MEAN_RGB, STD_RGB
from trt_track.export.reference import components
from trt_track.runtime.prompts import Prompt

if TYPE_CHECKING:
    from trt_track.parity.weights import UpstreamModel

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
        wait_for(mask.device)
        started = time.perf_counter()
        labelled = components(mask)
        wait_for(mask.device)
        self.seconds += time.perf_counter() - started
        return labelled

    @contextmanager
    def installed(self) -> Iterator[HoleFilling]:
        """Put the labelling in the extension's place."""
        with mock.patch("sam2.utils.misc.get_connected_components", self.components):
            yield self


def wait_for(device: torch.device) -> None:
    """Wait for what a GPU was asked for; on a CPU there is nothing to wait for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def fills_holes() -> bool:
    """Tell whether upstream's CUDA extension is there."""
    return find_spec("sam2._C") is not None


@contextmanager
def precision(name: str, device: str) -> Iterator[None]:
    """Compute in FP32 (`fp32`), or with matrix products and convolutions in BF16 (`bf16`), as upstream's own examples do."""
    if name == "fp32":
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    try:
        with torch.autocast(device, dtype=torch.bfloat16):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def build_upstream(model: UpstreamModel, *, compiled: bool, device: str) -> Any:
    """Build `SAM2VideoPredictor`, or what `build_sam2_video_predictor(..., vos_optimized=True)` builds.

    Args:
        model: configuration and weights.
        compiled: whether upstream has its networks compiled by `torch.compile`, when they first run.
        device: `cpu` or `cuda`.
    """
    if not compiled:
        return model.build().to(device)
    # https://github.com/facebookresearch/sam2/blob/2b90b9f5ceec907a1c18123530e92e794ad901a4/sam2/build_sam.py#L118
    options = {"_target_": f"{_MODULE}.SAM2VideoPredictorVOS", "compile_image_encoder": True}
    with mock.patch.dict("trt_track.export.upstream._PREDICTOR_EXTRAS", options), redirect_stdout(StringIO()):  # it prints
        return model.build().to(device)


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
