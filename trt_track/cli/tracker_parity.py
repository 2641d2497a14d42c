"""`trt-track parity` of a tracker's bundle: graphs and cases beside upstream, and long clips beside upstream and an FP32 bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from trt_track.cli.parity_tables import print_drift, print_graphs, print_tracks

if TYPE_CHECKING:
    from trt_track.cli.parity_clips import ClipOptions
    from trt_track.engines.bundle import Bundle
    from trt_track.parity.cases import Case
    from trt_track.parity.clip_drift import ClipDrift
    from trt_track.parity.drift import Reference
    from trt_track.parity.report import Report
    from trt_track.parity.report_folder import ReportFolder
    from trt_track.runtime.held_clip import HeldClip
    from trt_track.runtime.tracker import Tracker

FP32, UPSTREAM = "fp32", "upstream"
"""Names of the references."""
_PICTURES: Final = 6
"""Worst frames that a report shows of a clip and a reference."""


@dataclass
class TrackerParity:
    """One run: what is compared, and the report that grows with it."""

    bundle: Bundle
    backend: str
    clips: ClipOptions
    report: Report
    folder: ReportFolder | None = None
    reference: Bundle | None = None
    predictor: Any = None
    """Upstream's, or None to leave upstream out."""
    plan: tuple[HeldClip, list[Case]] | None = field(default=None, init=False)

    def compare(self) -> None:
        """Compare everything; the report has each part as soon as it is done."""
        from trt_track.engines.backends import open_chosen
        from trt_track.runtime.tracker import Tracker

        self._write()  # what it says of a run that is cut short: not finished
        with Tracker(open_chosen(self.bundle, self.backend), self.bundle.model) as tracker, self._reference_tracker() as reference:
            if self.predictor is not None:
                self._graphs(tracker)
                self._cases(tracker)
            for clip in self.clips.clips:
                self._drift(clip, tracker, reference)
        self.report.finished = True
        self._write()

    def prepare(self) -> None:
        """Read clips and choose cases, before anything that takes long.

        Raises:
            VideoError: a clip cannot be read.
            PromptError: a prompt makes no sense.
            ModelError: the cases cannot be run.
        """
        self.clips.check()
        if self.predictor is not None:
            self.plan = self.clips.plan(self.bundle.model.image_size)

    def _write(self) -> None:
        if self.folder is not None:
            self.folder.write(self.report)

    @contextmanager
    def _reference_tracker(self) -> Iterator[Tracker | None]:
        from trt_track.engines.backends import choose_backend, open_chosen
        from trt_track.runtime.tracker import Tracker

        if self.reference is None:
            yield None
            return
        with Tracker(open_chosen(self.reference, choose_backend("auto", self.reference)[0]), self.reference.model) as tracker:
            yield tracker

    def _graphs(self, tracker: Tracker) -> None:
        from trt_track.parity.graph_check import check_session

        limits = self.report.thresholds.of_graphs(self.bundle.manifest.description.dtypes)
        self.report.graphs = check_session(tracker.session, self.predictor, limits=limits, on_graph=_told("graph"))
        print_graphs(self.report.graphs)
        self._write()

    def _cases(self, tracker: Tracker) -> None:
        from trt_track.parity.track_check import check_cases

        if self.plan is None:
            return
        limits = self.report.track_limits
        self.report.cases = check_cases(tracker, self.predictor, *self.plan, limits=limits, on_case=_told("case"))
        print_tracks(self.report.cases)
        self._write()

    def _drift(self, clip: Path, tracker: Tracker, other: Tracker | None) -> None:
        """Track one clip with everything, side by side."""
        from trt_track.parity.bundle_reference import BundleReference
        from trt_track.runtime.tracker import Video

        with ExitStack() as stack:
            references: dict[str, Reference] = {}
            if self.predictor is not None:
                references[UPSTREAM] = self._upstream(clip)
            sources = [stack.enter_context(closing(self.clips.open(clip))) for _ in range(2)]
            prompts = self.clips.prompts_for(clip, sources[0])
            if other is not None:
                beside = Video(other, sources[1])
                beside.add_prompts(prompts)
                references = {FP32: stack.enter_context(BundleReference(beside)), **references}
            video = Video(tracker, sources[0])
            video.add_prompts(prompts)
            drifts = self._follow(clip, video, references)
        self.report.drifts.extend(drifts)
        print_drift(drifts, self.report.track_limits)
        self._write()

    def _upstream(self, clip: Path) -> Reference:
        from trt_track.cli.progress import progress_bar
        from trt_track.parity.upstream_drift import UpstreamReference

        typer.echo(f"clip: {self.clips.title(clip)}, upstream", err=True)
        with closing(self.clips.open(clip)) as source, progress_bar("upstream") as advance:
            prompts = self.clips.prompts_for(clip, source)
            return UpstreamReference.of_clip(self.predictor, source, prompts, size=self.bundle.model.image_size, on_progress=advance)

    def _follow(self, clip: Path, video: Any, references: Mapping[str, Reference]) -> list[ClipDrift]:
        """Go through the clip, rows into the folder as they come; return what it came to."""
        from trt_track.cli.clip_run import describe_prompt
        from trt_track.cli.progress import progress_bar
        from trt_track.parity.clip_drift import ClipDrift
        from trt_track.parity.drift import boundary_measure, follow
        from trt_track.parity.worst_frames import WorstFrames

        limits = self.report.track_limits
        title, told = self.clips.title(clip), [describe_prompt(prompt) for prompt in video.prompts]
        typer.echo(f"clip: {title}, beside {' and '.join(references)}", err=True)
        drifts = {name: ClipDrift(title, name, told, []) for name in references}
        worst = {name: WorstFrames(_PICTURES, limits) for name in references}
        with (
            closing(follow(video, references, measure=boundary_measure(), keep_video=self.folder is not None)) as frames,
            progress_bar(title) as advance,
        ):
            for frame in frames:
                for name, drift in drifts.items():
                    drift.rows.extend(frame.rows[name])
                    worst[name].offer(frame, name)
                    if self.folder is not None:
                        self.folder.add_rows(title, name, frame.rows[name])
                advance(frame.result.frame_index + 1, video.info.frame_count)
        for name, drift in drifts.items():
            drift.worst, drift.damage = worst[name].frames, video.damage
            drift.judge(limits)
            if self.folder is not None:
                self.folder.add_pictures(drift)
        return list(drifts.values())


def _told(kind: str) -> Callable[[str], None]:
    return lambda name: typer.echo(f"{kind}: {name}", err=True)
