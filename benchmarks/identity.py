"""Identity in drawn scenes where things enter late, leave and come back, with the two small models that the package carries.

    python benchmarks/identity.py
    python benchmarks/identity.py --first 8 --clips 16 --scenes photographs
    python benchmarks/identity.py --look-back 0 --detect-every 5

`grounding-dino-pico` looks for the things by their names on every tenth frame, `pico` tracks what it found; nothing knows the truth but the
score. The scenes are seeded; half of them are played backwards, so that what left for good enters late. In `visitors` five random things
follow paths made by hand: one stays, two enter late, one leaves and comes back, one leaves for good. In the two others all is random, and
most things are on their way out or in, over two kinds of ground: `photographs` as the models were trained on, though none of these, and
`textures`, of which they have seen few.

IDF1, IDP and IDR are trackeval's, over all clips together; one mask is another's from an IoU of 0.5 on. Every frame counts on which a
single pixel of an object can be seen; `shown` are the same scores without objects of which less than half is in the picture and not hidden.
`fates` tells where the frames of objects go, in the order of `identity_score.FATES`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from identity_scenes import Clip, Scenes, draw
from identity_score import FATES, NAMES, SHOWN, Tracked, fates, identity_scores, pooled
from result_file import open_report
from rich.console import Console
from rich.table import Table

from trt_track.bench.report import Report
from trt_track.engines.bundle import Bundle
from trt_track.models import GROUNDING_DINO_PICO_BUNDLE, PICO_BUNDLE
from trt_track.runtime.detected_tracks import DetectedTracks
from trt_track.runtime.detections import FrameDetections
from trt_track.runtime.grounding_dino import GroundingDino, TextQuery
from trt_track.runtime.held_clip import HeldClip
from trt_track.runtime.identity_rules import IdentityRules
from trt_track.runtime.tracker import Tracker, Video

Clips = Annotated[int, typer.Option(min=1, help="Scenes of each kind.")]
First = Annotated[int, typer.Option(min=0, help="Number of the first one.")]
Frames = Annotated[int | None, typer.Option(min=2, help="Frames of each; default: 180 of visitors, 90 of the others.")]
Every = Annotated[int, typer.Option("--detect-every", min=1, help="From one frame that is looked at to the next.")]
Back = Annotated[int, typer.Option("--look-back", min=0, help="Frames that an object is followed back from where it is found.")]
Threshold = Annotated[float | None, typer.Option("--box-threshold", help="Least score of a box; default: the detector's own.")]
Kinds = Annotated[list[Scenes], typer.Option("--scenes", help="Which kinds; all by default.")]
Out = Annotated[Path | None, typer.Option(help="The JSON file; default: benchmarks/results/identity.json.")]


@dataclass(frozen=True, slots=True)
class Settings:
    """How clips are tracked."""

    every: int
    look_back: int
    threshold: float | None


def track(clip: Clip, settings: Settings) -> Tracked:
    """Detect by name, then track."""
    detector = GroundingDino.open(Bundle.open(GROUNDING_DINO_PICO_BUNDLE), TextQuery(clip.text, settings.threshold))
    looked_at = range(0, len(clip.pictures), settings.every)
    found = [FrameDetections(index, detector.detect([clip.pictures[index]])[0]) for index in looked_at]
    detector.close()
    with Tracker.open(PICO_BUNDLE) as tracker:
        held = HeldClip.of_pictures(clip.pictures, size=tracker.model.image_size)
        tracks = DetectedTracks(Video(tracker, held), found, IdentityRules(look_back=settings.look_back))
        return Tracked([one.result for one in tracks.propagate()], found)


class Tally:
    """The scores of one kind of scenes so far."""

    def __init__(self, kind: Scenes) -> None:
        self.kind = kind
        self.scores: dict[str, list[dict[str, float]]] = {"all": [], "shown": []}
        self.fates: Counter[str] = Counter()
        self.clips: list[dict[str, Any]] = []

    def add(self, number: int, clip: Clip, tracked: Tracked) -> None:
        """Score one clip."""
        self.scores["all"].append(identity_scores(clip.truth, tracked.results))
        self.scores["shown"].append(identity_scores(clip.truth, tracked.results, least=SHOWN))
        became = fates(clip.truth, tracked)
        self.fates += became
        ids = len({object_id for result in tracked.results for object_id in result.object_ids})
        facts = {"clip": number, "text": clip.text, "changes": clip.changes, "ids": ids, "fates": dict(became)}
        self.clips.append(facts | {name: float(self.scores["all"][-1][name]) for name in NAMES})

    def content(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        frames = sum(self.fates[name] for name in FATES)
        shares = {name: round(self.fates[name] / frames, 4) for name in (*FATES, "masks of nothing")}
        return {**{name: pooled(scores) for name, scores in self.scores.items()}, "fates": shares, "clips": self.clips}

    def row(self) -> list[str]:
        """Return the table's cells."""
        content = self.content()
        scores = [f"{content['all'][name]:.3f}" for name in NAMES] + [f"{content['shown']['IDF1']:.3f}"]
        return [self.kind.value, str(len(self.clips)), *scores, " ".join(f"{content['fates'][name]:.3f}" for name in FATES)]


def main(  # noqa: PLR0913, PLR0917 - the command's options
    clips: Clips = 8,
    first: First = 0,
    frames: Frames = None,
    every: Every = 10,
    look_back: Back = 20,
    box_threshold: Threshold = None,
    scenes: Kinds = list(Scenes),  # noqa: B006 - typer copies it
    out: Out = None,
) -> None:
    """Score the identities that detection by name and tracking give."""
    report = open_report("identity", out)
    settings = Settings(every, look_back, box_threshold)
    stated = {
        "clips": clips,
        "first": first,
        "frames": {kind.value: frames or kind.frames for kind in scenes},
        "detect_every": every,
        "look_back": look_back,
        "box_threshold": box_threshold,
    }
    tallies = [Tally(kind) for kind in scenes]
    for tally in tallies:
        for number in range(first, first + clips):
            clip = draw(tally.kind, number, frames or tally.kind.frames)
            tally.add(number, clip, track(clip, settings))
            report.write({"settings": stated, **{one.kind.value: one.content() for one in tallies if one.clips}})
            typer.echo(f"{tally.kind.value} {number}: {clip.text} IDF1 {tally.clips[-1]['IDF1']:.3f}", err=True)
    show(tallies, report)


def show(tallies: Sequence[Tally], report: Report) -> None:
    """Print the table, and where everything is."""
    table = Table("scenes", "clips", *NAMES, "IDF1 shown", "fates", box=None)
    for tally in tallies:
        table.add_row(*tally.row())
    Console(width=140, highlight=False, markup=False).print(table)
    typer.echo(report.path)


if __name__ == "__main__":
    typer.run(main)
