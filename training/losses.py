"""The losses of SAM 2 (https://arxiv.org/abs/2408.00714, appendix D.2.2): masks, dice, predicted IoU and presence, best of the masks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class LossWeights:
    """How much each part counts."""

    cross_entropy: float = 0.0
    focal: float = 20.0
    dice: float = 1.0
    iou: float = 1.0
    score: float = 1.0
    all_tracked: float = 0.0
    """How much of the loss of masks is the mean over all candidates, where no prompt was given on the frame."""


@dataclass
class MaskPrediction:
    """What the mask decoder said of N objects on one frame."""

    logits: Tensor
    """(N, K, h, w) of K candidate masks."""
    iou: Tensor
    """(N, K) predicted IoU of each."""
    score: Tensor
    """(N, 1) logit of the object being there."""
    prompted: bool = True
    """Whether a click or a box on this frame tells what is meant; else the memories do, and there is one right mask."""


def prediction_loss(prediction: MaskPrediction, masks: Tensor, weights: LossWeights) -> dict[str, Tensor]:
    """Return the mean over objects of each loss.

    Args:
        prediction: of N objects.
        masks: (N, S, S) bool, the truth.
        weights: which losses count; for the choice of the best candidate too.

    Returns:
        `mask`, `dice`, `iou`, `score`: scalars with a gradient, weighted; `total` is their sum and `j` the IoU of the candidate that
        the model itself prefers, without a gradient, over the objects that are there.
    """
    logits = functional.interpolate(prediction.logits, scale_factor=2, mode="bilinear", align_corners=False)
    truth = functional.adaptive_avg_pool2d(masks[:, None].float(), logits.shape[-2:]).expand_as(logits)
    there = masks.flatten(1).any(dim=1).float()
    mask, dice = _mask_loss(logits, truth, weights), weights.dice * _dice_loss(logits, truth)
    best = (mask + dice).argmin(dim=1, keepdim=True)
    shared = 0.0 if prediction.prompted else weights.all_tracked
    overlap = _overlap(logits.detach(), truth)
    parts = {
        "mask": (_best_and_all(mask, best, shared) * there).mean(),
        "dice": (_best_and_all(dice, best, shared) * there).mean(),
        "iou": weights.iou * ((prediction.iou - overlap).abs().mean(dim=1) * there).mean(),
        "score": weights.score * functional.binary_cross_entropy_with_logits(prediction.score[:, 0], there),
    }
    preferred = overlap.gather(1, prediction.iou.argmax(dim=1, keepdim=True))[:, 0]
    return {**parts, "total": sum(parts.values(), torch.zeros(())), "j": (preferred * there).sum() / there.sum().clamp(min=1)}


def _best_and_all(losses: Tensor, best: Tensor, share: float) -> Tensor:
    """(N,) loss of the best candidate, (N, 1) of (N, K), and a share of the mean over all."""
    return (1 - share) * losses.gather(1, best)[:, 0] + share * losses.mean(dim=1)


def _mask_loss(logits: Tensor, truth: Tensor, weights: LossWeights) -> Tensor:
    """(N, K) mean over pixels of cross entropy and of focal loss (alpha 0.25, gamma 2: https://arxiv.org/abs/1708.02002)."""
    entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    total = weights.cross_entropy * entropy.flatten(2).mean(dim=2)
    if weights.focal:
        p = logits.sigmoid()
        miss = p + truth - 2 * p * truth
        alpha = 0.75 - 0.5 * truth
        total = total + weights.focal * (alpha * miss.square() * entropy).flatten(2).mean(dim=2)
    return total


def _dice_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """(N, K) one minus the smoothed overlap 2ab / (a + b)."""
    p, t = logits.sigmoid().flatten(2), truth.flatten(2)
    return 1 - (2 * (p * t).sum(dim=2) + 1) / (p.sum(dim=2) + t.sum(dim=2) + 1)


def _overlap(logits: Tensor, truth: Tensor) -> Tensor:
    """(N, K) IoU of the thresholded masks."""
    p, t = (logits > 0).flatten(2), (truth > 0.5).flatten(2)
    return (p & t).sum(dim=2) / (p | t).sum(dim=2).clamp(min=1)
