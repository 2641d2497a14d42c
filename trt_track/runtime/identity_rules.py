"""The rules of identity, each with what was measured for it."""

from __future__ import annotations

from dataclasses import dataclass

from trt_track.errors import PromptError


@dataclass(frozen=True, slots=True)
class IdentityRules:
    """When two things are the same, and which tracks are corrected. All but `max_lost` and `look_back` are shares from 0 to 1.

    Raises:
        PromptError: a share is not above 0 and at most 1, `max_lost` is below 1, or `look_back` below 0.
    """

    max_lost: int = 30
    """Frames in a row that a track is computed without being seen; then it is stopped and its memory freed."""
    same_object: float = 0.3
    """A box may be a track's where their `affinity` is at least this, on the scale of an IoU (SORT and its successors take 0.3)."""
    same_box: float = 0.7
    """Of two boxes with at least this IoU the lower scored is dropped, and so is a box with at least this affinity with a mask of another
    label: one thing may be found under two names. It is high, as detectors use it themselves, for people who stand close; what it leaves
    over is found by its mask."""
    covered: float = 0.7
    """A box that is no track's is dropped where tracks with its label that lie in it span at least this share: a box around a group."""
    inside: float = 0.8
    """Share of a mask that must lie in a box, or in other masks, for the whole to count as inside."""
    fit: float = 0.5
    """A new track's first mask must have at least this affinity with its box, or the box did not tell the object from its surroundings."""
    same_mask: float = 0.8
    """Masks with at least this IoU show one object; far above what two objects reach, whose masks hardly overlap."""
    refresh: float = 1.0
    """A confirmed track whose mask has at most this affinity with its box is corrected by the box, which it then remembers as a prompted
    frame: 1 for every one, 0 for none. In drawn scenes to correct every one raised IDF1 by 0.017 and mean J by 0.006, with exact boxes and
    with boxes 10% off; to correct only those below 0.6 or 0.75 changed little, as there are hardly any."""
    same_look: float = 0.75
    """Colour histograms with at least this similarity may be one object's. In drawn scenes 98% of the pairs of one object reach it, under a
    light that fell by a fifth still more than half, and one in twenty pairs of different objects. A track that covers what looks less like
    its object, and that no box confirms, went astray."""
    look_back: int = 0
    """Frames before the one on which an object is found in which it is looked for too: it may have come since the last frame that was
    looked at, or the detector missed it there. So many results are held back, with their pictures; 0 for none. In drawn scenes with
    detections on every tenth frame 20 raised IDF1 by 0.07, all of it in recall."""

    def __post_init__(self) -> None:
        if self.max_lost < 1:
            raise PromptError(f"a track cannot be stopped after {self.max_lost} unseen frames: give 1 or more")
        if self.look_back < 0:
            raise PromptError(f"nobody can look {self.look_back} frames back: give 0 or more")
        if not 0 <= self.refresh <= 1:
            raise PromptError(f"refresh is {self.refresh}: give a share from 0 to 1")
        for name in ("same_object", "same_box", "covered", "inside", "fit", "same_mask", "same_look"):
            if not 0 < getattr(self, name) <= 1:
                raise PromptError(f"{name} is {getattr(self, name)}: give a share above 0, at most 1")
