"""The first of two stages: which frames are looked at, and what a detector finds on them, into `detections.jsonl`.

The detector's memory and the tracker's are never needed at once: close the detector, then track.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np

from trt_track.errors import DeviceMemoryError, PromptError
from trt_track.runtime.appearance import Histogram, colour_histogram, similarity
from trt_track.runtime.batch_size import BatchSize
from trt_track.runtime.clip_facts import clip_facts
from trt_track.runtime.detections import (
    Detection,
    DetectionFile,
    DetectionWriter,
    Detector,
    FrameDetections,
    finished_detections,
    read_detections,
)
from trt_track.runtime.frames import Frame, ImageU8, VideoInfo
from trt_track.runtime.memory_peak import peak_so_far
from trt_track.runtime.tracker import Source

_log = logging.getLogger(__name__)

CUT_SIMILARITY: Final = 0.9
"""Successive frames whose regions are less alike than this on average lie on both sides of a cut. In a film with five cuts in 250 frames
those were at 0.46 to 0.83, the fastest movement at 0.94; in four clips without a cut no two frames were below 0.99."""
FORMAT: Final = 1
"""Raised when the frames chosen, or what is written of them, change: older files are then made anew."""

_CUT_PX: Final = 64
"""Side of the pictures whose colours are compared."""
_CUT_REGIONS: Final = 4
"""Regions of a picture to a side. As a whole, two shots of one street differ less than a car that passes by changes a picture."""
_UNUSED_PX: Final = 32
"""Side of the model's picture of each frame, which detection does not look at."""


def detection_frames(frame_count: int, every: int | None = None, scene_cuts: Iterable[int] = ()) -> tuple[int, ...]:
    """Return the frames to look at, in order: the first, every `every`-th, and those on which a new scene begins.

    Args:
        frame_count: of the clip.
        every: None for the first one only.
        scene_cuts: from 0; what lies after the clip's end is left out.

    Raises:
        PromptError: `every` is below 1.
    """
    if every is not None and every < 1:
        raise PromptError(f"detection on every {every}th frame is not possible: give 1 or more")
    regular = range(0, frame_count, every or max(frame_count, 1))
    return tuple(sorted({*regular, *(frame for frame in scene_cuts if 0 <= frame < frame_count)}))


def scene_cuts(pictures_rgb: Iterable[ImageU8]) -> Iterator[int]:
    """Yield the positions of pictures that begin a new scene: those whose colours are not the picture's before.

    It is the comparison of colour histograms region by region (Boreczky and Rowe, "Comparison of video shot boundary detection
    techniques", 1996), with the Bhattacharyya coefficient. A flash is found too, a slow fade is not; to look once more costs little.

    Args:
        pictures_rgb: (h, w, 3) uint8 RGB of 4 x 4 pixels or more, all of one size; small ones are enough.
    """
    before = None
    for position, picture in enumerate(pictures_rgb):
        colours = _region_colours(picture)
        if before is not None and np.mean([similarity(*pair) for pair in zip(before, colours, strict=True)]) < CUT_SIMILARITY:
            yield position
        before = colours


def _region_colours(picture_rgb: ImageU8) -> list[Histogram]:
    bands = np.array_split(picture_rgb, _CUT_REGIONS, axis=0)
    return [colour_histogram(region) for band in bands for region in np.array_split(band, _CUT_REGIONS, axis=1)]


def clip_cuts(source: Source, *, stop: int | None = None) -> tuple[int, ...]:
    """Return the frames on which a new scene begins; this decodes the whole clip up to `stop`, and leaves its frames small.

    Raises:
        VideoError: the clip cannot be read.
    """
    with closing(source.frames(size=_CUT_PX, stop=stop)) as frames:
        return tuple(scene_cuts(frame.model_rgb_hwc for frame in frames))


@dataclass(frozen=True, slots=True)
class DetectionSchedule:
    """Which frames of a clip are looked at."""

    every: int | None = None
    """From one frame looked at to the next, in frames; None for the first one only."""
    at_cuts: bool = False
    """Whether also where a new scene begins, for which all frames are read once more."""
    max_frames: int | None = None
    """Only frames before this one."""

    def frames(self, source: Source) -> tuple[int, ...]:
        """Return them in order.

        Raises:
            PromptError: `every` is below 1.
            VideoError: the clip cannot be read.
        """
        count = source.info.frame_count if self.max_frames is None else min(self.max_frames, source.info.frame_count)
        regular = detection_frames(count, self.every)
        return detection_frames(count, self.every, clip_cuts(source, stop=count)) if self.at_cuts and count else regular


def detect_clip(
    source: Source,
    detector: Detector,
    frames: Sequence[int],
    writer: DetectionWriter,
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write what a detector finds on some frames of a clip, and finish the file. Left early by an error, the file stays unfinished.

    The clip is read through once, up to the last of the frames; of a damaged clip what comes before the damage is looked at, and the
    source's `damage` says why.

    Args:
        source: the clip.
        detector: gets few frames first, then as many at once as its memory has room for; it is not closed.
        frames: in any order.
        writer: just opened.
        on_progress: called with the frames done and their number, after each batch.

    Raises:
        VideoError: the clip cannot be read, or does not have one of the frames.
        EngineRunError: the detector failed.
        OutputError: the file cannot be written.
    """
    done = 0
    size = BatchSize(detector.min_batch, detector.max_batch, detector.memory)
    with closing(_pictures(source, frames)) as pictures:
        while batch := list(islice(pictures, size.frames)):
            found = _detect(detector, [picture for _, picture in batch], size)
            for (frame, _), detections in zip(batch, found, strict=True):
                writer.write(FrameDetections(frame, tuple(detections)))
            done += len(batch)
            on_progress(done, len(set(frames)))
    writer.finish(peak_so_far(detector.device, detector.memory()))


def _detect(detector: Detector, pictures: Sequence[ImageU8], size: BatchSize) -> list[tuple[Detection, ...]]:
    """Return what is on each picture, in smaller batches where the GPU's memory turns out to be short.

    Raises:
        DeviceMemoryError: it is too short for the smallest batch.
    """
    found: list[tuple[Detection, ...]] = []
    while len(found) < len(pictures):
        batch = pictures[len(found) : len(found) + size.frames]
        try:
            with size.watch():
                found += detector.detect(batch)
        except DeviceMemoryError as error:
            if not size.step_down(len(batch)):
                raise
            _log.warning("detection in batches of %d frames from here on, memory for %d is short: %s", size.frames, len(batch), error)
    return found


def stage_header(info: VideoInfo, schedule: DetectionSchedule, detector: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that decides what the stage finds, as JSON values; a stage with the same header need not be done again.

    Args:
        info: the clip.
        schedule: which frames are looked at.
        detector: what `Detector.describe` returns.
    """
    return {"format": FORMAT, "clip": clip_facts(info), "schedule": asdict(schedule), "detector": dict(detector)}


def run_detection_stage(
    source: Source,
    detector: Detector,
    schedule: DetectionSchedule,
    path: Path,
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[DetectionFile, bool]:
    """Return what a detector finds on a clip, from the file of a finished stage where there is one; else do the stage and write it.

    Args:
        source: the clip.
        detector: not closed.
        schedule: which frames are looked at.
        path: `detections.jsonl`; one that another clip, schedule or detector made is replaced, a file of another kind never.
        on_progress: called with the frames done and their number.

    Returns:
        The detections, and whether they were there already.

    Raises:
        PromptError: the schedule makes no sense.
        VideoError: the clip cannot be read.
        EngineRunError: the detector failed.
        OutputError: the file cannot be written, or holds no detections.
    """
    header = stage_header(source.info, schedule, detector.describe())
    finished = finished_detections(path, header)
    if finished is not None:
        return finished, True
    frames = schedule.frames(source)
    with DetectionWriter(path, header) as writer:
        detect_clip(source, detector, frames, writer, on_progress=on_progress)
    return read_detections(path), False


def _pictures(source: Source, frames: Sequence[int]) -> Generator[tuple[int, ImageU8], None, None]:
    """Yield number and picture of each of the frames, in order."""
    if not frames:
        return
    wanted = frozenset(frames)
    # Not one reading a frame: each opens the file anew and decodes from the last keyframe, often hundreds of frames back.
    with closing(source.frames(size=_UNUSED_PX, start=min(wanted), stop=max(wanted) + 1, only=wanted, keep_video=True)) as read:
        for frame in read:
            yield frame.index, _picture(frame)


def _picture(frame: Frame) -> ImageU8:
    if frame.video_rgb_hwc is None:
        raise ValueError(f"frame {frame.index} comes without its picture")
    return frame.video_rgb_hwc
