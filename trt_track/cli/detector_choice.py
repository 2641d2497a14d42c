"""Which detector a command uses, and what it looks for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from trt_track.errors import BundleError, PromptError

if TYPE_CHECKING:
    from trt_track.runtime.detections import Detector

OFFICIAL_DETECTORS: Final = {"grounding-dino-base": 232_315_264, "grounding-dino-tiny": 172_250_626}
"""The official detectors, the best first, and their numbers of weights: here, as listing them must not need PyTorch."""
_LITTLE_WORLD: Final = "knows drawn shapes alone, such as red circle and striped star"
_ADVICE: Final = "pip install 'trt-track[export]' && trt-track export-detector grounding-dino-tiny"


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

    def arguments(self) -> list[str]:
        """Return the options as `trt-track detect` takes them."""
        pairs = {
            "--text": self.text,
            "--detector": self.detector,
            "--classes": self.classes,
            "--box-threshold": self.box_threshold,
            "--text-threshold": self.text_threshold,
        }
        return [part for name, value in pairs.items() if value is not None for part in (name, str(value))]

    def open(self, backend: str, threads: int | None) -> Detector:
        """Load the detector.

        Raises:
            PromptError: nothing to look for, or what cannot be looked for with this detector.
            BundleError: there is no such detector.
        """
        from trt_track.engines.manifest import MANIFEST

        if not self.asked:
            raise PromptError('nothing to detect: say what with --text "person. dog.", or name a detector with --detector FOLDER')
        folder = self._folder()
        if not (folder / MANIFEST).is_file():
            return self._open_yolo(folder, threads)
        from trt_track.engines.bundle import Bundle
        from trt_track.runtime.grounding_dino import TEXT_THRESHOLD, GroundingDino, TextQuery

        bundle = Bundle.open(folder)
        name = bundle.detector.name
        if self.text is None or self.classes is not None:
            raise PromptError(f'{name} looks for what a text names: give --text "person. dog.", not --classes')
        query = TextQuery(self.text, self.box_threshold, self.text_threshold or TEXT_THRESHOLD)
        return GroundingDino.open(bundle, query, backend=backend, threads=threads)

    def _open_yolo(self, folder: Path, threads: int | None) -> Detector:
        from trt_track.runtime.yolo_detector import open_yolo_detector

        if self.text is not None or self.text_threshold is not None:
            raise PromptError(f"{folder} is no detector for text prompts: choose classes of it with --classes person,dog")
        names = [name.strip() for name in (self.classes or "").split(",") if name.strip()]
        return open_yolo_detector(folder, classes=names, threshold=self.box_threshold, threads=threads)

    def _folder(self) -> Path:
        """Return the folder of the detector that was named, or of the best one that is there; say which where none was named.

        Raises:
            BundleError: there is none of that name.
        """
        from trt_track.engines.library import library_detectors, library_folder
        from trt_track.models import GROUNDING_DINO_PICO, GROUNDING_DINO_PICO_BUNDLE

        if self.detector is not None and Path(self.detector).is_dir():
            return Path(self.detector)
        known = library_detectors()
        for name in OFFICIAL_DETECTORS if self.detector is None else (self.detector,):
            if found := next((one.folder for one in known if one.model == name), None):
                return found
        if self.detector in {None, GROUNDING_DINO_PICO.name}:
            if self.detector is None:
                typer.echo(f"detector: {GROUNDING_DINO_PICO.name} ({_LITTLE_WORLD}); for a real one: {_ADVICE}", err=True)
            return GROUNDING_DINO_PICO_BUNDLE
        raise BundleError(f"{self.detector} is neither a folder nor in {library_folder()}: {_ADVICE}")
