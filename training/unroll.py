"""A model run over clips the way that it tracks, with gradients: prompt on the first frame, memory from there on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from clips import ClipBatch
from losses import MaskPrediction
from sam2.modeling.sam2_base import NO_OBJ_SCORE
from torch import Tensor
from torch.nn import functional

from trt_track.export.image_encoder import MEAN_RGB, STD_RGB

MEAN, STD = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN_RGB, STD_RGB))


@dataclass
class Clicks:
    """Points of N objects: coordinates (N, K, 2) in pixels and labels (N, K): 1 inside, 0 outside, 2 and 3 a box's corners."""

    xy: Tensor
    labels: Tensor

    def and_also(self, other: Clicks) -> Clicks:
        """Return both, these first."""
        return Clicks(torch.cat([self.xy, other.xy], dim=1), torch.cat([self.labels, other.labels], dim=1))


@dataclass
class Frame:
    """Features of one frame, repeated for each of its objects."""

    features: list[Tensor]
    """Per level, finest first: (cells, N, C)."""
    positions: list[Tensor]
    sizes: list[tuple[int, int]]

    def map(self, level: int) -> Tensor:
        """Return a level as (N, C, h, w)."""
        return self.features[level].permute(1, 2, 0).unflatten(2, self.sizes[level])


@dataclass
class Kept:
    """What a frame leaves for later ones, of N objects."""

    logits: Tensor
    """(N, 1, S, S)."""
    pointer: Tensor
    """(N, C)."""
    score: Tensor
    """(N, 1)."""


def encode(model: Any, batch: ClipBatch) -> Iterator[Frame]:
    """Encode all frames at once; yield them in order."""
    times, clips = batch.frames.shape[:2]
    pixels = (batch.frames.flatten(0, 1).float() / 255 - MEAN.to(batch.frames.device)) / STD.to(batch.frames.device)
    _, features, positions, sizes = model._prepare_backbone_features(model.forward_image(pixels))
    for time in range(times):
        chosen = time * clips + batch.clip
        yield Frame([level[:, chosen] for level in features], [level[:, chosen] for level in positions], sizes)


def unroll(model: Any, batch: ClipBatch, prompt: str, correct_at: int | None) -> Iterator[tuple[int, MaskPrediction]]:
    """Track every object through its clip.

    Args:
        model: upstream's network in training mode.
        batch: T frames of B clips with N objects.
        prompt: `box`, `click` or `mask`: what the first frame is prompted with.
        correct_at: a frame on which a click into the worst error follows, None for no correction.

    Yields:
        Frame index and what was predicted there; twice for a corrected frame, nothing for a frame whose mask was given.
    """
    outputs: dict[str, dict[int, dict[str, Any]]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
    times = batch.frames.shape[0]
    for time, frame in enumerate(encode(model, batch)):
        truth = batch.masks[time]
        if time == 0 and prompt == "mask":
            kept = _given_mask(model, frame, truth)
            outputs["cond_frame_outputs"][0] = _remember(model, frame, kept, from_clicks=False)
            continue
        clicks = _first_clicks(batch, prompt) if time == 0 else None
        conditioned = _condition(model, frame, time, outputs, times)
        prediction, pointers = predict(model, frame, conditioned, clicks, None)
        yield time, prediction
        if time == correct_at:
            wrong = wrong_click(prediction, truth)
            clicks = wrong if clicks is None else clicks.and_also(wrong)
            prediction, pointers = predict(model, frame, conditioned, clicks, best_logits(prediction).detach().clamp(-32, 32))
            yield time, prediction
        if times > 1:
            kind = "cond_frame_outputs" if time == 0 else "non_cond_frame_outputs"
            logits = functional.interpolate(_present(prediction), size=batch.frames.shape[-2:], mode="bilinear", align_corners=False)
            pointer = _mix_pointer(model, _preferred(prediction, pointers), prediction.score)
            kept = Kept(logits, pointer, prediction.score)
            outputs[kind][time] = _remember(model, frame, kept, from_clicks=clicks is not None)


def predict(
    model: Any, frame: Frame, conditioned: Tensor, clicks: Clicks | None, mask_prompt: Tensor | None
) -> tuple[MaskPrediction, Tensor]:
    """Run prompt encoder and mask decoder; return masks before presence hides them, and the pointers (N, K, C) of the candidates."""
    count = conditioned.shape[0]
    if clicks is None:
        clicks = Clicks(conditioned.new_zeros(count, 1, 2), torch.full((count, 1), -1, dtype=torch.int32, device=conditioned.device))
        points = 0
    else:
        points = clicks.xy.shape[1]
    sparse, dense = model.sam_prompt_encoder(points=(clicks.xy, clicks.labels), boxes=None, masks=mask_prompt)
    logits, iou, tokens, score = model.sam_mask_decoder(
        image_embeddings=conditioned,
        image_pe=model.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=points <= model.multimask_max_pt_num,
        repeat_image=False,
        high_res_features=[frame.map(0), frame.map(1)],
    )
    return MaskPrediction(logits, iou, score, prompted=points > 0), model.obj_ptr_proj(tokens)


def best_logits(prediction: MaskPrediction) -> Tensor:
    """Return the candidate (N, 1, h, w) that the model itself prefers."""
    return _preferred(prediction, prediction.logits)[:, None]


def wrong_click(prediction: MaskPrediction, truth: Tensor) -> Clicks:
    """Click a random pixel of the error of each object: label 1 where the mask misses it, 0 where it spills; anywhere if all is right."""
    logits = functional.interpolate(best_logits(prediction).detach(), size=truth.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    error = ((logits > 0) != truth).flatten(1).float() + 1e-6
    chosen = torch.multinomial(error, 1)
    width = truth.shape[-1]
    xy = torch.stack([chosen % width, torch.div(chosen, width, rounding_mode="floor")], dim=-1).float() + 0.5
    return Clicks(xy, truth.flatten(1).gather(1, chosen).to(torch.int32))


def _first_clicks(batch: ClipBatch, prompt: str) -> Clicks:
    if prompt == "click":
        return Clicks(batch.clicks, torch.ones(len(batch.clicks), 1, dtype=torch.int32, device=batch.clicks.device))
    corners = torch.tensor([[2, 3]], dtype=torch.int32, device=batch.boxes.device)
    return Clicks(batch.boxes, corners.expand(len(batch.boxes), 2))


def _condition(model: Any, frame: Frame, time: int, outputs: dict[str, Any], times: int) -> Tensor:
    """Return the features (N, C, g, g) that the decoder sees: with the memories so far, or marked as being without."""
    conditioned: Tensor = model._prepare_memory_conditioned_features(
        frame_idx=time,
        is_init_cond_frame=time == 0,
        current_vision_feats=frame.features[-1:],
        current_vision_pos_embeds=frame.positions[-1:],
        feat_sizes=frame.sizes[-1:],
        output_dict=outputs,
        num_frames=times,
    )
    return conditioned


def _given_mask(model: Any, frame: Frame, truth: Tensor) -> Kept:
    """Take the true mask as the first frame's output."""
    count = truth.shape[0]
    mask = truth[:, None].float()
    conditioned = frame.map(-1)
    prediction, pointers = predict(model, frame, conditioned, None, model.mask_downsample(mask))
    there = mask.new_full((count, 1), 10.0)
    return Kept(mask * 20 - 10, _mix_pointer(model, _preferred(prediction, pointers), there), there)


def _preferred(prediction: MaskPrediction, of_candidates: Tensor) -> Tensor:
    """Choose (N, ...) of (N, K, ...) by predicted IoU; of (N, 1, ...) the only one."""
    if of_candidates.shape[1] == 1:
        return of_candidates[:, 0]
    best = prediction.iou.argmax(dim=1)
    return of_candidates[torch.arange(len(best), device=best.device), best]


def _present(prediction: MaskPrediction) -> Tensor:
    """Hide the mask (N, 1, h, w) of objects that are said to be gone."""
    return torch.where(prediction.score[..., None, None] > 0, best_logits(prediction), NO_OBJ_SCORE)


def _mix_pointer(model: Any, pointer: Tensor, score: Tensor) -> Tensor:
    """Put the learned pointer of absence where the object is gone."""
    there = (score > 0).float()
    return there * pointer + (1 - there) * model.no_obj_ptr


def _remember(model: Any, frame: Frame, kept: Kept, *, from_clicks: bool) -> dict[str, Any]:
    features, positions = model._encode_new_memory(
        current_vision_feats=frame.features,
        feat_sizes=frame.sizes,
        pred_masks_high_res=kept.logits,
        object_score_logits=kept.score,
        is_mask_from_pts=from_clicks,
    )
    return {"maskmem_features": features, "maskmem_pos_enc": positions, "obj_ptr": kept.pointer}
