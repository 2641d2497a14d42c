"""Score a bundle through trt-track's own loop: on held-out scenes, and on a real clip with masks in DAVIS form.

python training/evaluate.py --bundle trt_track/models/pico/bundle --davis clips/dogs_jump --out trt_track/models/pico/scores.json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from clips import LEAST_AREA, material
from PIL import Image
from scipy.ndimage import distance_transform_edt

from trt_track import Tracker
from trt_track.parity.measures import mask_iou
from trt_track.runtime.held_clip import HeldClip
from trt_track.runtime.results import mask_boxes
from trt_track.runtime.tracker import Source, Video
from trt_track.runtime.video import open_video
from trt_track.scenes import SceneStyle, random_scene

HELD_OUT_SEED = 7_777
"""First number of the seed of every held-out scene."""
Masks = dict[int, np.ndarray]


def jaccard(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return J per frame of (T, H, W) masks; 1 where both are empty, as DAVIS counts it."""
    return np.array([mask_iou(*pair) for pair in zip(found, truth, strict=True)])


def prompt_of(mask: np.ndarray, kind: str) -> dict[str, Any]:
    """Return the prompt that a mask (H, W) stands for: itself, its tight box, or a click on its innermost pixel."""
    if kind == "mask":
        return {"mask": mask}
    if kind == "box":
        return {"box": mask_boxes(mask[None])[0]}
    inner = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1].argmax()
    y, x = np.unravel_index(inner, mask.shape)
    return {"points": [(x + 0.5, y + 0.5)]}


def track(tracker: Tracker, source: Source, first: Masks, kind: str) -> Masks:
    """Track objects from their masks (H, W) on the first frame; return (T, H, W) bool of each."""
    video = Video(tracker, source)
    for object_id, mask in first.items():
        video.add(object_id=object_id, **prompt_of(mask, kind))
    results = list(video.propagate())
    return {object_id: np.stack([r.masks[r.object_ids.index(object_id)] for r in results]).astype(bool) for object_id in first}


def score_scenes(tracker: Tracker, clips: int, kind: str) -> dict[str, float]:
    """Return mean J over objects and frames of held-out scenes, and how well absence is called."""
    scores, gone, called_gone, there, called_there = [], 0, 0, 0, 0
    for number in range(clips):
        frames = list(random_scene((HELD_OUT_SEED, number), material("held_out"), SceneStyle()).render())
        truth = np.stack([frame.masks for frame in frames])
        first = {int(i) + 1: truth[0, i] for i in np.flatnonzero(truth[0].mean(axis=(1, 2)) >= LEAST_AREA)}
        if not first:
            continue
        clip = HeldClip.of_pictures([frame.frame_rgb for frame in frames], size=tracker.model.image_size)
        for object_id, found in track(tracker, clip, first, kind).items():
            mask = truth[:, object_id - 1]
            scores.append(jaccard(found, mask).mean())
            absent, empty = ~mask.any(axis=(1, 2)), ~found.any(axis=(1, 2))
            gone, called_gone = gone + absent.sum(), called_gone + (absent & empty).sum()
            there, called_there = there + (~absent).sum(), called_there + (~absent & ~empty).sum()
    return {
        "objects": len(scores),
        "mean_j": round(float(np.mean(scores)), 4),
        "median_j": round(float(np.median(scores)), 4),
        "gone_called_gone": round(float(called_gone / max(gone, 1)), 4),
        "gone_frames": int(gone),
        "there_called_there": round(float(called_there / max(there, 1)), 4),
    }


def score_davis(tracker: Tracker, folder: Path) -> dict[str, float]:
    """Return mean J over objects and frames after the first, from masks, boxes and clicks, and of the first mask copied."""
    palette = np.stack([np.asarray(Image.open(file)) for file in sorted((folder / "masks").glob("*.png"))])
    truth = {int(i): palette == i for i in np.unique(palette) if i not in {0, 255}}
    first = {object_id: masks[0] for object_id, masks in truth.items()}
    scores = {"copied_first_mask": float(np.mean([jaccard(np.repeat(m[:1], len(m), 0), m)[1:].mean() for m in truth.values()]))}
    for kind in ("mask", "box", "click"):
        with open_video(folder / "clip.mp4") as source:
            found = track(tracker, source, first, kind)
        scores[f"from_{kind}"] = float(np.mean([jaccard(found[i], truth[i])[1:].mean() for i in truth]))
    return {name: round(value, 4) for name, value in scores.items()}


def main(
    bundle: Path,
    davis: Annotated[Path | None, typer.Option(help="Folder with clip.mp4 and masks/*.png of a real clip.")] = None,
    clips: int = 100,
    out: Path | None = None,
) -> None:
    """Print the scores, and write them where asked."""
    scores: dict[str, Any] = {}
    with Tracker.open(bundle, backend="onnxruntime-cpu") as tracker:
        scores["held_out_scenes"] = {kind: score_scenes(tracker, clips, kind) for kind in ("box", "click", "mask")} | {"clips": clips}
        if davis is not None:
            scores[davis.name] = score_davis(tracker, davis)
    text = json.dumps(scores, indent=1)
    typer.echo(text)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
