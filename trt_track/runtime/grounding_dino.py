"""Grounding DINO as a detector: a text prompt once, then frames -> boxes with phrases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from trt_track.detector_specs import DetectorSpec
from trt_track.engines.backends import AUTO, open_session
from trt_track.engines.bundle import Bundle
from trt_track.engines.host_memory import MemoryState
from trt_track.engines.session import Session
from trt_track.errors import PromptError
from trt_track.runtime.batch_size import MOST_FRAMES
from trt_track.runtime.detections import MIN_SIDE_PX, Detection
from trt_track.runtime.frames import ImageU8
from trt_track.runtime.phrases import TOKENIZER, PromptReader

TEXT_THRESHOLD: Final = 0.25
"""Least probability of a token to be among a box's words: the default of upstream's demonstration."""
_OUTPUTS: Final = ("logits", "boxes", "cell")


def scaled_frame(frame_rgb: ImageU8, size_hw: tuple[int, int]) -> ImageU8:
    """Scale a frame (H, W, 3) uint8 to a model's size; Pillow's bilinear filter is what transformers' image processor scales with."""
    height, width = size_hw
    return np.asarray(Image.fromarray(frame_rgb).resize((width, height), Image.Resampling.BILINEAR))


@dataclass(frozen=True, slots=True)
class TextQuery:
    """What to look for."""

    text: str
    box_threshold: float | None = None
    """None for what suits the model."""
    text_threshold: float = TEXT_THRESHOLD

    def __post_init__(self) -> None:
        for name, value in (("box", self.box_threshold), ("text", self.text_threshold)):
            if value is not None and not 0 < value < 1:
                raise PromptError(f"the {name} threshold is {value}: choose a number between 0 and 1")

    def least_score(self, detector: DetectorSpec) -> float:
        """Return the least score of a box: the user's, else the detector's own."""
        return detector.box_threshold if self.box_threshold is None else self.box_threshold


def describe_query(bundle: Bundle, query: TextQuery) -> dict[str, Any]:
    """Return what `GroundingDino.describe` will say, from the manifest and the prompt alone: nothing is loaded.

    Raises:
        BundleError: it is a tracker's bundle, or damaged.
        PromptError: the prompt is empty, too long or has words that the model does not know.
    """
    spec = bundle.detector
    text = PromptReader(bundle.file_path(TOKENIZER), spec).read(query.text).text
    return _description(spec, query, text, _graph_hashes(bundle))


def _graph_hashes(bundle: Bundle) -> dict[str, str]:
    return {name: record.onnx.sha256 for name, record in bundle.manifest.graphs.items()}


def _description(spec: DetectorSpec, query: TextQuery, text: str, sha256: Mapping[str, str]) -> dict[str, Any]:
    thresholds = {"box_threshold": query.least_score(spec), "text_threshold": query.text_threshold}
    return {"detector": spec.name, "text": text, **thresholds, "sha256": dict(sha256)}


class GroundingDino:
    """Fills the `Detector` protocol."""

    min_batch = 1

    def __init__(self, session: Session, reader: PromptReader, query: TextQuery) -> None:
        """Read the prompt and run the text encoder; most users call `open`.

        Args:
            session: runs the graphs; the detector closes it.
            reader: the model's tokenizer.
            query: prompt and thresholds.

        Raises:
            PromptError: the prompt is empty, too long or has words that the model does not know.
        """
        self.session, self.reader, self.query, self.device = session, reader, query, session.device
        self.max_batch = min(MOST_FRAMES, session.max_frames or MOST_FRAMES)
        self.spec = reader.detector
        self.box_threshold = query.least_score(self.spec)
        self.source: dict[str, Any] = {}
        self._batch: dict[str, Any] = {}
        self._room = 0
        """Frames that `_batch` has room for."""
        self.prompt = reader.read(query.text)
        given = {"token": self.prompt.token, "position": self.prompt.position, "attends": self.prompt.attends}
        text = self._empty("text_encoder", "text", 1)
        session.run("text_encoder", {name: self._uploaded(array) for name, array in given.items()}, {"text": text})
        self._fixed = {"text": text, "position": self._uploaded(given["position"]), "attends": self._uploaded(given["attends"])}

    @classmethod
    def open(cls, bundle: Bundle, query: TextQuery, *, backend: str = AUTO, threads: int | None = None) -> Self:
        """Load a bundle.

        Args:
            bundle: of a Grounding DINO.
            query: prompt and thresholds.
            backend: one of `engines.backends.BACKENDS`, or "auto".
            threads: cores for ONNX Runtime, all by default.

        Raises:
            BundleError: it is a tracker's bundle, or damaged.
            BackendError: the backend cannot be used.
            PromptError: see `__init__`.
        """
        reader = PromptReader(bundle.file_path(TOKENIZER), bundle.detector)
        reader.read(query.text)  # before anything that takes long
        session = open_session(bundle, backend, threads)
        try:
            detector = cls(session, reader, query)
        except BaseException:
            session.close()
            raise
        detector.source = _graph_hashes(bundle)
        return detector

    def _empty(self, graph: str, tensor: str, frames: int) -> Any:
        spec = self.session.specs[graph].tensor(tensor)
        return self.session.empty(spec.concrete({"T": len(self.prompt.token), "F": frames}), spec.dtype)

    def _uploaded(self, array: npt.NDArray[Any]) -> Any:
        target = self.session.empty(array.shape, array.dtype.name)
        self.session.upload(target, array)
        return target

    def detect(self, frames_rgb: Sequence[ImageU8]) -> list[tuple[Detection, ...]]:
        """Return what is on each frame, the best first; see `Detector.detect`."""
        logits, boxes, _ = self.run(np.stack([scaled_frame(frame, self.spec.frame_hw) for frame in frames_rgb]))
        return [self._found(one, where, frame.shape[:2]) for one, where, frame in zip(logits, boxes, frames_rgb, strict=True)]

    def run(self, frames_fhwc: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
        """Run frames (F, h, w, 3) of the model's size.

        Returns:
            Logits (F, Q, T) float32, boxes (F, Q, 4) float32 as centre and size, 0 to 1, and the cell (F, Q) int32 each query began at.
        """
        arrays = self._arrays(len(frames_fhwc))
        self.session.upload(arrays["frames"], frames_fhwc)
        outputs = {name: arrays[name] for name in _OUTPUTS}
        self.session.run("detector", {"frames": arrays["frames"], **self._fixed}, outputs)
        logits, boxes, cell = (np.array(self.session.download(outputs[name])) for name in _OUTPUTS)
        return logits, boxes, cell

    def _arrays(self, frames: int) -> dict[str, Any]:
        """Return the arrays of a batch: the first rows of those of the largest batch so far, which is all that memory holds."""
        if frames > self._room:
            self._free_batch()
            try:
                for name in ("frames", *_OUTPUTS):
                    self._batch[name] = self._empty("detector", name, frames)
            except BaseException:
                self._free_batch()
                raise
            self._room = frames
        return {name: array[:frames] for name, array in self._batch.items()}

    def _free_batch(self) -> None:
        batch, self._batch, self._room = self._batch, {}, 0
        self.session.free(self, batch.values())

    def _found(self, logits: npt.NDArray[np.float32], boxes: npt.NDArray[np.float32], video_hw: tuple[int, ...]) -> tuple[Detection, ...]:
        """Keep what is above the threshold: logits (Q, T), boxes (Q, 4); boxes in pixels of the video, cut to it."""
        probability = 0.5 + 0.5 * np.tanh(0.5 * logits)
        best = probability.max(axis=1)
        corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)
        scale = np.array([video_hw[1], video_hw[0]] * 2, np.float32)
        pixels = np.clip(corners * scale, 0, scale)
        real = (pixels[:, 2:] - pixels[:, :2] >= MIN_SIDE_PX).all(axis=1)
        kept = np.flatnonzero((best > self.box_threshold) & real)
        return tuple(self._detection(pixels[i], probability[i]) for i in kept[np.argsort(-best[kept], kind="stable")])

    def _detection(self, box: npt.NDArray[np.float32], probability: npt.NDArray[np.float32]) -> Detection:
        words = self.reader.words(self.prompt, probability > self.query.text_threshold)
        of_phrases = np.where(self.prompt.phrase >= 0, probability, -1.0)
        label = self.prompt.phrases[self.prompt.phrase[int(of_phrases.argmax())]]
        return Detection(box.astype(np.float32), float(probability.max()), label, words)

    def memory(self) -> MemoryState | None:
        """Return the state of the session's memory."""
        return self.session.memory()

    def describe(self) -> dict[str, Any]:
        """Return everything that decides what is found; see `Detector.describe`."""
        return _description(self.spec, self.query, self.prompt.text, self.source)

    def close(self) -> None:
        """Free the model."""
        self._fixed.clear()
        self.session.close()
