"""Any YOLO detector: a folder with `detector.onnx` and, where the exporter did not write it into that file, `detector.json`.

The model takes one tensor of images [N, 3, height, width], RGB from 0 to 1, letterboxed, and gives one tensor; `head_form` says which
kinds are known. It runs once on grey images when it is opened, so what cannot work is told before any frame is read.

Facts about these models come from Ultralytics' sources, whose files are named where they are used; nothing is copied from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from trt_track.engines.file_record import FileRecord
from trt_track.engines.host_memory import MemoryState, host_memory
from trt_track.engines.onnx_model import OnnxModel
from trt_track.errors import EngineRunError, ModelError
from trt_track.runtime.batch_size import MOST_FRAMES
from trt_track.runtime.detections import MIN_SIDE_PX, Detection
from trt_track.runtime.detector_card import (
    CARD_FILE,
    MODEL_FILE,
    DetectorCard,
    checked_threshold,
    read_card,
    wanted_classes,
)
from trt_track.runtime.frames import ImageU8
from trt_track.runtime.letterbox import PADDING, Letterbox
from trt_track.runtime.yolo_head import MAX_FOUND, MAX_IOU, HeadForm, drop_overlapping, head_form
from trt_track.specs import GraphSpec, TensorSpec

_REAL: Final = frozenset({"float32", "float16"})

Array = npt.NDArray[np.float32]


class DetectorEngine(Protocol):
    """Computes a detector's one graph; `OnnxModel` does it on the CPU."""

    spec: GraphSpec
    """Inputs and outputs as the file declares them; its name is what messages call it."""

    def run(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Return every output by name, on the host.

        Raises:
            EngineRunError: the engine failed.
        """

    def close(self) -> None:
        """Free what the engine allocated."""


class YoloDetector:
    """Fills the `Detector` protocol with a YOLO model."""

    device = "CPU"

    def __init__(
        self,
        engine: DetectorEngine,
        card: DetectorCard,
        *,
        classes: Sequence[str] = (),
        threshold: float | None = None,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        """Look whether the engine is a detector of these classes, and run it once.

        Args:
            engine: computes the graph; `close` frees it.
            card: its classes, size and threshold.
            classes: names of the classes to find, upper or lower case, all by default.
            threshold: replaces the card's.
            identity: what `describe` says of the model's files.

        Raises:
            ModelError: not a detector of a known form, or not one of these classes.
        """
        self.classes = card.classes
        self.threshold = card.threshold if threshold is None else checked_threshold(threshold, "the detector's threshold")
        self._wanted = wanted_classes(classes, card.classes, engine.spec.name)
        self._engine, self._identity = engine, dict(identity or {})
        self._input, self._output = _image_tensor(engine.spec), _only_output(engine.spec)
        self.size_hw = _input_size(engine.spec.name, self._input, card)
        fixed = self._input.shape[0]
        self._fixed_batch = fixed if isinstance(fixed, int) else None
        self.min_batch, self.max_batch = self._fixed_batch or 1, self._fixed_batch or MOST_FRAMES
        self._images = self._grey(self.min_batch)
        self._form = self._try_out()

    def detect(self, frames_rgb: Sequence[ImageU8]) -> list[tuple[Detection, ...]]:
        """Return what is on each frame, the best first.

        Args:
            frames_rgb: (H, W, 3) uint8 RGB in displayed pixels; more than `max_batch` are cut into several calls.

        Raises:
            EngineRunError: the engine failed, or its numbers make no sense.
        """
        found: list[tuple[Detection, ...]] = []
        for start in range(0, len(frames_rgb), self.max_batch):
            found += self._detect_together(frames_rgb[start : start + self.max_batch])
        return found

    def memory(self) -> MemoryState | None:
        """Return the state of the host's memory."""
        return host_memory()

    def describe(self) -> dict[str, Any]:
        """Return everything that decides what is found, as JSON values."""
        return {
            "kind": "yolo",
            **self._identity,
            "form": self._form.name,
            "classes": list(self.classes),
            "wanted": [self.classes[index] for index in self._wanted],
            "threshold": self.threshold,
            "max_iou": MAX_IOU if self._form.overlaps else None,
            "size": list(self.size_hw),
        }

    def close(self) -> None:
        """Free the model."""
        self._engine.close()

    def _try_out(self) -> HeadForm:
        """Run on grey images and choose the form of what comes."""
        name, (height, width) = self._engine.spec.name, self.size_hw
        try:
            output = self._run(1)
        except EngineRunError as error:
            raise ModelError(f"{error} (tried at {width}x{height}): state the size that it was exported for, in {CARD_FILE}") from error
        form = head_form(name, output.shape, len(self.classes), self.size_hw)
        # A head without selection has boxes everywhere, so that one of them reaches further than 4 pixels.
        if fault := form.decode(output[0]).fault(len(self.classes), least_px=4):
            raise ModelError(f"{name} {fault}")
        return form

    def _grey(self, count: int) -> npt.NDArray[Any]:
        """Make room for so many images: (count, 3, height, width), all padding."""
        return np.full((count, 3, *self.size_hw), PADDING / 255, self._input.dtype)

    def _run(self, count: int) -> Array:
        """Run on the first `count` images; returns float32, an image first, of a batch that the file fixes all of it."""
        images = self._images[: self._fixed_batch or count]
        output = self._engine.run({self._input.name: images})[self._output]
        if output.shape[:1] != images.shape[:1]:
            raise EngineRunError(f"{self._engine.spec.name} made {list(output.shape)} of {len(images)} images: export it with a batch of 1")
        return output.astype(np.float32, copy=False)

    def _detect_together(self, frames_rgb: Sequence[ImageU8]) -> list[tuple[Detection, ...]]:
        if len(frames_rgb) > len(self._images):
            self._images = self._grey(len(frames_rgb))
        boxes = [Letterbox.of((frame.shape[0], frame.shape[1]), self.size_hw) for frame in frames_rgb]
        for box, frame, image in zip(boxes, frames_rgb, self._images, strict=False):
            box.write(frame, image)
        # In a batch that the file fixes, the places after the last frame hold older images: nobody reads what comes of them.
        return [self._detections(rows, box) for rows, box in zip(self._run(len(frames_rgb)), boxes, strict=False)]

    def _detections(self, rows: Array, letterbox: Letterbox) -> tuple[Detection, ...]:
        """Keep what scores enough, is asked for, and is not the same object again: in this order, as Ultralytics' predictor does."""
        found = self._form.decode(rows)
        found = found.take(~(found.scores <= self.threshold))  # what is no number stays, to be refused
        if fault := found.fault(len(self.classes), least_px=1):
            raise EngineRunError(f"{self._engine.spec.name} {fault}")
        found = found.take(np.isin(found.class_index, self._wanted))
        found = found.take(drop_overlapping(found) if self._form.overlaps else np.argsort(-found.scores, kind="stable")[:MAX_FOUND])
        boxes = letterbox.to_video(found.boxes_xyxy)
        return tuple(
            Detection(box, float(score), self.classes[index])
            for box, score, index in zip(boxes, found.scores, found.class_index, strict=True)
            if (box[2:] - box[:2] >= MIN_SIDE_PX).all()
        )


def open_yolo_detector(
    folder: Path, *, classes: Sequence[str] = (), threshold: float | None = None, threads: int | None = None
) -> YoloDetector:
    """Open the detector in a folder on the CPU.

    Args:
        folder: holds `detector.onnx` and, where the ONNX file does not name its classes, `detector.json`.
        classes: names of the classes to find, all by default.
        threshold: boxes must score more; `detector.json`'s by default, or 0.25.
        threads: cores to use, all that the process may use by default.

    Raises:
        ModelError: no such folder or file, no detector of a known form, or not one of these classes.
        BundleError: `detector.json` cannot be read.
    """
    identity = _identify(folder)
    model = OnnxModel(folder / MODEL_FILE, threads=threads)
    try:
        return YoloDetector(model, read_card(folder, model.metadata), classes=classes, threshold=threshold, identity=identity)
    except BaseException:
        model.close()
        raise


def _identify(folder: Path) -> dict[str, Any]:
    """Return the hashes of the model and of weights outside it."""
    path = folder / MODEL_FILE
    if not folder.is_dir():
        raise ModelError(f"{folder} is no folder: a detector is a folder that holds {MODEL_FILE}")
    if not path.is_file():
        raise ModelError(f"{folder} holds no {MODEL_FILE}: put the exported detector there under this name")
    try:
        weights = [FileRecord.of(folder, item).to_json() for item in sorted(folder.glob(f"{MODEL_FILE}.*")) if item.is_file()]
        return {"sha256": FileRecord.of(folder, path).sha256, "weights": weights}
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error})") from error


def _image_tensor(spec: GraphSpec) -> TensorSpec:
    """Return the one input, (N, 3, height, width)."""
    if len(spec.inputs) != 1:
        listed = ", ".join(f"{one.name} {one}" for one in spec.inputs) or "none"
        raise ModelError(f"{spec.name} has {len(spec.inputs)} inputs ({listed}): a detector takes images alone")
    image = spec.inputs[0]
    if image.dtype not in _REAL or len(image.shape) != 4 or image.shape[1] != 3:
        raise ModelError(
            f"{spec.name} takes {image.name} {image}; expected float32 or float16 [N, 3, height, width]: export a YOLO detector"
        )
    return image


def _only_output(spec: GraphSpec) -> str:
    """Return the name of the one output."""
    if len(spec.outputs) != 1:
        listed = ", ".join(f"{one.name} {one}" for one in spec.outputs)
        reason = "segmentation models add mask prototypes, raw heads come in several scales, suppression plugins write several tensors"
        raise ModelError(f"{spec.name} has {len(spec.outputs)} outputs ({listed}); {reason}: export a detection model with one output")
    output = spec.outputs[0]
    if output.dtype not in _REAL:
        raise ModelError(f"{spec.name} gives {output.name} {output}; expected float32 or float16: export a YOLO detector")
    return output.name


def _input_size(model: str, image: TensorSpec, card: DetectorCard) -> tuple[int, int]:
    """Return height and width: the graph's where it fixes them, else those of `detector.json`, else the exporter's."""
    fixed, stated = image.shape[2:], card.size_hw or card.exported_hw
    if card.size_hw and any(isinstance(dim, int) and dim != side for dim, side in zip(fixed, card.size_hw, strict=True)):
        raise ModelError(
            f"{CARD_FILE} states the size {list(card.size_hw)}, but {model} takes {image}: correct the one or export the other"
        )
    if stated is None and any(isinstance(dim, str) for dim in fixed):
        raise ModelError(f"{model} takes any size and nothing says which: state the size that it was trained for, in {CARD_FILE}")
    height, width = (dim if isinstance(dim, int) else (stated or (0, 0))[axis] for axis, dim in enumerate(fixed))
    return height, width
