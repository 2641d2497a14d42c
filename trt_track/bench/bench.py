"""The bench itself: run after run in processes of their own, masks compared, figures written after each."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from trt_track.bench.figures import further_object_ms, rows
from trt_track.bench.limit import LimitOrder, measure_limit
from trt_track.bench.mask_file import compare_masks
from trt_track.bench.order import COMPILED, OURS, UPSTREAM, Plan, RunOrder
from trt_track.bench.worker import Send, messages
from trt_track.engines.bundle import Bundle
from trt_track.parity.thresholds import Thresholds

_VARIABLES: Final = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "CUDA_VISIBLE_DEVICES")
"""Of the environment, which change how fast PyTorch is. They are the user's: with threads that wait in a loop, as they do by default,
upstream was nearly twice as fast on a quiet machine and ten times as slow on one that had other work too."""
_COMPARED: Final = ((OURS, UPSTREAM), (OURS, COMPILED), (COMPILED, UPSTREAM))


class Progress(Protocol):
    """Hears how far the bench is."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Take the frames that are done and those in all, and which run is going on."""


@dataclass
class Bench:
    """A plan and what was measured so far."""

    plan: Plan
    video_wh: tuple[int, int]
    bundle: Bundle
    """Of ours."""
    left_out: dict[str, str] = field(default_factory=dict)
    """What is not measured -> why."""
    limit: dict[str, Any] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    agreement: list[dict[str, Any]] = field(default_factory=list)
    finished: bool = False
    _masks: dict[tuple[int, int], dict[str, Path]] = field(default_factory=dict)
    """Files with masks by side, for each repetition and number of objects."""

    @property
    def bound(self) -> float:
        """Least IoU with upstream: the looser of what both sides' precisions allow."""
        limits, ours = Thresholds.read(), self.bundle.manifest.description
        return min(limits.track(ours.precision, ours.dtypes.values()).least_iou, limits.track(self.plan.settings.precision, ()).least_iou)

    @property
    def passed(self) -> bool:
        """Whether every mask of ours is upstream's within the bound, and ours never failed."""
        equal = not any(row["under_bound"] for row in self.agreement if row["side"] == OURS)
        return equal and not any(failure.get("side") == OURS for failure in self.failures)

    def measure(self, scratch: Path, *, on_run: Callable[[], None], on_progress: Progress) -> None:
        """Measure everything.

        Args:
            scratch: folder for masks; they are deleted with it.
            on_run: called after each finished run, when there is more to write.
            on_progress: see `Progress`.
        """
        frames = self.plan.settings.frames
        total = frames * self.plan.count
        on_progress(0, total, "arithmetic limit")
        self._measure_limit(scratch)
        for done, order in enumerate(self.plan.orders(scratch)):
            with closing(self._run(order)) as passed:
                for frame in passed:
                    on_progress(done * frames + frame, total, order.name)
            self._compare(order)
            on_run()
        self.finished = True
        on_progress(total, total)
        on_run()

    def _measure_limit(self, scratch: Path) -> None:
        settings = self.plan.settings
        if settings.upstream is None:
            return
        order = LimitOrder(settings.upstream, settings.device, settings.threads, scratch)
        for kind, content in messages(guarded_limit, order):
            if kind == "failures":
                self.left_out["arithmetic limit"] = content["reason"]
            else:
                self.limit[kind] = content

    def _run(self, order: RunOrder) -> Generator[int, None, None]:
        """Start one run, take what it sends and yield how many frames it has tracked."""
        yield 0
        with closing(messages(guarded_run, order)) as told:
            for kind, content in told:
                if kind == "frame":
                    yield content
                elif kind == "run":
                    self.runs.append(content)
                    self._masks.setdefault((order.repeat, order.objects), {})[order.side] = order.masks
                elif kind == "stages":
                    self.runs[-1]["stages"] = content
                elif kind == "failures":
                    self.failures.append({"side": order.side, "objects": order.objects, "repeat": order.repeat, **content})

    def _compare(self, order: RunOrder) -> None:
        """Compare the masks of the run that just ended with those of the sides that ran before it on the same objects."""
        files = self._masks.get((order.repeat, order.objects), {})
        shape = (order.objects, self.video_wh[1], self.video_wh[0])
        for side, reference in _COMPARED:
            if order.side in {side, reference} and {side, reference} <= files.keys():
                found = compare_masks(files[side], files[reference], shape, bound=self.bound)
                head = {"side": side, "reference": reference, "objects": order.objects, "repeat": order.repeat}
                self.agreement.append(head | found)

    def figures(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        found = rows(self.runs, self.limit, skip=self.plan.settings.skip)
        return {
            "finished": self.finished,
            "settings": self._settings(),
            "left_out": self.left_out,
            "limit": self.limit,
            "rows": found,
            "further_object_ms": further_object_ms(found),
            "agreement": self.agreement,
            "failures": self.failures,
            "runs": self.runs,
        }

    def _settings(self) -> dict[str, Any]:
        """Return what the user asked for and what it came to, without the folders of this machine."""
        plan, settings, about = self.plan, self.plan.settings, self.bundle.manifest.description
        model = {
            "name": about.model.name,
            "size": self.bundle.model.image_size,
            "weights": about.source,
            "sha256": about.source_sha256,
        }
        clip = {"name": settings.clip.name, "width": self.video_wh[0], "height": self.video_wh[1], "frames": settings.frames}
        return {
            "model": model,
            "clip": clip,
            "sides": plan.sides,
            "objects": plan.objects,
            "repeats": plan.repeats,
            "skip": settings.skip,
            "ours": {"backend": settings.backend, "precision": about.precision},
            "upstream": {"device": settings.device, "precision": settings.precision, "flush_denormals": settings.flush_denormals},
            "threads": settings.threads,
            "environment": {name: os.environ.get(name) for name in _VARIABLES},
        }


def guarded_run(order: RunOrder, send: Send) -> None:
    """Run one side; what ends it is sent as a failure: a side that runs out of memory ends no bench."""
    if order.side == OURS:
        from trt_track.bench.our_side import track_ours as track
    else:
        from trt_track.bench.upstream_side import track_upstream as track
    _guard(lambda: track(order, send), send)


def guarded_limit(order: LimitOrder, send: Send) -> None:
    """Measure the limit; what ends that is sent as a failure."""
    _guard(lambda: measure_limit(order, send), send)


def _guard(work: Callable[[], None], send: Send) -> None:
    try:
        work()
    except Exception as error:  # whatever PyTorch, its compiler or a driver raise
        reason = (str(error).strip().splitlines() or [""])[0]
        send("failures", {"reason": f"{type(error).__name__}: {reason}", "trace": traceback.format_exc()})
