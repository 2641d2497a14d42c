"""The trainer: what it sees is seeded, every weight learns, and a training in pieces is the training in one."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from clips import ClipDataset, ClipRecipe, make_clip
from losses import LossWeights, prediction_loss
from optimiser import Optimiser
from pieces import Plan, Stage, Team, lengthen
from safetensors.torch import save_file
from stages import ClipStage
from state import load_state, save_state
from train_detector import DetectorTraining, PictureStage
from train_pico import PicoTraining
from unroll import unroll

from trt_track.export.upstream import build_model
from trt_track.models import PICO_CONFIG
from trt_track.scenes import SceneStyle

SIZE = 64
RECIPE = ClipRecipe(SceneStyle(size_wh=(SIZE, SIZE), frames=3, scale=(0.2, 0.4)), clips=2, objects=2, seed=1)


@pytest.fixture(scope="module")
def batch():
    return ClipDataset(RECIPE, 0, 1, 0)[0]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(PICO_CONFIG, SIZE).train()


@pytest.fixture
def quick_muon(monkeypatch):
    """One iteration of Muon in place of five, each of which takes seconds on a processor without products in bfloat16."""
    monkeypatch.setattr(torch.optim, "Muon", partial(torch.optim.Muon, ns_steps=1))


def test_a_batch_is_the_same_whenever_it_is_made(batch):
    again = ClipDataset(RECIPE, 0, 3, 0)[0]
    assert all(torch.equal(value, getattr(again, name)) for name, value in vars(batch).items())
    other = ClipDataset(RECIPE, 1, 3, 0)[0]
    assert not torch.equal(batch.frames, other.frames)


def test_prompts_fit_the_objects(batch):
    first = batch.masks[0]
    assert len(first) == len(batch.clip) == len(batch.boxes)
    for mask, box, click in zip(first, batch.boxes, batch.clicks, strict=True):
        x, y = click[0].long()
        assert mask[y, x]
        ys, xs = torch.nonzero(mask, as_tuple=True)
        side = max(int(xs.max() - xs.min()), int(ys.max() - ys.min())) + 1
        expected = torch.tensor([[xs.min(), ys.min()], [xs.max() + 1, ys.max() + 1]])
        assert (box - expected).abs().max() <= 0.05 * side + 1e-4


def test_clips_without_a_large_object_are_refused():
    assert make_clip((1, 2), SceneStyle(size_wh=(SIZE, SIZE), frames=1, scale=(0.01, 0.011)), 4, "train") is None


@pytest.mark.parametrize(("prompt", "yields"), [("box", 4), ("click", 4), ("mask", 3)])
def test_each_frame_is_predicted_once_and_a_corrected_one_twice(model, batch, prompt, yields):
    with torch.no_grad():
        steps = list(unroll(model, batch, prompt, correct_at=1))
    assert len(steps) == yields
    candidates = [prediction.logits.shape[1] for _, prediction in steps]
    assert candidates[-1] == 3
    assert all(len(prediction.logits) == len(batch.clip) for _, prediction in steps)


def test_every_weight_gets_a_gradient(model, batch):
    model.zero_grad(set_to_none=True)
    torch.manual_seed(0)
    for prompt in ("box", "click", "mask"):
        for index, prediction in unroll(model, batch, prompt, correct_at=1):
            prediction_loss(prediction, batch.masks[index], LossWeights())["total"].backward(retain_graph=True)
    still = [name for name, weight in model.named_parameters() if weight.grad is None]
    # Upstream's own spares: nothing in this configuration uses them.
    assert {name.split(".")[0] for name in still} <= {
        "no_mem_pos_enc",
        "sam_prompt_encoder",
        "sam_mask_decoder",
        "no_obj_embed_spatial",
        "no_obj_ptr",
    }
    assert len(still) < 12


def test_state_survives_the_disk_in_small_files(tmp_path):
    tensors = {"a": torch.randn(2_000_000), "b.c": torch.randn(2_500_000), "d": torch.ones(())}
    save_state(tmp_path / "state", {"step": 3}, tensors)
    save_state(tmp_path / "state", {"step": 4}, tensors)
    numbers, loaded = load_state(tmp_path / "state")
    assert numbers == {"step": 4}
    assert all(torch.equal(loaded[name], value) for name, value in tensors.items())
    sizes = [file.stat().st_size for file in (tmp_path / "state").glob("part-*")]
    assert len(sizes) == 2
    assert max(sizes) < 16_000_000


def test_lengthening_scales_steps_and_nothing_else():
    stage = Stage(name="s", steps=100, rates=(1e-3, 0.0), clutter_steps=50)
    (longer,) = lengthen((stage,), 2.5)
    assert (longer.steps, longer.clutter_steps, longer.rates) == (250, 125, (1e-3, 0.0))


def test_the_rate_warms_up_and_falls_to_its_end():
    stage = Stage(name="s", steps=1000, rates=(1e-3, 2e-4), warm_up=10)
    rates = [stage.rate_at(step) for step in range(1000)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[0] == pytest.approx(1e-4)
    assert rates[500] == pytest.approx(6e-4)
    assert rates[-1] == pytest.approx(2e-4, rel=1e-4)


@pytest.mark.usefixtures("quick_muon")
def test_the_optimiser_takes_every_weight_once(model):
    optimiser = Optimiser(model)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    for weight in model.parameters():
        weight.grad = torch.randn_like(weight)
    optimiser.step(1e-3)
    assert all(not torch.equal(before[name], weight) for name, weight in model.named_parameters())


COMMON = {"steps": 2, "rates": (1e-3, 1e-3)}
CURRICULA = {
    PicoTraining: (
        ClipStage(name="pictures", size=SIZE, frames=1, clips=1, objects=2, **COMMON),
        ClipStage(name="clips", size=2 * SIZE, frames=2, clips=1, objects=2, prompts=("box", "mask"), **COMMON),
    ),
    DetectorTraining: (
        PictureStage(name="small", frame_hw=(96, 160), pictures=2, clutter_steps=2, **COMMON),
        PictureStage(name="large", frame_hw=(128, 192), pictures=1, **COMMON),
    ),
}


@pytest.mark.usefixtures("quick_muon")
@pytest.mark.parametrize("kind", CURRICULA)
def test_training_in_two_pieces_is_training_in_one(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(kind, "curriculum", CURRICULA[kind])

    def pieces(name: str, stop_after: int | None) -> dict[str, torch.Tensor]:
        out = tmp_path / name
        out.mkdir()
        plan = Plan(out, workers=0)
        training = kind(plan, Team(0, plan))
        if stop_after is not None:
            step = training.train_step

            def train_and_stop(stage, batch):
                return step(stage, batch) or training.total >= stop_after

            monkeypatch.setattr(training, "train_step", train_and_stop)
            training.run()
            assert training.total == stop_after
            training = kind(plan, Team(0, plan))
        training.run()
        assert training.done
        assert training.total == 4
        return training.model.state_dict()

    whole, resumed = pieces("whole", None), pieces("resumed", 3)
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert (tmp_path / "whole" / kind.weights_name).stat().st_size < 16_000_000
    again = kind(Plan(tmp_path / "again", workers=0, start=tmp_path / "whole" / kind.weights_name), Team(0, Plan(tmp_path)))
    kept = load_state(tmp_path / "whole" / "state")[1]
    assert all(torch.equal(value, kept[f"average.{name}"].half().to(value)) for name, value in again.model.state_dict().items())


def test_training_goes_on_from_weights_at_a_stage(tmp_path, model):
    weights = tmp_path / "start.safetensors"
    save_file({name: value.half() for name, value in model.state_dict().items()}, weights)
    plan = Plan(tmp_path / "out", workers=0, start=weights, stage="clips-256")
    training = PicoTraining(plan, Team(0, plan))
    assert training.stages[training.stage].name == "clips-256"
    assert training.model.image_size == 256
    assert all(torch.equal(value, model.state_dict()[name].half().float()) for name, value in training.model.state_dict().items())
