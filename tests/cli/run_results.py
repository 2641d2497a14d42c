"""What a run left in its folder, read back with other people's libraries."""

import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask


@dataclass(frozen=True)
class Movie:
    frames: int
    size_wh: tuple[int, int]
    rate: Fraction


def read_lines(folder: Path) -> list[dict]:
    """Every line of tracks.jsonl; each must be complete."""
    text = (folder / "tracks.jsonl").read_text("utf-8")
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def frames_of(folder: Path) -> list[int]:
    return [line["frame"] for line in read_lines(folder)]


def ids_by_frame(folder: Path) -> dict[int, set[int]]:
    return {line["frame"]: {found["id"] for found in line["objects"]} for line in read_lines(folder)}


def id_map(line: dict, height: int, width: int) -> np.ndarray:
    """Ids at each pixel (H, W), decoded from the run lengths; where masks overlap the later object holds."""
    ids = np.zeros((height, width), np.uint8)
    for found in line["objects"]:
        mask = coco_mask.decode(found["segmentation"]).astype(bool)
        rows, columns = np.nonzero(mask)
        assert found["box"] == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        ids[mask] = found["id"]
    return ids


def read_image(folder: Path, frame: int) -> np.ndarray:
    with Image.open(folder / "masks" / f"{frame:05d}.png") as image:
        assert image.mode == "P"
        return np.asarray(image)


def read_movie(path: Path) -> Movie:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = sum(1 for _ in container.decode(stream))
        return Movie(frames, (stream.width, stream.height), stream.average_rate)
