"""The curriculum: which examples and which losses, in which order, at which speed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

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
    rates: tuple[float, float]
    """Learning rate after the warm-up and at the end, half a cosine between them."""
    weights: LossWeights
    prompts: tuple[str, ...] = ("box", "click")
    correct: float = 0.3
    """Share of steps with a correcting click."""
    clutter_steps: int = 0
    """Steps over which the scenes rise from clean to cluttered."""
    warm_up: int = 50
    alike: float = 0.0
    """Share of things that look like another one of their scene."""

    def rate_at(self, step: int) -> float:
        """Return the learning rate at a step."""
        first, last = self.rates
        warm = min(1.0, (step + 1) / self.warm_up)
        return warm * (last + (first - last) * (0.5 + 0.5 * math.cos(math.pi * step / self.steps)))


STAGES = (
    Stage("pictures-128", 128, 1, 16, 4, 2400, (1e-3, 7e-4), PLAIN, clutter_steps=1500),
    Stage("clips-128", 128, 4, 8, 4, 2400, (8e-4, 5e-4), PLAIN, ("box", "click", "mask"), warm_up=100),
    Stage("clips-256", 256, 4, 4, 4, 1300, (5e-4, 3e-4), UPSTREAM, ("box", "click", "mask"), warm_up=50),
    Stage("long-256", 256, 8, 2, 4, 800, (3e-4, 1e-4), UPSTREAM, ("box", "click", "mask"), warm_up=20),
    Stage("alike-256", 256, 8, 2, 4, 330, (3e-4, 0.0), UPSTREAM, ("box", "click", "mask"), warm_up=20, alike=0.5),
)
"""About three hours on two cores."""


def lengthen(stages: tuple[Stage, ...], factor: float) -> tuple[Stage, ...]:
    """Return the stages with `factor` times the steps."""
    return tuple(
        replace(stage, steps=max(1, round(stage.steps * factor)), clutter_steps=round(stage.clutter_steps * factor)) for stage in stages
    )
