"""A long clip tracked by a bundle beside its references, frame by frame: how far the masks drift apart, and where it begins.

An error of low precision is written into the memories and read again by every later frame, so that a few frames prove little.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt

from trt_track.parity.measures import logits_error, mask_iou
from trt_track.runtime.results import FrameResult
from trt_track.runtime.tracker import Video

BoundaryMeasure = Callable[[npt.NDArray[np.bool_], npt.NDArray[np.bool_]], float]
"""Of two masks (H, W), the found one and the reference, the F of their outlines."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one tracker says of one object on one frame."""

    mask_hw: npt.NDArray[np.bool_]
    """At the video's size, as users get it: small holes filled."""
    logits: npt.NDArray[np.float32]
    """(1, S/4, S/4), the decoder's."""
    present: bool
    """Whether it takes the object to be in the frame."""
    chosen: int | None
    """Which of the decoder's four masks it took; None where it does not say."""


Reference = Callable[[int], Mapping[int, Seen]]
"""Frame number -> object id -> what the reference sees there; asked for each frame once, in order."""


@dataclass(frozen=True, slots=True)
class DriftRow:
    """The distance of one object on one frame from a reference."""

    frame: int
    object_id: int
    iou: float
    """Of the masks at the video's size, 1 when both are empty."""
    boundary_f: float | None
    """Of their outlines; None if it is not measured."""
    logits: float | None
    """Largest error of the low-resolution logits as a fraction of the reference's range; None where only one has the object."""
    pixels: int
    """Size of the reference's mask."""
    found_pixels: int
    """Size of the mask that is compared with it."""
    presence_differs: bool
    """Whether only one of both takes the object to be in the frame."""
    choice_differs: bool | None
    """Whether they took different ones of the decoder's masks; None if a reference does not say."""


@dataclass(frozen=True, slots=True)
class FrameDrift:
    """One frame, compared with every reference."""

    result: FrameResult
    seen: Mapping[int, Seen]
    """By object id."""
    references: Mapping[str, Mapping[int, Seen]]
    """By the reference's name, then by object id."""
    rows: Mapping[str, list[DriftRow]]
    """By the reference's name."""


def follow(
    video: Video, references: Mapping[str, Reference], *, measure: BoundaryMeasure | None, keep_video: bool = False
) -> Generator[FrameDrift, None, None]:
    """Track a prompted clip and compare each frame as it comes; nothing of a frame is kept.

    Args:
        video: of the bundle that is judged, with its prompts.
        references: by name.
        measure: of outlines; None to leave it out.
        keep_video: whether results carry the frame itself, for pictures.
    """
    with closing(video.propagate(keep_logits=True, keep_video=keep_video)) as results:
        for result in results:
            ours = seen_in(result)
            theirs = {name: reference(result.frame_index) for name, reference in references.items()}
            rows = {name: compare_frame(result.frame_index, ours, seen, measure) for name, seen in theirs.items()}
            yield FrameDrift(result, ours, theirs, rows)


def compare_frame(frame: int, ours: Mapping[int, Seen], theirs: Mapping[int, Seen], measure: BoundaryMeasure | None) -> list[DriftRow]:
    """Compare what two trackers see of every object; an object that only one of them has is wholly off."""
    rows = []
    for object_id in sorted(ours.keys() | theirs.keys()):
        found, wanted = ours.get(object_id), theirs.get(object_id)
        if found is None or wanted is None:
            pixels, found_pixels = (0 if seen is None else int(seen.mask_hw.sum()) for seen in (wanted, found))
            missing = None if measure is None else 0.0
            rows.append(DriftRow(frame, object_id, 0.0, missing, None, pixels, found_pixels, presence_differs=True, choice_differs=None))
        else:
            rows.append(_compare_object(frame, object_id, (found, wanted), measure))
    return rows


def _compare_object(frame: int, object_id: int, pair: tuple[Seen, Seen], measure: BoundaryMeasure | None) -> DriftRow:
    found, wanted = pair
    known = None not in (found.chosen, wanted.chosen)
    visible = found.present and wanted.present
    return DriftRow(
        frame,
        object_id,
        iou=mask_iou(found.mask_hw, wanted.mask_hw),
        boundary_f=None if measure is None else float(measure(found.mask_hw, wanted.mask_hw)),
        logits=logits_error(found.logits, wanted.logits) if found.present == wanted.present else None,
        pixels=int(wanted.mask_hw.sum()),
        found_pixels=int(found.mask_hw.sum()),
        presence_differs=found.present != wanted.present,
        choice_differs=visible and found.chosen != wanted.chosen if known else None,
    )


def seen_in(result: FrameResult) -> dict[int, Seen]:
    """Return what a result with its logits says, by object id."""
    if result.logits is None:
        raise ValueError("a result without logits: propagate with keep_logits=True")
    chosen = [None] * len(result.object_ids) if result.chosen is None else result.chosen.tolist()
    masks = result.masks.astype(bool)
    return {
        object_id: Seen(masks[row], result.logits[row], bool(result.presence[row] > 0), chosen[row])
        for row, object_id in enumerate(result.object_ids)
    }


def boundary_measure() -> BoundaryMeasure | None:
    """Return the F of outlines, or None where trackeval, of the extra `eval`, is missing."""
    if find_spec("trackeval") is None:
        return None
    from trt_track.evaluation.boundary import boundary_f

    return boundary_f
