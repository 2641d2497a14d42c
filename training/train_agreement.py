"""Teach a trained `pico` that its candidates of a tracked frame agree: `python training/train_agreement.py --start WEIGHTS`.

Only the mask decoder and the projection of pointers learn, from the model itself (see `agreement.py`). In pieces as `train_pico.py`;
`--start` names the same weights for all of them.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import torch
import typer
from agreement import Candidates, agreement_loss, all_candidates, targets, with_noise
from clips import ClipBatch
from losses import MaskPrediction
from pieces import Plan, Team, Training, command
from stages import AGREEMENT, ClipStage
from torch import Tensor
from train_pico import PicoTraining, draw_clips, new_model
from unroll import DecoderInput, predict, unroll

from trt_track.export.checkpoint import load_checkpoint

VISITS = 6
"""Steps that learn from one clip, whose features cost most to compute: each from other frames of it, with other noise."""
FRAMES = 4
"""Frames of each clip that one step learns from."""

Lessons: TypeAlias = list[tuple[DecoderInput, Candidates]]
"""What the decoder was asked on the way through a clip, and what it should say."""


class AgreementTraining(Training[ClipStage, Lessons]):
    """A decoder that follows its frozen self over clips."""

    weights_name = PicoTraining.weights_name
    curriculum = (AGREEMENT,)

    def __init__(self, plan: Plan, team: Team) -> None:
        """Begin with the plan's weights, which stay the teacher's when a later piece goes on."""
        if plan.start is None:
            raise typer.BadParameter("say with --start which weights to begin with")
        super().__init__(plan, team)

    def new_model(self, stage: ClipStage) -> Any:
        """Build upstream's model for the stage's pictures."""
        return new_model(stage.size).to(self.device)

    def load_weights(self, file: Path) -> None:
        """Take over a checkpoint, keep a copy as the teacher, and let only the decoder learn."""
        load_checkpoint(self.model, file)
        self.teacher = copy.deepcopy(self.model).requires_grad_(False)
        self.model.requires_grad_(False)
        for part in (self.model.sam_mask_decoder, self.model.obj_ptr_proj):
            part.requires_grad_(True)

    def batches(self, stage: ClipStage) -> Iterator[Lessons]:
        """Yield the lessons of a clip as often as it is visited."""
        first, visits = divmod(self.step, VISITS)
        clips = draw_clips(self, stage, first, -(-stage.steps // VISITS) - first)
        lessons = (lesson for number, clip in enumerate(clips, first) for lesson in [self._lessons(stage, clip, number)] * VISITS)
        yield from islice(lessons, visits, visits + stage.steps - self.step)

    def _lessons(self, stage: ClipStage, batch: ClipBatch, number: int) -> Lessons:
        torch.manual_seed(number)  # the step that follows has a seed of its own
        asked: list[DecoderInput] = []

        def note(model: Any, given: DecoderInput) -> tuple[MaskPrediction, Tensor]:
            asked.append(given)
            return predict(model, given)

        correct_at = int(torch.randint(stage.frames, ())) if torch.rand(()) < stage.correct else None
        with torch.no_grad():
            list(unroll(self.teacher, batch.pin(self.device), self._prompt(stage, number), correct_at, note))
        return [(given, targets(self.teacher, given)) for given in asked]

    def losses(self, _stage: ClipStage, batch: Lessons) -> dict[str, Any]:
        """Return the mean over some frames of a clip."""
        chosen = torch.randperm(len(batch))[:FRAMES]
        sums: dict[str, Any] = defaultdict(float)
        for given, wanted in (batch[index] for index in chosen):
            for name, value in agreement_loss(all_candidates(self.model, with_noise(given)), wanted).items():
                sums[name] = sums[name] + value / len(chosen)
        return dict(sums)

    def _prompt(self, stage: ClipStage, number: int) -> str:
        return stage.prompts[number % len(stage.prompts)]

    def label(self, stage: ClipStage) -> dict[str, Any]:
        """Tell the kind of prompt."""
        return {"prompt": self._prompt(stage, self.step // VISITS)}


if __name__ == "__main__":
    typer.run(command(AgreementTraining, Path("artifacts/pico-agreement")))
