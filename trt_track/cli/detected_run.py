"""Detection first, then tracking: the two stages of `trt-track run --text`, each with the memory of the machine to itself."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from trt_track.cli.clip_run import warn
from trt_track.cli.detector_choice import DetectorOptions
from trt_track.errors import PromptError

if TYPE_CHECKING:
    from trt_track.cli.clip_run import ClipRun, Passage
    from trt_track.runtime.detected_tracks import DetectedTracks
    from trt_track.runtime.detections import DetectionFile
    from trt_track.runtime.results import FrameResult

_KIB: Final = 1024


@dataclass(frozen=True, slots=True)
class DetectedRun:
    """What the user said of what is to be found."""

    options: DetectorOptions
    detections: Path | None = None
    """The file of a finished first stage, in place of one."""
    every: int | None = None
    at_cuts: bool = False
    max_lost: int | None = None
    look_back: int | None = None

    @property
    def asked(self) -> bool:
        """Whether objects come from a detector."""
        return self.options.asked or self.detections is not None

    def check(self, prompts: Sequence[object], *, reverse: bool) -> None:
        """Refuse what contradicts each other.

        Raises:
            PromptError: says what.
        """
        if self.asked and (any(prompts) or reverse):
            raise PromptError("detected objects are tracked from frame 0 on: leave out --box, --point, --mask, --prompts, --reverse")
        if self.options.asked and self.detections is not None:
            raise PromptError("give either --detections FILE or what to detect, not both")
        if not self.asked and (self.every or self.at_cuts or self.max_lost or self.look_back or self.options.arguments()):
            raise PromptError('these options are for detected objects: say what to find with --text "person. dog." or --detector FOLDER')

    def first_stage(self, source: Path, run_folder: Path, more: Mapping[str, object]) -> DetectionFile:
        """Detect in a process of its own, whose end frees all that the detector took, or take the file that was named.

        Args:
            source: the clip.
            run_folder: of the run; the file of the detections goes beside it.
            more: further options of `trt-track detect`: None for one that was not given, True or False for a flag.

        Raises:
            PromptError: the named file is no finished first stage.
            typer.Exit: detection failed, and has said why.
        """
        from trt_track.runtime.detections import read_detections

        if self.detections is not None:
            return read_detections(self.detections)
        file = run_folder.with_name(f"{run_folder.name}.detections.jsonl")
        arguments = [str(source), *self.options.arguments(), "--out", str(file)]
        arguments += [name for name, value in more.items() if value is True]
        arguments += [
            part for name, value in more.items() if value is not None and not isinstance(value, bool) for part in (name, str(value))
        ]
        arguments += ["--detect-every", str(self.every)] if self.every else []
        arguments += ["--scene-cuts"] if self.at_cuts else []
        done = subprocess.run([sys.executable, "-m", "trt_track", "detect", *arguments], stdout=subprocess.DEVNULL, check=False)
        if done.returncode:
            raise typer.Exit(done.returncode if done.returncode > 0 else 128 - done.returncode)
        return read_detections(file)

    def track(self, tracking: ClipRun, found: DetectionFile, how: Passage) -> int:
        """Track what was found; return the exit code."""
        from trt_track.runtime.detected_tracks import DetectedTracks
        from trt_track.runtime.identity_rules import IdentityRules

        given = {"max_lost": self.max_lost, "look_back": self.look_back}
        rules = IdentityRules(**{name: value for name, value in given.items() if value is not None})
        video, facts = tracking.video, tracking.record.facts
        clip = found.header.get("clip", {})
        if (clip.get("width"), clip.get("height")) != (video.info.width, video.info.height):
            raise PromptError(f"the detections are of a clip of {clip.get('width')}x{clip.get('height')} pixels, not of {video.info.name}")
        facts["detection"] = dict(found.header) | {"frames": [frame.frame for frame in found.frames]}
        tracks = DetectedTracks(video, found.frames, rules, on_warning=warn)
        results = _labelled(tracks, facts, how)
        return tracking.write(results, min(video.info.frame_count, how.max_frames or video.info.frame_count))


def told(facts: Mapping[str, Any]) -> str:
    """Say which objects were found."""
    objects = [f"{one['id']} {one['label']}" for one in facts.get("objects", [])]
    return f"objects: {', '.join(objects)}" if objects else "nothing was found"


def _labelled(tracks: DetectedTracks, facts: dict[str, Any], how: Passage) -> Generator[FrameResult, None, None]:
    """Yield the results of detected tracks with their labels; at the end put what became of them into `facts`."""
    with closing(tracks.propagate(max_frames=how.max_frames, keep_video=how.draw, throughput=how.throughput)) as frames:
        for frame in frames:
            yield replace(frame.result, labels=tuple(frame.labels[object_id] for object_id in frame.result.object_ids))
    facts["objects"] = [{"id": known.object_id, "label": known.label, "tracks": known.tracks} for known in tracks.objects]
    facts["peak_memory_bytes"] = {"detection": peak_of(resource.RUSAGE_CHILDREN), "tracking": peak_of(resource.RUSAGE_SELF)}


def peak_of(who: int) -> int:
    """Return the largest resident memory so far, in bytes, of this process or of the largest one that it started."""
    most = resource.getrusage(who).ru_maxrss
    return most if sys.platform == "darwin" else most * _KIB
