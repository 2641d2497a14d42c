"""What a detector found on a frame, the seam that detectors fill, and `detections.jsonl`, which carries findings to the tracking stage."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

import numpy as np
import numpy.typing as npt

from trt_track.engines.host_memory import MemoryState
from trt_track.errors import OutputError, PromptError
from trt_track.runtime.frames import ImageU8
from trt_track.runtime.memory_peak import MemoryPeak
from trt_track.runtime.output_file import output_errors

MIN_SIDE_PX: Final = 1.0
"""Detectors drop boxes thinner than this: they hold no object, and rounded to hundredths they could be empty."""
_BEGINNING: Final = b'{"header":'
"""Of a file of detections."""


@dataclass(frozen=True, slots=True)
class Detection:
    """One box."""

    box_xyxy_px: npt.NDArray[np.float32]
    """(4,) float32 x0, y0, x1, y1 in pixels of the video, inside of it."""
    score: float
    """0 to 1."""
    label: str
    """The phrase of the prompt that fits best, or the class."""
    words: str = ""
    """The words of the prompt that fit, as upstream names a box: part of a phrase, or parts of several."""


@dataclass(frozen=True, slots=True)
class FrameDetections:
    """What was found on one frame, the best first."""

    frame: int
    found: tuple[Detection, ...]


class Detector(Protocol):
    """Finds boxes on frames. Not thread-safe."""

    min_batch: int
    """Frames of a call that costs no more than one of a single frame: 1, or what the model's file fixes."""
    max_batch: int
    """Frames of one call at most."""
    device: str
    """What it computes on: the GPU's name, or `CPU`."""

    def detect(self, frames_rgb: Sequence[ImageU8]) -> list[tuple[Detection, ...]]:
        """Return what is on each of 1 to `max_batch` frames, the best first.

        Args:
            frames_rgb: (H, W, 3) uint8 RGB in displayed pixels, all of one size.

        Raises:
            EngineRunError: the engine failed.
        """

    def memory(self) -> MemoryState | None:
        """Return the state of the memory that frames of a call take, None where it is not known."""

    def describe(self) -> dict[str, Any]:
        """Return everything that decides what is found, as JSON values: model and its hash, prompt, thresholds, size."""

    def close(self) -> None:
        """Free the model."""


class DetectionWriter:
    """Writes `detections.jsonl`: a line that describes clip and detector, a line a frame as it comes, a last line when all is done.

    Until then they are in a file with `.part` behind its name, so that what is interrupted neither looks finished nor replaces what is.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        """Begin the file.

        Raises:
            OutputError: it cannot be written, or something else than detections is in its place.
        """
        check_replaceable(path)
        self.path, self._part = path, part_of(path)
        self._frames = 0
        with output_errors(path):
            self._file = self._part.open("w", encoding="utf-8", buffering=1)
        self._line({"header": dict(header)})

    def write(self, detections: FrameDetections) -> None:
        """Write one frame.

        Raises:
            OutputError: the file cannot be written.
        """
        found = [
            {
                "box": [round(float(value), 2) for value in one.box_xyxy_px],
                "score": round(one.score, 4),
                "label": one.label,
                "words": one.words,
            }
            for one in detections.found
        ]
        self._line({"frame": detections.frame, "detections": found})
        self._frames += 1

    def finish(self, peak: MemoryPeak | None = None) -> None:
        """Say that nothing is missing, and what memory it took; then the file gets its name, in place of one that had it.

        Raises:
            OutputError: the file cannot be written.
        """
        self._line({"finished": True, "frames": self._frames, "peak_memory_bytes": (peak or MemoryPeak()).to_json()})
        with output_errors(self.path):
            self._file.close()
            os.replace(self._part, self.path)

    def close(self) -> None:
        """Close the file; of a stage that was left early what it found stays in the part, if it looked at anything."""
        self._file.close()
        if not self._frames:
            self._part.unlink(missing_ok=True)

    def _line(self, content: Mapping[str, Any]) -> None:
        with output_errors(self.path):
            self._file.write(json.dumps(content, separators=(",", ":")) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with suppress(OSError):
            self.close()


def part_of(path: Path) -> Path:
    """Return where detections are until they are finished."""
    return path.parent / f"{path.name}.part"


def check_replaceable(path: Path) -> None:
    """Refuse a place where there is something else than detections.

    Raises:
        OutputError: there is, or it cannot be read.
    """
    for place in (path, part_of(path)):
        with output_errors(place):
            if place.exists() and not (place.is_file() and _beginning(place) in {b"", _BEGINNING}):
                raise OutputError(f"{place}: is there already and holds no detections: choose another --out")


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(_BEGINNING))


@dataclass(frozen=True, slots=True)
class DetectionFile:
    """A finished `detections.jsonl`."""

    header: Mapping[str, Any]
    """What `stage_header` made; `clip` and `schedule` in it are mappings, if they are there."""
    frames: tuple[FrameDetections, ...]
    """In the order of the clip."""
    peak: MemoryPeak = field(default_factory=MemoryPeak)
    """Memory that the stage took."""


def read_detections(path: Path) -> DetectionFile:
    """Read a finished first stage.

    Raises:
        PromptError: no such file, a line that is not what `DetectionWriter` writes, or the stage did not end.
    """
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        if part_of(path).exists():
            raise PromptError(f"{path} is not complete, detection was interrupted: run trt-track detect again") from None
        raise PromptError(f"{path}: no such file: trt-track detect writes it") from None
    except (OSError, ValueError) as error:
        raise PromptError(f"{path} cannot be read ({error}): run trt-track detect again") from error
    if not lines or not all(isinstance(line, dict) for line in lines) or "header" not in lines[0]:
        raise PromptError(f"{path} holds no detections: run trt-track detect again")
    if len(lines) < 2 or not lines[-1].get("finished"):
        raise PromptError(f"{path} is not complete, detection was interrupted: run trt-track detect again")
    try:
        return _read_stage(*lines)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise PromptError(f"{path} is malformed ({type(error).__name__}: {error}): run trt-track detect again") from error


def finished_detections(path: Path, header: Mapping[str, Any]) -> DetectionFile | None:
    """Return a finished stage that was made of the same clip by the same detector, None where there is none."""
    with suppress(PromptError, OutputError):
        read = read_detections(path)
        if read.header == json.loads(json.dumps(dict(header))):
            return read
    return None


def _read_stage(first: Mapping[str, Any], *lines: Mapping[str, Any]) -> DetectionFile:
    header, last = first["header"], lines[-1]
    if not isinstance(header, dict) or not all(isinstance(header.get(name, {}), dict) for name in ("clip", "schedule")):
        raise ValueError("its header does not describe a clip and which frames of it were looked at")
    every = header.get("schedule", {}).get("every")
    if every is not None and (type(every) is not int or every < 1):
        raise ValueError(f"every {every!r}th frame was looked at")
    frames = tuple(_read_frames(lines[:-1]))
    if last.get("frames") != len(frames):
        raise ValueError(f"its last line tells of {last.get('frames')} frames, {len(frames)} are there")
    return DetectionFile(header, frames, MemoryPeak.from_json(last.get("peak_memory_bytes")))


def _read_frames(lines: Sequence[Mapping[str, Any]]) -> Iterator[FrameDetections]:
    last = -1
    for line in lines:
        frame = int(line["frame"])
        if frame <= last:
            raise ValueError(f"frame {frame} comes after frame {last}")
        last = frame
        yield FrameDetections(frame, tuple(_read_detection(one) for one in line["detections"]))


def _read_detection(data: Mapping[str, Any]) -> Detection:
    box = np.asarray(data["box"], np.float32)
    if box.shape != (4,) or not np.isfinite(box).all() or not (box[:2] < box[2:]).all():
        raise ValueError(f"{data['box']} is no box")
    if not math.isfinite(score := float(data["score"])):
        raise ValueError(f"{score} is no score")
    return Detection(box, score, str(data["label"]), str(data.get("words", "")))
