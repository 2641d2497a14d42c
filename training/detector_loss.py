"""The losses of Grounding DINO (https://arxiv.org/abs/2303.05499, section 3.5): words by focal loss, boxes by L1 and GIoU, one to one.

Two things are not upstream's, which begins with trained backbones. The words of a query that is matched with an object count with their
plain cross entropy: the focal loss, which is for the many queries that see nothing, leaves them undecided. And every layer but the last
matches several queries with one object: one to one, most of the loss is which of two equal queries is the one, and little what it sees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

WORDS, PLACE, OVERLAP = 2.0, 5.0, 2.0
"""Weights of the three losses; in the matching the words count half as much."""
FIRST_COPIES, MIDDLE_COPIES = 6, 3
"""Queries that are matched with each object among the encoder's cells, and in every decoder layer but the last."""
_ALPHA = 0.25


@dataclass
class BoxTruth:
    """What is in one picture."""

    boxes: Tensor
    """(n, 4) centre and size, 0 to 1."""
    words: Tensor
    """(n, T) 1 for the tokens that are true of it, 0 for all others."""

    def repeated(self, copies: int) -> BoxTruth:
        """Return every object `copies` times."""
        return BoxTruth(self.boxes.repeat(copies, 1), self.words.repeat(copies, 1))


def detection_loss(outputs: Any, mask: Tensor, truth: list[BoxTruth]) -> dict[str, Tensor]:
    """Return the losses summed over the encoder's proposals and every decoder layer.

    Args:
        outputs: `predictions` of the model: pairs of logits (F, Q, T) and boxes (F, Q, 4), the encoder's first, the last layer's last.
        mask: (F, T) bool, which tokens are words of the prompt and not padding.
        truth: of each picture.

    Returns:
        `words`, `place`, `overlap` and their sum `total`, per object. Of the last layer's matched queries, without a gradient: `iou` of the
        boxes, and the mean probability of the words that are `true` of the object and of the others, `false`.
    """
    sums: dict[str, Tensor] = {}
    copies = [FIRST_COPIES, *[MIDDLE_COPIES] * (len(outputs) - 2), 1][-len(outputs) :]
    for (logits, boxes), often in zip(outputs, copies, strict=True):
        goals = [one.repeated(often) for one in truth]
        count = max(1, sum(len(one.boxes) for one in goals))
        picked = [match(logits[i][:, mask[i]], boxes[i], one, mask[i]) for i, one in enumerate(goals)]
        where = torch.cat([torch.full_like(rows, i) for i, (rows, _) in enumerate(picked)]), torch.cat([rows for rows, _ in picked])
        wanted, sure = torch.zeros_like(logits), torch.zeros_like(logits[..., :1])
        sure[where] = 1.0
        wanted[where] = torch.cat([one.words[order] for one, (_, order) in zip(goals, picked, strict=True)])
        goal = torch.cat([one.boxes[order] for one, (_, order) in zip(goals, picked, strict=True)])
        found = boxes[where]
        overlap, generalised = box_overlap(found, goal)
        parts = {
            "words": WORDS * ((sure * entropy(logits, wanted) + (1 - sure) * focal(logits, wanted)) * mask[:, None]).sum() / count,
            "place": PLACE * (found - goal).abs().sum() / count,
            "overlap": OVERLAP * (1 - generalised).sum() / count,
        }
        sums = {name: sums.get(name, torch.zeros(())) + value for name, value in parts.items()}
    told = {
        "iou": overlap.sum() / max(len(overlap), 1),
        "true": _mean(logits.sigmoid(), wanted),
        "false": _mean(logits.sigmoid(), sure * mask[:, None] - wanted),
    }
    return {**sums, "total": sum(sums.values(), torch.zeros(())), **{name: value.detach() for name, value in told.items()}}


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp(min=1)


@torch.no_grad()
def match(logits: Tensor, boxes: Tensor, truth: BoxTruth, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return predictions and objects of one picture, paired at the least cost: logits (Q, t) of the prompt's own tokens, boxes (Q, 4)."""
    words = truth.words[:, mask]
    words = words / words.sum(dim=1, keepdim=True).clamp(min=1)
    cost = WORDS / 2 * (focal(logits, torch.ones_like(logits)) - focal(logits, torch.zeros_like(logits))) @ words.T
    cost = cost + PLACE * torch.cdist(boxes, truth.boxes, p=1) - OVERLAP * box_overlap(boxes[:, None], truth.boxes[None])[1]
    rows, columns = linear_sum_assignment(cost.cpu().numpy())
    return torch.as_tensor(rows), torch.as_tensor(columns)


def entropy(logits: Tensor, wanted: Tensor) -> Tensor:
    """Cross entropy of every logit."""
    return functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")


def focal(logits: Tensor, wanted: Tensor) -> Tensor:
    """Focal loss of every logit, alpha 0.25 and gamma 2 (https://arxiv.org/abs/1708.02002)."""
    p = logits.sigmoid()
    miss = p + wanted - 2 * p * wanted
    return (_ALPHA * wanted + (1 - _ALPHA) * (1 - wanted)) * miss.square() * entropy(logits, wanted)


def box_overlap(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return IoU and generalised IoU (https://arxiv.org/abs/1902.09630) of boxes (..., 4) as centre and size, broadcast."""
    low, high = first[..., :2] - first[..., 2:] / 2, first[..., :2] + first[..., 2:] / 2
    other_low, other_high = second[..., :2] - second[..., 2:] / 2, second[..., :2] + second[..., 2:] / 2
    both = (torch.minimum(high, other_high) - torch.maximum(low, other_low)).clamp(min=0).prod(dim=-1)
    either = first[..., 2:].prod(dim=-1) + second[..., 2:].prod(dim=-1) - both
    around = (torch.maximum(high, other_high) - torch.minimum(low, other_low)).prod(dim=-1)
    iou = both / either.clamp(min=1e-9)
    return iou, iou - (around - either) / around.clamp(min=1e-9)
