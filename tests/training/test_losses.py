"""The losses of training: what is best costs least, and only the best of the masks learns."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from losses import LossWeights, MaskPrediction, prediction_loss


def square(size: int = 16) -> torch.Tensor:
    mask = torch.zeros(1, size, size, dtype=torch.bool)
    mask[:, 4:12, 4:12] = True
    return mask


def logits_of(mask: torch.Tensor, scale: float = 10.0) -> torch.Tensor:
    return (torch.nn.functional.avg_pool2d(mask[:, None].float(), 4) * 2 - 1) * scale


def predict(logits: torch.Tensor, iou=1.0, score: float = 10.0) -> MaskPrediction:
    ious = torch.full(logits.shape[:2], iou) if isinstance(iou, float) else torch.tensor([iou])
    return MaskPrediction(logits, ious, torch.full((len(logits), 1), score))


def test_a_right_mask_costs_nearly_nothing_and_a_wrong_one_much():
    mask = square()
    right = prediction_loss(predict(logits_of(mask)), mask, LossWeights())
    wrong = prediction_loss(predict(-logits_of(mask)), mask, LossWeights())
    assert right["total"] < 0.2 < 5 < wrong["total"]
    assert right["j"] > 0.7
    assert wrong["j"] == 0


def test_only_the_best_candidate_gets_the_gradient_of_the_mask():
    mask = square()
    logits = torch.cat([logits_of(mask, 1.0), logits_of(mask, -1.0), torch.zeros(1, 1, 4, 4)], dim=1).requires_grad_()
    parts = prediction_loss(predict(logits), mask, LossWeights())
    (parts["mask"] + parts["dice"]).backward()
    moved = logits.grad.abs().sum(dim=(0, 2, 3))
    assert moved[0] > 0
    assert moved[1:].sum() == 0


@pytest.mark.parametrize(("prompted", "learn"), [(True, 1), (False, 3)])
def test_where_nobody_prompts_every_candidate_learns_the_mask(prompted, learn):
    mask = square()
    logits = torch.cat([logits_of(mask, 1.0), logits_of(mask, -1.0), torch.zeros(1, 1, 4, 4)], dim=1).requires_grad_()
    parts = prediction_loss(replace(predict(logits), prompted=prompted), mask, LossWeights(all_tracked=0.5))
    (parts["mask"] + parts["dice"]).backward()
    assert int((logits.grad.abs().sum(dim=(0, 2, 3)) > 0).sum()) == learn


def test_every_candidate_learns_its_own_iou():
    mask = square()
    logits = torch.cat([logits_of(mask), -logits_of(mask)], dim=1)
    honest = prediction_loss(predict(logits, [1.0, 0.0]), mask, LossWeights())
    boasting = prediction_loss(predict(logits, [1.0, 1.0]), mask, LossWeights())
    assert boasting["iou"] - honest["iou"] == pytest.approx(0.5, abs=1e-3)


def test_an_absent_object_costs_by_its_score_alone():
    nothing = torch.zeros(1, 16, 16, dtype=torch.bool)
    logits = torch.full((1, 1, 4, 4), 5.0)
    said_gone = prediction_loss(predict(logits, score=-8.0), nothing, LossWeights())
    said_there = prediction_loss(predict(logits, score=8.0), nothing, LossWeights())
    assert said_gone["total"] < 0.01
    assert said_there["total"] == pytest.approx(8.0, abs=0.01)
    assert said_there["mask"] == said_there["dice"] == said_there["iou"] == 0


def test_the_focal_loss_is_that_of_the_paper():
    logits = torch.zeros(1, 1, 4, 4)
    half = prediction_loss(predict(logits), square(), LossWeights(dice=0, iou=0, score=0, focal=1.0))
    share = square().float().mean()
    expected = (0.25 * share + 0.75 * (1 - share)) * 0.25 * torch.log(torch.tensor(2.0))
    assert half["mask"] == pytest.approx(float(expected), rel=1e-4)
