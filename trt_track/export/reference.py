"""Upstream's own video predictor, driven frame by frame with the same prompts: what trt-track must equal.

Upstream wants all frames up front and keeps every output. Between two prompted frames `propagate_in_video` is called for just the frames
between, so that an object that appears on frame 5 is not tracked before it, and a correction meets a frame that was tracked already.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from typing import Any, Protocol
from unittest import mock

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from trt_track.export.image_encoder import MEAN_RGB, STD_RGB

_MODULE = "sam2.sam2_video_predictor"
# Masks before filling that are kept until their frame is collected: more than one frame has objects.
_KEPT = 64


class PromptLike(Protocol):
    """What the reference reads of a prompt; see `trt_track.runtime.prompts.Prompt`."""

    @property
    def frame(self) -> int: ...  # noqa: D102
    @property
    def object_id(self) -> int: ...  # noqa: D102
    @property
    def points_xy_px(self) -> np.ndarray: ...  # noqa: D102
    @property
    def labels(self) -> np.ndarray: ...  # noqa: D102
    @property
    def box_xyxy_px(self) -> np.ndarray | None: ...  # noqa: D102
    @property
    def mask(self) -> np.ndarray | None: ...  # noqa: D102
    @property
    def remove(self) -> bool: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Found:
    """What a tracker found of one object on one frame."""

    logits: np.ndarray
    """(1, S/4, S/4) float32, the decoder's, before small holes are filled: filling is a choice that a rounding error can turn, and a
    turned choice is a matter for the mask."""
    unfilled_hw: np.ndarray
    """(H, W) bool at the video's size, made of these logits."""
    mask_hw: np.ndarray
    """(H, W) bool at the video's size, small holes filled: what users get."""
    chosen: int | None = None
    """Which of the decoder's four candidates the mask is; of a drawn mask what the decoder would have taken. None where nobody looked."""


def upscale(logits: Tensor, video_wh: tuple[int, int]) -> np.ndarray:
    """Return the mask (H, W) bool that upstream makes of logits (1, 1, S/4, S/4)."""
    resized = functional.interpolate(logits.float(), (video_wh[1], video_wh[0]), mode="bilinear", align_corners=False)
    mask: np.ndarray = (resized[0, 0] > 0).cpu().numpy()
    return mask


Track = dict[int, dict[int, Found]]
"""Frame number -> object id -> what was found."""


def components(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Label the 8-connected components of masks (N, 1, H, W) bool and give each pixel its component's area.

    It stands in for the CUDA extension of upstream, which is not needed to install sam2 and without which holes stay open.
    """
    labels, areas = torch.zeros_like(mask, dtype=torch.int32), torch.zeros_like(mask, dtype=torch.int32)
    for i, image in enumerate(mask[:, 0].cpu().numpy()):
        found, _ = ndimage.label(image, structure=np.ones((3, 3)))
        labels[i, 0] = torch.from_numpy(found.astype(np.int32))
        areas[i, 0] = torch.from_numpy(np.where(found > 0, np.bincount(found.ravel())[found], 0).astype(np.int32))
    return labels, areas


def track_upstream(
    predictor: Any,
    frames: Sequence[np.ndarray],
    prompts: Sequence[PromptLike],
    *,
    video_wh: tuple[int, int],
    reverse: bool = False,
) -> Track:
    """Track with upstream's predictor and return what it found of every object on every frame.

    Args:
        predictor: upstream's `SAM2VideoPredictor`.
        frames: (S, S, 3) uint8 RGB each, the whole clip.
        prompts: in any order, one per object and frame.
        video_wh: size that the prompts are given in.
        reverse: from the last prompted frame towards the start of the clip.
    """
    with _quiet(), _choices_told(predictor), _holes_filled() as unfilled:
        return _Driver(predictor, frames, video_wh, unfilled, reverse=reverse).run(prompts)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep upstream's progress bars and its warning about the missing extension away."""
    with warnings.catch_warnings(), redirect_stderr(StringIO()), torch.inference_mode():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def choices_seen(decoder: nn.Module) -> Iterator[list[Tensor]]:
    """Look on while upstream's mask decoder answers; yield a list that gets for every call which of its candidates it took, (B,) int32.

    Of three masks its caller takes the one of the best predicted IoU; a single one may have given way to another, so there the answer is
    looked for among the candidates.
    """
    predict: Any = decoder.predict_masks
    candidates: list[Tensor] = []
    chosen: list[Tensor] = []

    def remember(**asked: Any) -> Any:
        answer = predict(**asked)
        candidates[:] = [answer[0]]
        return answer

    def look(_module: nn.Module, _given: Any, asked: dict[str, Any], answer: Any) -> None:
        single = (candidates[0] - answer[0][:, :1]).abs().flatten(2).amax(2)
        number = 1 + answer[1].argmax(1) if asked["multimask_output"] else single.argmin(1)
        chosen.append(number.to(torch.int32))

    hook = decoder.register_forward_hook(look, with_kwargs=True)
    try:
        with mock.patch.object(decoder, "predict_masks", remember):
            yield chosen
    finally:
        hook.remove()


@contextmanager
def _choices_told(predictor: Any) -> Iterator[None]:
    """Let upstream note with what it keeps of a frame which candidate it took."""
    infer = predictor._run_single_frame_inference
    with choices_seen(predictor.sam_mask_decoder) as chosen:

        def note(*given: Any, **asked: Any) -> Any:
            chosen.clear()
            found, masks = infer(*given, **asked)
            found["chosen"] = int(chosen[-1])
            return found, masks

        with mock.patch.object(predictor, "_run_single_frame_inference", note):
            yield


@contextmanager
def _holes_filled() -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Let upstream fill holes without its extension; yield the list of its last (filled, unfilled) masks."""
    import sam2.utils.misc

    fill = sam2.utils.misc.fill_holes_in_mask_scores
    last: list[tuple[Tensor, Tensor]] = []

    def remember(mask: Tensor, max_area: int) -> Tensor:
        filled: Tensor = fill(mask, max_area)
        last.append((filled, mask))
        del last[:-_KEPT]
        return filled

    with (
        mock.patch("sam2.utils.misc.get_connected_components", components),
        mock.patch(f"{_MODULE}.fill_holes_in_mask_scores", remember),
    ):
        yield last


class _Driver:
    def __init__(
        self,
        predictor: Any,
        frames: Sequence[np.ndarray],
        video_wh: tuple[int, int],
        unfilled: list[tuple[Tensor, Tensor]],
        *,
        reverse: bool,
    ) -> None:
        self.predictor = predictor
        self.reverse, self.count = reverse, len(frames)
        with mock.patch(f"{_MODULE}.load_video_frames", return_value=(_normalised(frames), video_wh[1], video_wh[0])):
            self.state: dict[str, Any] = self.predictor.init_state("")
        self.unfilled, self.video_wh = unfilled, video_wh
        self.track: Track = {}

    def run(self, prompts: Sequence[PromptLike]) -> Track:
        """Walk from prompted frame to prompted frame."""
        step = -1 if self.reverse else 1
        stops = sorted({prompt.frame for prompt in prompts}, reverse=self.reverse)
        position = stops[0]
        for frame in stops:
            due = [prompt for prompt in prompts if prompt.frame == frame]
            for prompt in (prompt for prompt in due if prompt.remove):
                self._propagate(position, frame - step)
                position = frame
                self.predictor.remove_object(self.state, prompt.object_id, need_output=False)
            self._propagate(position, frame)
            for prompt in (prompt for prompt in due if not prompt.remove):
                self._prompt(prompt)
            position = frame + step
        self._propagate(position, 0 if self.reverse else self.count - 1)
        return self.track

    def _propagate(self, first: int, last: int) -> None:
        """Track all objects from `first` to `last`, both included."""
        frames = (first - last if self.reverse else last - first) + 1
        if frames <= 0 or not self.state["obj_ids"]:
            return
        # Upstream tracks one frame more than it is asked for, and nothing at all backwards from frame 0.
        if self.reverse and first == 0:
            self.predictor.propagate_in_video_preflight(self.state)
            self._track_frame_0()
            return
        passed = self.predictor.propagate_in_video(
            self.state, start_frame_idx=first, max_frame_num_to_track=frames - 1, reverse=self.reverse
        )
        for frame, *_ in passed:
            self._collect(frame)

    def _track_frame_0(self) -> None:
        """Do for frame 0 in reverse what `propagate_in_video` does for every other frame."""
        for index in range(len(self.state["obj_ids"])):
            outputs = self.state["output_dict_per_obj"][index]
            found, _ = self.predictor._run_single_frame_inference(self.state, outputs, 0, 1, False, None, None, True, True)
            outputs["non_cond_frame_outputs"][0] = found
        self._collect(0)

    def _collect(self, frame: int) -> None:
        for index, object_id in enumerate(self.state["obj_ids"]):
            outputs = self.state["output_dict_per_obj"][index]
            found = outputs["cond_frame_outputs"].get(frame) or outputs["non_cond_frame_outputs"][frame]
            self._keep(frame, object_id, found)

    def _prompt(self, prompt: PromptLike) -> None:
        if prompt.mask is not None:
            self.predictor.add_new_mask(self.state, prompt.frame, prompt.object_id, prompt.mask)
        else:
            self.predictor.add_new_points_or_box(
                self.state,
                prompt.frame,
                prompt.object_id,
                points=prompt.points_xy_px if len(prompt.labels) else None,
                labels=prompt.labels if len(prompt.labels) else None,
                box=prompt.box_xyxy_px,
            )
        index = self.state["obj_id_to_idx"][prompt.object_id]
        outputs = self.state["temp_output_dict_per_obj"][index]
        found = outputs["cond_frame_outputs"].get(prompt.frame) or outputs["non_cond_frame_outputs"][prompt.frame]
        self._keep(prompt.frame, prompt.object_id, found)

    def _keep(self, frame: int, object_id: int, found: dict[str, Any]) -> None:
        filled = found["pred_masks"]
        logits = next((before for after, before in reversed(self.unfilled) if after is filled), filled)
        masks = upscale(logits, self.video_wh), upscale(filled, self.video_wh)
        self.track.setdefault(frame, {})[object_id] = Found(logits[0].float().cpu().numpy().copy(), *masks, chosen=found["chosen"])


def _normalised(frames: Sequence[np.ndarray]) -> Tensor:
    """Return frames as upstream's loaders do: (T, 3, S, S) float32, (pixel / 255 - mean) / std."""
    images = torch.stack([torch.from_numpy(np.ascontiguousarray(frame)) for frame in frames]).permute(0, 3, 1, 2).float() / 255.0
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN_RGB, STD_RGB))
    images -= mean
    images /= std
    return images
