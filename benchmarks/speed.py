"""Speed of tracking on the CPU: trt-track in ONNX Runtime beside upstream's `SAM2VideoPredictor` in eager PyTorch, in one process.

    python benchmarks/speed.py
    python benchmarks/speed.py --model sam2.1-hiera-tiny --size 1024 --objects 1,2,4 --frames 24 --repeats 1

Both get the same frames, the same random weights in FP32, the same boxes on frame 0 and all cores; each repetition runs one, then the
other, then the next number of objects, so that noise hits both. Timed is from result to result of the loop over the clip: the frames
are in memory before, as bytes for us and as normalised float32 for upstream, and each side ends with boolean masks of the video's size in
numpy. `whole` also counts the prompts and the first frames, of upstream without the encoding of frame 0, which is part of loading.
`steady` leaves out the first frames of every run, until the memory is full.

Upstream runs in `torch.inference_mode`, without progress bars, and otherwise as it comes. Attention leaves numbers under 1e-38 behind, with
which a CPU computes more slowly; our session has them taken as zero, PyTorch by itself does not. `--flush-denormals` sets it for upstream
too, so that the effects can be told apart. On a CPU upstream cannot fill small holes (that needs its CUDA extension); ours does, so here
upstream gets a labelling from SciPy, whose time is taken off.
Every mask of every frame is compared: where one has an IoU
under 0.999 the speed is not of the same result, and the exit code is 1.
"""

from __future__ import annotations

import gc
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final

import numpy as np
import torch
import typer
from intervals import Intervals, steady_figures
from machine import Report
from material import SEED, box_prompts, clip_path, random_bundle, random_predictor
from rich.console import Console
from rich.table import Table
from upstream import HoleFilling, open_state, propagate, quiet, upstream_images
from work import frame_gmac, gmac_of

from trt_track.engines.backends import CPU
from trt_track.engines.onnxruntime_session import default_threads
from trt_track.errors import ModelError
from trt_track.parity.measures import TRACK_IOU, mask_iou
from trt_track.runtime.held_clip import HeldClip
from trt_track.runtime.prompts import Prompt
from trt_track.runtime.tracker import Tracker, Video

MASK_IOU: Final = TRACK_IOU["fp32"]
SIDES: Final = ("trt_track", "upstream")
Masks = list[np.ndarray]
"""(B, H, W) bool of each frame."""

Model = Annotated[str, typer.Option(help="A model of the catalogue, or pico with --size 256.")]
Size = Annotated[int, typer.Option(help="Side in pixels of the square that the model sees.")]
Objects = Annotated[str, typer.Option(help="Numbers of objects, with commas between; at most 16.")]
Frames = Annotated[int, typer.Option(min=10, help="Frames of the clip.")]
Skip = Annotated[int, typer.Option(min=1, help="Frames at the start of each run that `steady` leaves out.")]
Repeats = Annotated[int, typer.Option(min=1, help="Repetitions; each runs both sides.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of both sides; default: all cores of this process.")]
Bundle = Annotated[Path | None, typer.Option(help="An fp32 bundle of --model with random weights 0; default: export one now.")]
Flush = Annotated[bool, typer.Option("--flush-denormals", help="Have PyTorch take denormal numbers as zero, which it does not by itself.")]
Out = Annotated[Path | None, typer.Option(help="The JSON file; default: benchmarks/results/speed.json.")]


@dataclass
class Bench:
    """Both sides, loaded."""

    tracker: Tracker
    predictor: Any
    clip: HeldClip
    images: torch.Tensor
    runs: dict[tuple[str, int], list[Intervals]] = field(default_factory=lambda: defaultdict(list))
    whole_s: dict[tuple[str, int], list[float]] = field(default_factory=lambda: defaultdict(list))
    agreement: dict[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def video_wh(self) -> tuple[int, int]:
        return self.clip.info.width, self.clip.info.height

    def repeat(self, objects: int) -> None:
        """Run both sides once and compare their masks."""
        prompts = box_prompts(objects, width=self.video_wh[0], height=self.video_wh[1])
        ours, theirs = self._track_ours(prompts), self._track_upstream(prompts)
        ious = [mask_iou(mine, other) for a, b in zip(ours, theirs, strict=True) for mine, other in zip(a, b, strict=True)]
        seen = self.agreement.setdefault(objects, {"masks": 0, "least_iou": 1.0, "under_bound": 0, "empty_or_full": 0})
        seen["masks"] += len(ious)
        seen["least_iou"] = min(seen["least_iou"], *ious)
        seen["under_bound"] += sum(iou < MASK_IOU for iou in ious)
        seen["empty_or_full"] += sum(mask.all() or not mask.any() for masks in theirs for mask in masks)

    def _track_ours(self, prompts: list[Prompt]) -> Masks:
        video, intervals = Video(self.tracker, self.clip), Intervals()
        gc.collect()
        started = time.perf_counter()
        video.add_prompts(prompts)
        masks = [result.masks for result in intervals.watch(video.propagate())]
        self._count("trt_track", len(prompts), intervals, time.perf_counter() - started)
        return masks

    def _track_upstream(self, prompts: list[Prompt]) -> Masks:
        filling = HoleFilling()
        intervals = Intervals(off_the_clock=lambda: filling.seconds)
        with quiet(), filling.installed():
            state = open_state(self.predictor, self.images, self.video_wh)
            gc.collect()
            started = time.perf_counter()
            results = propagate(self.predictor, state, prompts)
            masks = [(logits[:, 0] > 0).cpu().numpy() for _, logits in intervals.watch(results)]
            self._count("upstream", len(prompts), intervals, time.perf_counter() - started - filling.seconds)
        return masks

    def _count(self, side: str, objects: int, intervals: Intervals, whole_s: float) -> None:
        self.runs[side, objects].append(intervals)
        self.whole_s[side, objects].append(whole_s)


def speed(  # noqa: PLR0913, PLR0917 - the command's options
    model: Model = "sam2.1-hiera-tiny",
    size: Size = 1024,
    objects: Objects = "1,2,4",
    frames: Frames = 24,
    skip: Skip = 8,
    repeats: Repeats = 1,
    threads: Threads = None,
    bundle: Bundle = None,
    flush: Flush = False,
    out: Out = None,
) -> None:
    """Measure frames per second on the CPU, beside upstream."""
    if skip >= frames:
        raise typer.BadParameter(f"--skip {skip} leaves none of {frames} frames")
    report = Report("speed", out)
    counts = [int(text) for text in objects.split(",")]
    torch.set_flush_denormal(flush)  # before torch starts its threads, which inherit it
    torch.set_num_threads(threads or default_threads())
    with TemporaryDirectory() as scratch:
        folder = bundle or random_bundle(model, size, Path(scratch))
        clip = HeldClip.read(clip_path(), size=size, frames=frames)
        predictor = random_predictor(model, size)
        gmac = frame_gmac(predictor)
        images = upstream_images((frame.model_rgb_hwc for frame in clip.held), frames, size)
        with Tracker.open(folder, backend=CPU, threads=torch.get_num_threads(), max_objects=max(counts)) as tracker:
            _refuse_other(tracker, model, size)
            bench = Bench(tracker, predictor, clip, images)
            settings = _settings(model, size, frames, skip, bench) | {"flush_denormals": flush}
            for _ in range(repeats):
                for count in counts:
                    bench.repeat(count)
                    report.write(_figures(bench, gmac, skip) | {"settings": settings})
    figures = _figures(bench, gmac, skip)
    _print(figures)
    typer.echo(report.path)
    raise typer.Exit(1 if any(row["masks"]["under_bound"] for row in figures["objects"]) else 0)


def _refuse_other(tracker: Tracker, model: str, size: int) -> None:
    found = tracker.model
    if (found.name, found.image_size) != (model, size):
        raise ModelError(
            f"the bundle holds {found.name} at {found.image_size} px, expected {model} at {size} px: give its own --model, --size"
        )


def _settings(model: str, size: int, frames: int, skip: int, bench: Bench) -> dict[str, Any]:
    clip = {"name": bench.clip.info.name, "width": bench.video_wh[0], "height": bench.video_wh[1], "frames": frames}
    weights = f"random, seed {SEED}"
    return {
        "model": model,
        "size": size,
        "weights": weights,
        "clip": clip,
        "skip": skip,
        "threads": torch.get_num_threads(),
    }


def _figures(bench: Bench, gmac: dict[str, float], skip: int) -> dict[str, Any]:
    counts = sorted(bench.agreement)
    rows = [_row(bench, gmac, objects, skip) for objects in counts]
    return {"gmac": gmac, "objects": rows, "marginal_s_per_object": _marginal(rows)}


def _row(bench: Bench, gmac: dict[str, float], objects: int, skip: int) -> dict[str, Any]:
    row: dict[str, Any] = {"objects": objects, "gmac_per_frame": gmac_of(gmac, objects), "masks": bench.agreement[objects]}
    for side in SIDES:
        whole_s = bench.whole_s[side, objects]
        runs = bench.runs[side, objects]
        steady = steady_figures(runs, skip=skip)
        row[side] = {
            "steady": steady | {"gmac_per_s": row["gmac_per_frame"] * steady["frames_per_s"]},
            "whole": {"seconds": sum(whole_s), "frames_per_s": sum(len(run.wall_s) for run in runs) / sum(whole_s)},
        }
    row["speed_ratio_steady"] = row["upstream"]["steady"]["frame_s_median"] / row["trt_track"]["steady"]["frame_s_median"]
    row["speed_ratio_whole"] = row["trt_track"]["whole"]["frames_per_s"] / row["upstream"]["whole"]["frames_per_s"]
    return row


def _marginal(rows: list[dict[str, Any]]) -> dict[str, float] | None:
    """Return the slope of seconds per frame over objects, by least squares."""
    if len(rows) < 2:
        return None
    objects = [row["objects"] for row in rows]
    slopes = {side: float(np.polyfit(objects, [row[side]["steady"]["frame_s_median"] for row in rows], 1)[0]) for side in SIDES}
    return slopes | {"ratio_ours_to_upstream": slopes["trt_track"] / slopes["upstream"]}


def _print(figures: dict[str, Any]) -> None:
    table = Table("objects", "", "s/frame", "p95", "frames/s", "whole frames/s", "CPU s/frame", "GMAC/s", "ratio", "least IoU", box=None)
    for row in figures["objects"]:
        for side in SIDES:
            steady, ours = row[side]["steady"], side == "trt_track"
            table.add_row(
                str(row["objects"]) if ours else "",
                side,
                f"{steady['frame_s_median']:.3f}",
                f"{steady['frame_s_p95']:.3f}",
                f"{steady['frames_per_s']:.3f}",
                f"{row[side]['whole']['frames_per_s']:.3f}",
                f"{steady['frame_cpu_s']:.3f}",
                f"{steady['gmac_per_s']:.0f}",
                f"{row['speed_ratio_steady']:.2f}" if ours else "",
                f"{row['masks']['least_iou']:.6f}" if ours else "",
            )
    console = Console(width=140, highlight=False, markup=False)
    console.print(table)
    if slopes := figures["marginal_s_per_object"]:
        console.print(
            f"each further object: {slopes['trt_track']:.3f} s a frame, upstream {slopes['upstream']:.3f} s, "
            f"ratio {slopes['ratio_ours_to_upstream']:.2f}"
        )


if __name__ == "__main__":
    typer.run(speed)
