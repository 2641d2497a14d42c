"""Which detector a command uses, and what it looks for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import typer

from trt_track.cli.frame_shape import is_squeezed, suiting_frame
from trt_track.errors import BackendError, BundleError, PromptError

if TYPE_CHECKING:
    from trt_track.engines.bundle import Bundle
    from trt_track.runtime.detections import Detector
    from trt_track.runtime.grounding_dino import TextQuery

OFFICIAL_DETECTORS: Final = {"grounding-dino-base": 232_315_264, "grounding-dino-tiny": 172_250_626}
"""The official detectors, the best first, and their numbers of weights: here, as listing them must not need PyTorch."""
_LITTLE_WORLD: Final = "knows drawn shapes alone, such as red circle and striped star"
_ADVICE: Final = "pip install 'trt-track[export]' && trt-track export-detector grounding-dino-tiny"


class ChosenDetector(Protocol):
    """A detector that is not loaded yet."""

    def advice(self, video_wh: tuple[int, int]) -> list[str]:
        """Return why it may find less in a clip of this size than it could, a line for each reason."""

    def describe(self) -> dict[str, Any] | None:
        """Return what `Detector.describe` will say; None where that shows only once it is loaded."""

    def open(self, backend: str, threads: int | None) -> Detector:
        """Load it.

        Raises:
            BackendError: the backend is unknown or cannot be used.
            TrtTrackError: it is damaged, or no detector that is known.
        """


@dataclass(frozen=True, slots=True)
class TextDetector:
    """A Grounding DINO and what it looks for; fills `ChosenDetector`."""

    bundle: Bundle
    query: TextQuery

    def advice(self, video_wh: tuple[int, int]) -> list[str]:
        """Tell of frames that lose their shape, and of commas."""
        name, frame_hw = self.bundle.detector.name, self.bundle.detector.frame_hw
        lines = []
        if is_squeezed(video_wh, frame_hw):
            suits = "x".join(map(str, suiting_frame(video_wh, frame_hw)))
            lines.append(
                f"frames of {video_wh[0]}x{video_wh[1]} pixels lose their shape in the {frame_hw[1]}x{frame_hw[0]} that {name} looks at: "
                f"trt-track export-detector {name} --frame {suits} makes one for them"
            )
        if "," in self.query.text:
            lines.append(f'a comma does not part things, and "{self.query.text}" has one: a full stop does, as in "person. dog."')
        return lines

    def describe(self) -> dict[str, Any]:
        """Return what decides what is found; see `describe_query`."""
        from trt_track.runtime.grounding_dino import describe_query

        return describe_query(self.bundle, self.query)

    def open(self, backend: str, threads: int | None) -> Detector:
        """Load it; see `GroundingDino.open`."""
        from trt_track.runtime.grounding_dino import GroundingDino

        return GroundingDino.open(self.bundle, self.query, backend=backend, threads=threads)


@dataclass(frozen=True, slots=True)
class YoloFolder:
    """A folder with a YOLO and the classes to find; fills `ChosenDetector`."""

    folder: Path
    classes: tuple[str, ...]
    threshold: float | None

    def advice(self, video_wh: tuple[int, int]) -> list[str]:
        """Return nothing: frames keep their shape."""
        return []

    def describe(self) -> None:
        """Return None: its classes and its form are in its ONNX file."""

    def open(self, backend: str, threads: int | None) -> Detector:
        """Load it on the CPU; see `open_yolo_detector`.

        Raises:
            BackendError: another backend was asked for.
        """
        from trt_track.engines.backends import AUTO, BACKENDS, CPU
        from trt_track.runtime.yolo_detector import open_yolo_detector

        if backend not in {AUTO, *BACKENDS}:
            raise BackendError(f"backend {backend!r} is unknown: choose one of {', '.join((AUTO, *BACKENDS))}")
        if backend not in {AUTO, CPU}:
            raise BackendError(
                f"backend {backend} cannot be used for {self.folder}: a YOLO runs on {CPU}; leave --backend out, or let trt-track detect "
                f"make a file and trt-track run --detections FILE --backend {backend} track it"
            )
        return open_yolo_detector(self.folder, classes=self.classes, threshold=self.threshold, threads=threads)


@dataclass(frozen=True, slots=True)
class DetectorOptions:
    """What the user said of the detector."""

    text: str | None = None
    """What a Grounding DINO looks for."""
    detector: str | None = None
    """A folder, or a name in the library."""
    classes: str | None = None
    """Which classes of another detector, with commas between."""
    box_threshold: float | None = None
    text_threshold: float | None = None

    @property
    def asked(self) -> bool:
        """Whether there is anything to detect."""
        return self.text is not None or self.detector is not None

    def given(self) -> dict[str, str | float]:
        """Return what was said, by the names of the options."""
        pairs = {
            "--text": self.text,
            "--detector": self.detector,
            "--classes": self.classes,
            "--box-threshold": self.box_threshold,
            "--text-threshold": self.text_threshold,
        }
        return {name: value for name, value in pairs.items() if value is not None}

    def choose(self, video_wh: tuple[int, int]) -> ChosenDetector:
        """Return the detector that was named, or the best one that is there; say which in one line on stderr where it is the embedded one.

        Args:
            video_wh: width and height of the clip, which its frames should not be squeezed for.

        Raises:
            PromptError: nothing to look for, or what cannot be looked for with this detector.
            BundleError: there is no such detector.
        """
        from trt_track.engines.manifest import MANIFEST

        if not self.asked:
            raise PromptError('nothing to detect: say what with --text "person. dog.", or name a detector with --detector FOLDER')
        folder = self._folder(video_wh)
        return self._text_detector(folder) if (folder / MANIFEST).is_file() else self._yolo(folder)

    def _text_detector(self, folder: Path) -> TextDetector:
        from trt_track.engines.bundle import Bundle
        from trt_track.runtime.grounding_dino import TEXT_THRESHOLD, TextQuery

        bundle = Bundle.open(folder)
        name = bundle.detector.name
        if self.text is None or self.classes is not None:
            raise PromptError(f'{name} looks for what a text names: give --text "person. dog.", not --classes')
        words = TEXT_THRESHOLD if self.text_threshold is None else self.text_threshold
        return TextDetector(bundle, TextQuery(self.text, self.box_threshold, words))

    def _yolo(self, folder: Path) -> YoloFolder:
        if self.text is not None or self.text_threshold is not None:
            raise PromptError(f"{folder} is no detector for text prompts: choose classes of it with --classes person,dog")
        names = (name.strip() for name in (self.classes or "").split(","))
        return YoloFolder(folder, tuple(name for name in names if name), self.box_threshold)

    def _folder(self, video_wh: tuple[int, int]) -> Path:
        """Return the detector's folder; of one model that of a frame size that suits the clip first."""
        from trt_track.engines.library import library_detectors, library_folder
        from trt_track.models import GROUNDING_DINO_PICO, GROUNDING_DINO_PICO_BUNDLE

        if self.detector is not None and Path(self.detector).is_dir():
            return Path(self.detector)
        known = sorted(library_detectors(), key=lambda one: is_squeezed(video_wh, one.frame_hw))
        for name in OFFICIAL_DETECTORS if self.detector is None else (self.detector,):
            if found := next((one.folder for one in known if one.model == name), None):
                return found
        if self.detector in {None, GROUNDING_DINO_PICO.name}:
            if self.detector is None:
                typer.echo(f"detector: {GROUNDING_DINO_PICO.name} ({_LITTLE_WORLD}); for a real one: {_ADVICE}", err=True)
            return GROUNDING_DINO_PICO_BUNDLE
        raise BundleError(f"{self.detector} is neither a folder nor in {library_folder()}: {_ADVICE}")
