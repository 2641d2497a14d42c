"""The curriculum of `pico`: which clips and which losses, in which order, at which speed."""

from __future__ import annotations

from dataclasses import dataclass

from losses import LossWeights
from pieces import Stage

PLAIN = LossWeights(cross_entropy=2.0, focal=0.0)
"""From scratch the focal loss predicts nothing at all; cross entropy and dice learn at once."""
UPSTREAM = LossWeights()
AGREEING = LossWeights(all_tracked=0.5)
"""Trained by their best alone, the candidates of a tracked frame differ by chance, and the last bit of a product chooses between them."""
TRACKED = ("box", "click", "mask")


@dataclass(frozen=True, kw_only=True)
class ClipStage(Stage):
    """Clips of one size and length."""

    size: int
    """Side of the picture in pixels."""
    frames: int
    clips: int
    objects: int = 4
    weights: LossWeights = UPSTREAM
    prompts: tuple[str, ...] = TRACKED
    correct: float = 0.3
    """Share of steps with a correcting click."""
    alike: float = 0.0
    """Share of things that look like another one of their scene."""
    leave: float = 0.3
    """Share of objects that leave the picture, where a clip is longer than a frame."""


STAGES = (
    ClipStage(
        name="pictures-128",
        size=128,
        frames=1,
        clips=16,
        steps=2400,
        rates=(1e-3, 7e-4),
        weights=PLAIN,
        prompts=("box", "click"),
        clutter_steps=1500,
    ),
    ClipStage(name="clips-128", size=128, frames=4, clips=8, steps=2400, rates=(8e-4, 5e-4), weights=PLAIN, warm_up=100),
    ClipStage(name="clips-256", size=256, frames=4, clips=4, steps=1300, rates=(5e-4, 3e-4)),
    ClipStage(name="long-256", size=256, frames=8, clips=2, steps=800, rates=(3e-4, 1e-4), warm_up=20),
    ClipStage(name="alike-256", size=256, frames=8, clips=2, steps=2000, rates=(3e-4, 0.0), warm_up=20, alike=0.5, leave=0.5),
    ClipStage(
        name="agree-256", size=256, frames=8, clips=2, steps=900, rates=(2e-4, 0.0), warm_up=20, weights=AGREEING, alike=0.4, leave=0.4
    ),
)
"""About four hours on two cores."""
