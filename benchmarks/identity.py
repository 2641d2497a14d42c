"""Identity in drawn scenes where things enter late, leave and come back, with the two small models that the package carries.

    python benchmarks/identity.py
    python benchmarks/identity.py --clips 16 --detect-every 5

`grounding-dino-pico` looks for the things by their names on every tenth frame, `pico` tracks what it found; nothing knows the truth but the
score. The scenes are seeded, over textures that neither model was trained on; half of them are played backwards, so that what left for
good enters late. IDF1, IDP and IDR are trackeval's, over all clips together; one mask is another's from an IoU of 0.5 on. `found` is the
share of the frames with an object on which any of our masks fits it, whatever its id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from result_file import open_report
from rich.console import Console
from rich.table import Table
from trackeval.metrics import Identity

from trt_track.engines.bundle import Bundle
from trt_track.models import GROUNDING_DINO_PICO_BUNDLE, PICO_BUNDLE
from trt_track.runtime.detected_tracks import DetectedTracks, TrackedFrame
from trt_track.runtime.detections import FrameDetections
from trt_track.runtime.grounding_dino import GroundingDino, TextQuery
from trt_track.runtime.held_clip import HeldClip
from trt_track.runtime.tracker import Tracker, Video
from trt_track.scenes import Material, SceneStyle, random_texture
from trt_track.scenes.named import named_scene

SEED = 4_100
SAME = 0.5
"""IoU from which on two masks are one object's."""

Clips = Annotated[int, typer.Option(min=1, help="Scenes.")]
Frames = Annotated[int, typer.Option(min=2, help="Frames of each.")]
Every = Annotated[int, typer.Option("--detect-every", min=1, help="From one frame that is looked at to the next.")]
Out = Annotated[Path | None, typer.Option(help="The JSON file; default: benchmarks/results/identity.json.")]


@dataclass(frozen=True, slots=True)
class Clip:
    """A drawn clip and its truth."""

    pictures: Sequence[NDArray[np.uint8]]
    masks: Sequence[NDArray[np.bool_]]
    """(n, H, W) of each frame."""
    text: str

    @property
    def changes(self) -> dict[str, int]:
        """Objects that enter late, that are gone for a while, and that are gone at the end."""
        seen = np.array([masks.any(axis=(1, 2)) for masks in self.masks])
        spans = [np.flatnonzero(column) for column in seen.T if column.any()]
        return {
            "late": sum(int(span[0] > 0) for span in spans),
            "away": sum(int(len(span) < span[-1] - span[0] + 1) for span in spans),
            "gone": sum(int(span[-1] < len(seen) - 1) for span in spans),
        }


def draw(number: int, frames: int) -> Clip:
    """Draw one clip; every second one runs backwards."""
    rng = np.random.default_rng((SEED, number))
    material = Material([random_texture(rng, 400) for _ in range(3)], [random_texture(rng, 128) for _ in range(6)])
    style = SceneStyle(size_wh=(480, 288), frames=frames, objects=(2, 4), clutter=0.5, leave=0.8, scale=(0.15, 0.3))
    scene, names = named_scene((SEED, number), material, style)
    drawn = [scene.frame(index) for index in range(frames)][:: -1 if number % 2 else 1]
    phrases = dict.fromkeys(name.phrase(colour=True, pattern=name.pattern != "plain", shape=True) for name in names)
    text = " ".join(f"{phrase}." for phrase in phrases)
    return Clip([frame.frame_rgb for frame in drawn], [frame.masks for frame in drawn], text)


def track(clip: Clip, every: int) -> list[TrackedFrame]:
    """Detect by name, then track."""
    detector = GroundingDino.open(Bundle.open(GROUNDING_DINO_PICO_BUNDLE), TextQuery(clip.text))
    found = [FrameDetections(index, detector.detect([clip.pictures[index]])[0]) for index in range(0, len(clip.pictures), every)]
    detector.close()
    with Tracker.open(PICO_BUNDLE) as tracker:
        held = HeldClip.of_pictures(clip.pictures, size=tracker.model.image_size)
        return list(DetectedTracks(Video(tracker, held), found).propagate())


def likeness(true: NDArray[np.bool_], ours: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the IoU of every pair of masks (n, H, W) and (m, H, W), as (n, m)."""
    flat, other = (masks.reshape(len(masks), int(np.prod(masks.shape[1:]))).astype(np.float64) for masks in (true, ours))
    shared = flat @ other.T
    return shared / np.maximum(flat.sum(1)[:, None] + other.sum(1)[None] - shared, 1)


def score(clip: Clip, tracked: Sequence[TrackedFrame]) -> tuple[dict[str, float], int, int]:
    """Return trackeval's scores of one clip, the objects' frames and those that some mask of ours fits."""
    numbers: dict[int, int] = {}
    truth, ours, alike = [], [], []
    for masks, one in zip(clip.masks, tracked, strict=True):
        there = np.flatnonzero(masks.any(axis=(1, 2)))
        drawn = [position for position, mask in enumerate(one.result.masks) if mask.any()]
        truth.append(there)
        ours.append(np.array([numbers.setdefault(one.result.object_ids[position], len(numbers)) for position in drawn], int))
        alike.append(likeness(masks[there], one.result.masks[drawn]))
    data = {
        "num_gt_dets": sum(map(len, truth)),
        "num_tracker_dets": sum(map(len, ours)),
        "num_gt_ids": len(clip.masks[0]),
        "num_tracker_ids": len(numbers),
        "gt_ids": truth,
        "tracker_ids": ours,
        "similarity_scores": alike,
    }
    found = sum(int((pairs >= SAME).any(axis=1).sum()) for pairs in alike if pairs.size)
    return Identity({"PRINT_CONFIG": False}).eval_sequence(data), data["num_gt_dets"], found


def main(clips: Clips = 8, frames: Frames = 90, every: Every = 10, out: Out = None) -> None:
    """Score the identities that detection by name and tracking give."""
    report, scores, rows = open_report("identity", out), {}, []
    table = Table("clip", "things", "late, away, gone", "IDF1", "IDP", "IDR", "found", "ids", box=None)
    for number in range(clips):
        clip = draw(number, frames)
        tracked = track(clip, every)
        found, objects, fitting = score(clip, tracked)
        scores[str(number)] = found
        ids = len({object_id for one in tracked for object_id in one.result.object_ids})
        row: dict[str, Any] = {"clip": number, "text": clip.text, "changes": clip.changes, "ids": ids, "found": fitting / objects}
        rows.append(row | {name: float(found[name]) for name in ("IDF1", "IDP", "IDR")})
        pooled = Identity({"PRINT_CONFIG": False}).combine_sequences(scores)
        together = {name: float(pooled[name]) for name in ("IDF1", "IDP", "IDR")}
        report.write({"settings": {"clips": clips, "frames": frames, "detect_every": every}, "all": together, "clips": rows})
        shares = (f"{rows[-1][name]:.3f}" for name in ("IDF1", "IDP", "IDR", "found"))
        table.add_row(str(number), clip.text, " ".join(map(str, clip.changes.values())), *shares, str(ids))
    table.add_row("all", "", "", *(f"{together[name]:.3f}" for name in ("IDF1", "IDP", "IDR")), "", "")
    Console(width=140, highlight=False, markup=False).print(table)
    typer.echo(report.path)


if __name__ == "__main__":
    typer.run(main)
