"""Detection first, then tracking: the two stages of `trt-track run --text`, each with the memory of the machine to itself."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from trt_track.cli.clip_run import warn
from trt_track.cli.detection_process import run_detection
from trt_track.cli.detector_choice import DetectorOptions
from trt_track.errors import PromptError

if TYPE_CHECKING:
    from trt_track.cli.clip_run import ClipRun, Passage
    from trt_track.runtime.detected_tracks import DetectedTracks
    from trt_track.runtime.detections import DetectionFile
    from trt_track.runtime.frames import VideoInfo
    from trt_track.runtime.results import FrameResult

MOST_LOOK_BACK: Final = 40
"""Frames that are looked back at most where the user says nothing of it: each is held with its picture and masks."""


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

    def _of_detection(self) -> dict[str, Any]:
        """Return what was said of detection, by the names of the options: None for one that was not given, True or False for a flag."""
        return {**self.options.given(), "--detect-every": self.every, "--scene-cuts": self.at_cuts}

    def check(self, prompts: Sequence[object], *, reverse: bool) -> None:
        """Refuse what contradicts each other.

        Raises:
            PromptError: says what.
        """
        if self.asked and (any(prompts) or reverse):
            raise PromptError("detected objects are tracked from frame 0 on: leave out --box, --point, --mask, --prompts, --reverse")
        if self.options.asked and self.detections is not None:
            raise PromptError("give either --detections FILE or what to detect, not both")
        said = [name for name, value in self._of_detection().items() if value is not None and value is not False]
        if self.detections is not None and said:
            raise PromptError(f"--detections names what was found already: leave out {', '.join(said)}, or detect anew without it")
        if not self.asked and (said or self.max_lost is not None or self.look_back is not None):
            raise PromptError('these options are for detected objects: say what to find with --text "person. dog." or --detector FOLDER')

    def found_before(self, clip: VideoInfo) -> DetectionFile | None:
        """Return what the file of a finished first stage says, None where none was named.

        Raises:
            PromptError: it is none, or one of another clip.
        """
        from trt_track.runtime.clip_facts import check_same_clip
        from trt_track.runtime.detections import read_detections

        if self.detections is None:
            return None
        found = read_detections(self.detections)
        check_same_clip(found.header.get("clip", {}), clip, whose=str(self.detections))
        return found

    def first_stage(self, source: Path, run_folder: Path, more: Mapping[str, object]) -> DetectionFile:
        """Detect in a process of its own, whose end frees all that the detector took.

        Args:
            source: the clip.
            run_folder: of the run; the file of the detections goes beside it.
            more: further options of `trt-track detect`: None for one that was not given, True or False for a flag.

        Raises:
            typer.Exit: detection failed, and has said why.
        """
        from trt_track.runtime.detections import read_detections

        folder = run_folder.resolve()  # `.` has no name
        file = folder.parent / f"{folder.name}.detections.jsonl"
        run_detection(source, {**self._of_detection(), **more, "--out": file})
        return read_detections(file)

    def track(self, tracking: ClipRun, found: DetectionFile, how: Passage) -> int:
        """Track what was found; return the exit code."""
        from trt_track.runtime.detected_tracks import DetectedTracks
        from trt_track.runtime.identity_rules import IdentityRules

        look_back = usual_look_back(found) if self.look_back is None else self.look_back
        rules = IdentityRules(**({} if self.max_lost is None else {"max_lost": self.max_lost}), look_back=look_back)
        video, record = tracking.video, tracking.record
        record.settings |= {"max_lost": rules.max_lost, "look_back": rules.look_back}
        record.facts["detection"] = dict(found.header) | {"frames": [frame.frame for frame in found.frames]}
        tracks = DetectedTracks(video, found.frames, rules, on_warning=warn)
        results = _labelled(tracks, found, record.facts, how)
        return tracking.write(results, min(video.info.frame_count, how.max_frames or video.info.frame_count))


def usual_look_back(found: DetectionFile) -> int:
    """Return how far back objects are followed where the user says nothing: twice from one look to the next, as one look may miss them."""
    return min(2 * (found.header.get("schedule", {}).get("every") or 0), MOST_LOOK_BACK)


def told(facts: Mapping[str, Any]) -> str:
    """Say which objects were found."""
    objects = [f"{one['id']} {one['label']}" for one in facts.get("objects", [])]
    return f"objects: {', '.join(objects)}" if objects else "nothing was found"


def _labelled(tracks: DetectedTracks, found: DetectionFile, facts: dict[str, Any], how: Passage) -> Generator[FrameResult, None, None]:
    """Yield the results of detected tracks with their labels; at the end put what became of them into `facts`."""
    from trt_track.runtime.memory_peak import peak_so_far

    with closing(tracks.propagate(max_frames=how.max_frames, keep_video=how.draw, throughput=how.throughput)) as frames:
        for frame in frames:
            yield replace(frame.result, labels=tuple(frame.labels[object_id] for object_id in frame.result.object_ids))
    facts["objects"] = [{"id": known.object_id, "label": known.label, "tracks": known.tracks} for known in tracks.objects]
    session = tracks.video.tracker.session
    peaks = {"detection": found.peak, "tracking": peak_so_far(session.device, session.memory())}
    facts["peak_memory_bytes"] = {stage: peak.to_json() for stage, peak in peaks.items()}
