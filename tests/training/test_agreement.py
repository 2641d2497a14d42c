"""What the decoder learns from itself: what it would have chosen, everywhere where it chooses, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from agreement import Candidates, agreement_loss, all_candidates, chosen_everywhere, targets, with_noise
from clips import ClipDataset, ClipRecipe
from pieces import Plan, Team
from safetensors.torch import save_file
from stages import AGREEMENT
from train_agreement import AgreementTraining
from typer import BadParameter
from unroll import DecoderInput, predict, unroll

from trt_track.export.upstream import build_model
from trt_track.models import PICO_CONFIG
from trt_track.scenes import SceneStyle

SIZE = 64
RECIPE = ClipRecipe(SceneStyle(size_wh=(SIZE, SIZE), frames=3, scale=(0.2, 0.4)), clips=1, objects=2, seed=1)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(PICO_CONFIG, SIZE).train()


@pytest.fixture(scope="module")
def asked(model) -> list[DecoderInput]:
    """What the decoder is asked on the way through a clip whose first frame is clicked."""
    found: list[DecoderInput] = []

    def note(model, given):
        found.append(given)
        return predict(model, given)

    with torch.no_grad():
        list(unroll(model, ClipDataset(RECIPE, 0, 1, 0)[0], "click", None, note))
    return found


def some_candidates() -> Candidates:
    torch.manual_seed(1)
    return Candidates(
        torch.randn(2, 4, 8, 8), torch.tensor([[0.9, 0.1, 0.5, 0.3], [0.0, 0.8, 0.2, 0.7]]), torch.randn(2, 4, 6), torch.zeros(2, 1)
    )


def test_every_frame_asks_once_and_only_the_first_is_prompted(asked):
    assert [given.clicks is not None for given in asked] == [True, False, False]


def test_the_best_of_three_takes_the_places_of_all_three():
    said = some_candidates()
    wanted = chosen_everywhere(said)
    for name in ("logits", "iou", "pointer"):
        ours, theirs = getattr(wanted, name), getattr(said, name)
        assert torch.equal(ours[:, 0], theirs[:, 0])  # the candidate for many clicks
        assert torch.equal(ours[0, 1:], theirs[0, 2].expand_as(ours[0, 1:]))
        assert torch.equal(ours[1, 1:], theirs[1, 1].expand_as(ours[1, 1:]))
    assert torch.equal(wanted.score, said.score)


def test_a_prompted_frame_stays_as_it_is_and_a_tracked_one_agrees(model, asked):
    prompted, tracked = targets(model, asked[0]), targets(model, asked[1])
    with torch.no_grad():
        assert torch.equal(prompted.logits, all_candidates(model, asked[0]).logits)
    assert not torch.equal(prompted.logits[:, 1], prompted.logits[:, 2])
    assert torch.equal(tracked.logits[:, 1], tracked.logits[:, 2])
    drawn = replace(asked[1], mask_prompt=torch.randn(len(asked[1].conditioned), 1, SIZE // 4, SIZE // 4))
    assert not torch.equal(targets(model, drawn).logits[:, 1], targets(model, drawn).logits[:, 2])


def test_nothing_is_lost_where_all_agree_and_much_where_nothing_does():
    wanted = some_candidates()
    same = agreement_loss(wanted, wanted)
    assert same["total"] == pytest.approx(0, abs=1e-5)
    assert same["j"] == 1
    opposite = agreement_loss(Candidates(-wanted.logits, 1 - wanted.iou, -wanted.pointer, wanted.score + 3), wanted)
    assert all(opposite[name] > 0.2 for name in ("mask", "pointer", "iou", "score"))
    assert opposite["j"] == 0


def test_noise_changes_features_and_nothing_else(asked):
    torch.manual_seed(2)
    given = asked[1]
    noisy = with_noise(given)
    assert 0 < (noisy.conditioned - given.conditioned).std() < 0.05 * given.conditioned.std()
    assert all(not torch.equal(ours, theirs) for ours, theirs in zip(noisy.frame.features, given.frame.features, strict=True))
    assert noisy.clicks is given.clicks


def test_only_the_decoder_learns_and_it_comes_to_agree(tmp_path, model, asked, monkeypatch):
    weights = tmp_path / "start.safetensors"
    save_file({name: value.half() for name, value in model.state_dict().items()}, weights)
    stage = replace(AGREEMENT, size=SIZE, frames=2, clips=1, objects=2, steps=12, rates=(3e-3, 3e-3), warm_up=1)
    monkeypatch.setattr(AgreementTraining, "curriculum", (stage,))
    plan = Plan(tmp_path, workers=0, start=weights)
    training = AgreementTraining(plan, Team(0, plan))
    before = {name: value.clone() for name, value in training.model.state_dict().items()}

    def spread() -> float:
        """How far the candidates of a tracked frame are from each other."""
        with torch.no_grad():
            logits = all_candidates(training.model, asked[1]).logits[:, 1:]
        return float(logits.std(dim=1).mean() / logits.std())

    at_first = spread()
    training.run()
    changed = {name.split(".")[0] for name, value in training.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"sam_mask_decoder", "obj_ptr_proj"}
    assert spread() < 0.5 * at_first


def test_it_needs_weights_to_begin_with(tmp_path):
    plan = Plan(tmp_path, workers=0)
    with pytest.raises(BadParameter, match="--start"):
        AgreementTraining(plan, Team(0, plan))
