"""Train the small Grounding DINO that the package carries: `python training/train_detector.py`, until it says that it is done.

Each call goes on where the last one stopped, as `train_pico.py` does; at the end `--out` holds `model.safetensors`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from detector_examples import FRAME_HW, DetectorBatch, PictureRecipe, batches
from detector_loss import detection_loss
from pieces import Stage, Training, command
from safetensors.torch import load_file
from small_grounding_dino import Glance, new_model, predictions, word_tokenizer


@dataclass(frozen=True, kw_only=True)
class PictureStage(Stage):
    """Pictures of one size."""

    frame_hw: tuple[int, int]
    pictures: int


STAGES = (
    PictureStage(name="pictures-96", frame_hw=(96, 160), pictures=16, steps=2000, rates=(1e-3, 7e-4), clutter_steps=1200),
    PictureStage(name="pictures-192", frame_hw=FRAME_HW, pictures=8, steps=5000, rates=(7e-4, 0.0)),
)
"""About two hours on two cores."""
GLANCE = "glance."
"""Beginning of the names of weights that only the training needs."""
GLANCE_WEIGHT = 3.0
_CONTRAST = 0.7
"""Share of prompts with names that differ in one word; with few of them colours are learnt and shapes are not."""


class DetectorTraining(Training[PictureStage, DetectorBatch]):
    """Single pictures, each with a prompt of its own."""

    weights_name = "model.safetensors"
    curriculum = STAGES

    def new_model(self, stage: PictureStage) -> Any:
        """Build the model, which takes pictures of any size, and what only its training needs."""
        del stage
        model = new_model()
        model.glance = Glance(model)
        return model.to(self.device).train()

    def load_weights(self, file: Path) -> None:
        """Take over the weights of an earlier training; those of the package lack what only the training needs."""
        weights = {name: weight.float() for name, weight in load_file(file).items()}
        left_out = self.model.load_state_dict(weights, strict=False).missing_keys
        if any(not name.startswith(GLANCE) for name in left_out):
            raise typer.BadParameter(f"{file} lacks {left_out[0]}: it is of another model")

    def batches(self, stage: PictureStage) -> Iterator[DetectorBatch]:
        """Yield pictures drawn for this process."""
        share = max(1, stage.pictures // self.team.size)
        seed = (self.seed * 100 + self.stage) * 100 + self.team.rank
        recipe = PictureRecipe(word_tokenizer(), stage.frame_hw, share, seed, stage.clutter_steps, _CONTRAST)
        yield from batches(recipe, self.step, stage.steps - self.step, self.workers)

    def losses(self, stage: PictureStage, batch: DetectorBatch) -> dict[str, Any]:
        """Return Grounding DINO's losses, and what the backbone knows of colours, patterns and shapes."""
        del stage
        batch = batch.pin(self.device)
        losses = detection_loss(predictions(self.model, batch.pixels, batch.token, batch.mask), batch.mask.bool(), batch.truth)
        seen = GLANCE_WEIGHT * self.model.glance(batch.things.corners, batch.things.kinds, batch.pixels.shape[-2])
        return {**losses, "seen": seen, "total": losses["total"] + seen}


if __name__ == "__main__":
    typer.run(command(DetectorTraining, Path("artifacts/detector")))
