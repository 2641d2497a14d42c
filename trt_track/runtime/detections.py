"""What a detector found on a frame, the seam that detectors fill, and `detections.jsonl`, which carries findings to the tracking stage."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

import numpy as np
import numpy.typing as npt

from trt_track.engines.host_memory import MemoryState
from trt_track.errors import OutputError, PromptError
from trt_track.runtime.frames import ImageU8
from trt_track.runtime.output_file import output_errors

MIN_SIDE_PX: Final = 1.0
"""Detectors drop boxes thinner than this: they hold no object, and rounded to hundredths they could be empty."""


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
    """Writes `detections.jsonl`: a line that describes clip and detector, a line a frame as it comes, a last line when all is done."""

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        """Replace the file, if there is one.

        Raises:
            OutputError: the file cannot be written.
        """
        self.path = path
        self._frames = 0
        with output_errors(path):
            self._file = path.open("w", encoding="utf-8", buffering=1)
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

    def finish(self) -> None:
        """Say that nothing is missing, and close the file."""
        self._line({"finished": True, "frames": self._frames})
        self.close()

    def close(self) -> None:
        """Close the file; one without its last line is no finished stage."""
        self._file.close()

    def _line(self, content: Mapping[str, Any]) -> None:
        with output_errors(self.path):
            self._file.write(json.dumps(content, separators=(",", ":")) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with suppress(OSError):
            self.close()


@dataclass(frozen=True, slots=True)
class DetectionFile:
    """A finished `detections.jsonl`."""

    header: Mapping[str, Any]
    frames: tuple[FrameDetections, ...]
    """In the order of the clip."""


def read_detections(path: Path) -> DetectionFile:
    """Read a finished first stage.

    Raises:
        PromptError: no such file, a line that is not what `DetectionWriter` writes, or the stage did not end.
    """
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        raise PromptError(f"{path}: no such file: trt-track detect writes it") from None
    except (OSError, ValueError) as error:
        raise PromptError(f"{path} cannot be read ({error}): run trt-track detect again") from error
    if not lines or not all(isinstance(line, dict) for line in lines) or "header" not in lines[0]:
        raise PromptError(f"{path} holds no detections: run trt-track detect again")
    if not lines[-1].get("finished"):
        raise PromptError(f"{path} is not complete, detection was interrupted: run trt-track detect again")
    try:
        return DetectionFile(lines[0]["header"], tuple(_read_frames(lines[1:-1])))
    except (KeyError, TypeError, ValueError) as error:
        raise PromptError(f"{path} is malformed ({type(error).__name__}: {error}): run trt-track detect again") from error


def finished_detections(path: Path, header: Mapping[str, Any]) -> DetectionFile | None:
    """Return a finished stage that was made of the same clip by the same detector, None where there is none."""
    with suppress(PromptError, OutputError):
        read = read_detections(path)
        if read.header == json.loads(json.dumps(dict(header))):
            return read
    return None


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
    return Detection(box, float(data["score"]), str(data["label"]), str(data.get("words", "")))
