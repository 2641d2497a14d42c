"""Train `pico`, the small SAM 2 that the package carries: `python training/train_pico.py`, again and again until it says that it is done.

Each call goes on where the last one stopped and ends after `--minutes`. What is made on the way lies in `--out`: the state, the curve as
JSON lines, and at the end `pico.safetensors` with the averaged weights.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import typer
from clips import ClipBatch, ClipRecipe, batches
from losses import prediction_loss
from optimiser import Optimiser
from pieces import LOG_EVERY, Training, command
from stages import STAGES, ClipStage
from unroll import unroll

from trt_track.export.checkpoint import build_model, load_checkpoint
from trt_track.models import PICO_CONFIG
from trt_track.scenes import SceneStyle


class PicoTraining(Training[ClipStage, ClipBatch]):
    """Clips of every stage, prompted in turn with boxes, clicks and masks."""

    weights_name = "pico.safetensors"
    curriculum = STAGES

    def new_model(self, stage: ClipStage) -> Any:
        """Build upstream's model for the stage's pictures."""
        model = build_model(PICO_CONFIG, stage.size).to(self.device).train()
        start_weights(model)
        return model

    def load_weights(self, file: Path) -> None:
        """Take over a checkpoint."""
        load_checkpoint(self.model, file)

    def batches(self, stage: ClipStage) -> Iterator[ClipBatch]:
        """Yield clips drawn for this process."""
        leave = stage.leave if stage.frames > 1 else 0.0
        style = SceneStyle(size_wh=(stage.size, stage.size), frames=stage.frames, leave=leave, alike=stage.alike)
        share = max(1, stage.clips // self.team.size)
        recipe = ClipRecipe(style, share, stage.objects, seed=(self.seed * 100 + self.stage) * 100 + self.team.rank)
        yield from batches(recipe, self.step, stage.steps - self.step, stage.clutter_steps, self.workers)

    def losses(self, stage: ClipStage, batch: ClipBatch) -> dict[str, Any]:
        """Return the mean over the frames of a clip."""
        correct_at = int(torch.randint(stage.frames, ())) if torch.rand(()) < stage.correct else None
        batch = batch.pin(self.device)
        sums: dict[str, Any] = defaultdict(float)
        count = 0
        for time_index, prediction in unroll(self.model, batch, self._prompt(stage), correct_at):
            count += 1
            for name, value in prediction_loss(prediction, batch.masks[time_index], stage.weights).items():
                sums[name] = sums[name] + value
        return {name: value / count for name, value in sums.items()}

    def _prompt(self, stage: ClipStage) -> str:
        return stage.prompts[self.step % len(stage.prompts)]

    def label(self, stage: ClipStage) -> dict[str, Any]:
        """Tell the kind of prompt."""
        return {"prompt": self._prompt(stage)}

    def logs(self, stage: ClipStage) -> bool:
        """Log as many steps in a row as there are kinds of prompts."""
        return self.total % LOG_EVERY < len(stage.prompts)

    def fit_stage(self) -> None:
        """Take weights and optimiser over into a network for the stage's pictures: all weights keep their shapes."""
        size = self.stages[self.stage].size
        if size == self.model.image_size:
            return
        weights, moments = self.model.state_dict(), self.optimiser.tensors()
        self.model = build_model(PICO_CONFIG, size).to(self.device).train()
        self.model.load_state_dict(weights)
        self.optimiser = Optimiser(self.model)
        self.optimiser.load(moments)


def start_weights(model: Any) -> None:
    """Set the few weights that upstream leaves to its checkpoints: small position codes instead of zeros or ones that never move."""
    for block in model.memory_encoder.fuser.layers:
        torch.nn.init.constant_(block.gamma, 0.1)
    torch.nn.init.trunc_normal_(model.image_encoder.trunk.pos_embed, std=0.02)
    torch.nn.init.trunc_normal_(model.image_encoder.trunk.pos_embed_window, std=0.02)


if __name__ == "__main__":
    typer.run(command(PicoTraining, Path("artifacts/pico")))
