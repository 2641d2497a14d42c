"""Score a text detector's bundle on held-out pictures: how well it finds what a prompt names, and leaves alone what it does not.

python training/evaluate_detector.py trt_track/models/grounding-dino-pico/bundle --out trt_track/models/grounding-dino-pico/scores.json
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import supervision as sv
import typer
from detector_examples import Picture, make_picture, picture_style
from supervision.metrics import MeanAveragePrecision

from trt_track.engines.bundle import Bundle
from trt_track.runtime.detections import Detection
from trt_track.runtime.grounding_dino import TEXT_THRESHOLD, GroundingDino, TextQuery
from trt_track.scenes.named import Name

HELD_OUT_SEED = 8_888
"""First number of the seed of every held-out picture."""
LEAST = 0.01
"""Score of the worst box that counts for the average precision."""


def one_name_each(names: Sequence[Name], phrases: Sequence[str]) -> tuple[str, ...]:
    """Return phrases of which no two are true of one thing: a box has one label."""
    kept: list[str] = []
    for phrase in phrases:
        called = [name for name in names if name.is_called(phrase)]
        if not any(name.is_called(other) for name in called for other in kept):
            kept.append(phrase)
    return tuple(kept)


def held_out_pictures(count: int) -> list[Picture]:
    """Draw pictures over photographs that were not trained on."""
    pictures = [make_picture((HELD_OUT_SEED, number), "held_out", picture_style()) for number in range(count)]
    return [replace(picture, phrases=one_name_each(picture.names, picture.phrases)) for picture in pictures]


def find(bundle: Bundle, picture: Picture) -> tuple[Detection, ...]:
    """Return everything that a detector would report at the lowest threshold."""
    detector = GroundingDino.open(bundle, TextQuery(picture.prompt, LEAST, TEXT_THRESHOLD), backend="onnxruntime-cpu")
    try:
        return detector.detect([picture.frame_rgb])[0]
    finally:
        detector.close()


def as_detections(boxes: Sequence[np.ndarray], scores: Sequence[float] | None = None) -> sv.Detections:
    """Bring boxes (4,) into supervision's form, all of one class."""
    if not len(boxes):
        return sv.Detections.empty()
    confidence = None if scores is None else np.array(scores, np.float32)
    return sv.Detections(np.stack(boxes).astype(np.float32), confidence=confidence, class_id=np.zeros(len(boxes), int))


class Scores:
    """Sums over pictures."""

    def __init__(self, threshold: float) -> None:
        """Begin at nothing; `threshold` is the least score of a box that is reported."""
        self.threshold = threshold
        self.precision = MeanAveragePrecision()
        self.named = self.found = self.unnamed = self.reported = self.boxes = 0

    def add(self, picture: Picture, found: Sequence[Detection]) -> None:
        """Count one picture."""
        for phrase in picture.phrases:
            of_phrase = [one for one in found if one.label == phrase]
            wanted = [box for box, name in zip(picture.boxes, picture.names, strict=True) if name.is_called(phrase)]
            self.precision.update(
                as_detections([one.box_xyxy_px for one in of_phrase], [one.score for one in of_phrase]), as_detections(wanted)
            )
        sure = [one for one in found if one.score > self.threshold]
        self.boxes += len(sure)
        for box, name in zip(picture.boxes, picture.names, strict=True):
            phrases = {phrase for phrase in picture.phrases if name.is_called(phrase)}
            there = [one for one in sure if sv.box_iou_batch(one.box_xyxy_px[None], box[None])[0, 0] >= 0.5]
            self.named += bool(phrases)
            self.found += bool(phrases) and any(one.label in phrases for one in there)
            self.unnamed += not phrases
            self.reported += not phrases and bool(there)

    def summary(self) -> dict[str, Any]:
        """Return the scores."""
        return {
            "ap50": round(float(self.precision.compute().map50), 4),
            "named_things": self.named,
            "named_found": round(self.found / max(self.named, 1), 4),
            "unnamed_things": self.unnamed,
            "unnamed_reported": round(self.reported / max(self.unnamed, 1), 4),
            "boxes_reported": self.boxes,
        }


def main(bundle: Path, pictures: int = 200, out: Annotated[Path | None, typer.Option(help="Write the scores there too.")] = None) -> None:
    """Print the scores, and write them where asked."""
    opened = Bundle.open(bundle)
    scores = Scores(opened.detector.box_threshold)
    for picture in held_out_pictures(pictures):
        scores.add(picture, find(opened, picture))
    text = json.dumps({"held_out_pictures": pictures, "box_threshold": scores.threshold} | scores.summary(), indent=1)
    typer.echo(text)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
