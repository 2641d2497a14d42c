"""The curriculum: which examples and which losses, in which order, at which speed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from losses import LossWeights

PLAIN = LossWeights(cross_entropy=2.0, focal=0.0)
"""From scratch the focal loss predicts nothing at all; cross entropy and dice learn at once."""
UPSTREAM = LossWeights()


@dataclass(frozen=True)
class Stage:
    """Steps of one kind."""

    name: str
    size: int
    """Side of the picture in pixels."""
    frames: int
    clips: int
    objects: int
    steps: int
    rate: float
    """Learning rate after the warm-up."""
    weights: LossWeights
    prompts: tuple[str, ...] = ("box", "click")
    correct: float = 0.3
    """Share of steps with a correcting click."""
    clutter_steps: int = 0
    """Steps over which the scenes rise from clean to cluttered."""
    warm_up: int = 50

    def rate_at(self, step: int, *, last: bool) -> float:
        """Return the learning rate at a step: linear warm-up, then constant, or in the last stage down to nothing along a cosine."""
        warm = min(1.0, (step + 1) / self.warm_up)
        return self.rate * warm * (0.5 + 0.5 * math.cos(math.pi * step / self.steps) if last else 1.0)


STAGES = (
    Stage("pictures-128", 128, 1, 16, 4, 2400, 1e-3, PLAIN, clutter_steps=1500),
    Stage("clips-128", 128, 4, 4, 4, 1200, 7e-4, PLAIN, ("box", "click", "mask"), warm_up=100),
    Stage("clips-256", 256, 4, 2, 4, 900, 5e-4, UPSTREAM, ("box", "click", "mask"), warm_up=100),
    Stage("long-256", 256, 8, 1, 4, 400, 4e-4, UPSTREAM, ("box", "click", "mask"), warm_up=20),
)
"""About two hours on two cores."""


def lengthen(stages: tuple[Stage, ...], factor: float) -> tuple[Stage, ...]:
    """Return the stages with `factor` times the steps."""
    from dataclasses import replace

    return tuple(
        replace(stage, steps=max(1, round(stage.steps * factor)), clutter_steps=round(stage.clutter_steps * factor)) for stage in stages
    )
