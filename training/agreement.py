"""What a mask decoder learns from itself: its candidates of a tracked frame are to be the one that it would have chosen.

Where nobody prompts, the memories tell what is meant and there is one right mask, but three candidates of which only the best was ever
trained differ by chance, and predicted IoUs that nearly tie let a rounding choose between them. A frozen copy of the model gives the
targets, so that what is tracked stays as it was, and the features get noise of the size that low precision brings.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from losses import MaskPrediction
from torch import Tensor
from torch.nn import functional
from unroll import DecoderInput, Frame, decoder_arguments, preferred

NOISE = 0.05
"""Most noise on features, in their standard deviations."""


@dataclass
class Candidates:
    """All that a mask decoder says of N objects: candidate 0 is the one for many clicks, 1 to 3 are those that it chooses from."""

    logits: Tensor
    """(N, 4, h, w)."""
    iou: Tensor
    """(N, 4)."""
    pointer: Tensor
    """(N, 4, C)."""
    score: Tensor
    """(N, 1)."""


def all_candidates(model: Any, given: DecoderInput) -> Candidates:
    """Run prompt encoder and mask decoder and keep every candidate."""
    logits, iou, tokens, score = model.sam_mask_decoder.predict_masks(**decoder_arguments(model, given))
    return Candidates(logits, iou, model.obj_ptr_proj(tokens), score)


def chosen_everywhere(candidates: Candidates) -> Candidates:
    """Put what the model would choose into the places of all that it chooses from."""

    def spread(values: Tensor) -> Tensor:
        choice = MaskPrediction(candidates.logits[:, 1:], candidates.iou[:, 1:], candidates.score)
        return torch.cat([values[:, :1], preferred(choice, values[:, 1:])[:, None].expand_as(values[:, 1:])], dim=1)

    return Candidates(spread(candidates.logits), spread(candidates.iou), spread(candidates.pointer), candidates.score)


def targets(teacher: Any, given: DecoderInput) -> Candidates:
    """Return what the decoder should say: as it does on a prompted frame, what it would choose on a tracked one."""
    with torch.no_grad():
        said = all_candidates(teacher, given)
    return chosen_everywhere(said) if given.clicks is None and given.mask_prompt is None else said


def with_noise(given: DecoderInput) -> DecoderInput:
    """Return the input with noise on all its features, of a strength of its own for each object."""
    frame = given.frame
    features = [_noisy(level, dim=1) for level in frame.features]
    return replace(given, conditioned=_noisy(given.conditioned, dim=0), frame=Frame(features, frame.positions, frame.sizes))


def agreement_loss(said: Candidates, wanted: Candidates) -> dict[str, Tensor]:
    """Return how far a decoder is from its targets, each part about one where nothing agrees.

    Returns:
        `mask`: cross entropy beyond that of the targets, and overlap of soft masks that is missing; `pointer`: squared error over the
        targets' variance; `iou`: distance; `score`: cross entropy beyond that of the targets. `total` is their sum; `j` the least IoU of
        the three masks with the wanted ones, mean over the objects that have one, without a gradient.
    """
    p = wanted.logits.sigmoid()
    entropy = _divergence(said.logits, p).flatten(2).mean(dim=2)
    parts = {
        "mask": (20 * entropy + _soft_overlap_missing(said.logits.sigmoid(), p)).mean(),
        "pointer": functional.mse_loss(said.pointer, wanted.pointer) / wanted.pointer.var().clamp(min=1e-6),
        "iou": functional.l1_loss(said.iou, wanted.iou),
        "score": _divergence(said.score, wanted.score.sigmoid()).mean(),
    }
    ours, theirs = (said.logits.detach()[:, 1:] > 0).flatten(2), (wanted.logits[:, 1:] > 0).flatten(2)
    there = theirs.any(dim=2).all(dim=1).float()
    least = ((ours & theirs).sum(dim=2) / (ours | theirs).sum(dim=2).clamp(min=1)).amin(dim=1)
    return {**parts, "total": sum(parts.values(), torch.zeros(())), "j": (least * there).sum() / there.sum().clamp(min=1)}


def _noisy(features: Tensor, dim: int) -> Tensor:
    others = [d for d in range(features.ndim) if d != dim]
    strength = NOISE * torch.rand_like(features.mean(dim=others, keepdim=True))
    return features + strength * features.std() * torch.randn_like(features)


def _divergence(logits: Tensor, p: Tensor) -> Tensor:
    """Cross entropy of logits with probabilities, less the entropy of these."""
    return functional.binary_cross_entropy_with_logits(logits, p, reduction="none") - functional.binary_cross_entropy(
        p, p, reduction="none"
    )


def _soft_overlap_missing(said: Tensor, wanted: Tensor) -> Tensor:
    """(N, K) one minus 2ab / (a^2 + b^2), which is zero only where both are the same."""
    a, b = said.flatten(2), wanted.flatten(2)
    return 1 - (2 * (a * b).sum(dim=2) + 1) / (a.square().sum(dim=2) + b.square().sum(dim=2) + 1)
