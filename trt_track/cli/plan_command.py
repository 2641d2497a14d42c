"""`trt-track plan`: which model, how many objects and which detector fit into a GPU's memory, and why not more."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from trt_track.errors import BackendError, VideoError

if TYPE_CHECKING:
    from rich.table import Table

    from trt_track.engines.device_memory import Gpu
    from trt_track.runtime.memory_plan import MemoryPlan
    from trt_track.runtime.memory_plan_choice import Choice, DetectorChoice, Wish

_UNITS: Final = {"gib": 1 << 30, "gb": 10**9, "mib": 1 << 20, "mb": 10**6}
_USUAL_SM: Final = 89
"""Compute capability that is assumed where only an amount of memory is named."""

Vram = Annotated[str | None, typer.Option(metavar="SIZE", help="GPU memory that is free, like 8GiB, 8GB or 8192MiB.")]
GpuName = Annotated[str | None, typer.Option("--gpu", metavar="NAME", help='A well-known GPU, like "RTX 4060"; default: the one present.')]
Objects = Annotated[int | None, typer.Option(min=1, max=64, help="Objects at once; default: as many as fit in one batch.")]
Video = Annotated[str, typer.Option(metavar="WxH", help="Pixels of the video.")]
Model = Annotated[str | None, typer.Option(help="Plan for this model alone.")]
Size = Annotated[int | None, typer.Option(help="Plan for this size of the model alone.")]
Detector = Annotated[str | None, typer.Option(help="Plan for this detector alone.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True, slots=True)
class Found:
    """What fits into which memory, and what does not."""

    gpu: Gpu
    wish: Wish
    fitting: list[Choice]
    too_large: list[Choice]
    detectors: list[DetectorChoice]
    large_detectors: list[DetectorChoice]

    def reasons(self) -> list[str]:
        """Say why nothing larger was chosen, a line each."""
        from trt_track.runtime.memory_plan import told_bytes

        free = f"{told_bytes(self.gpu.free_bytes)} are free"
        trackers = [
            f"{one.model} at {one.size} px needs {told_bytes(one.plan.total_bytes)} for {one.batch} object{'s' * (one.batch > 1)}"
            f"{f' of {one.objects} a batch' if one.objects != one.batch else ''}, {free}"
            for one in self.too_large
        ]
        detectors = [f"{one.detector} {one.frame} needs {told_bytes(one.plan.total_bytes)}, {free}" for one in self.large_detectors]
        return trackers + detectors


def plan(  # noqa: PLR0913, PLR0917 - the command's options
    vram: Vram = None,
    gpu: GpuName = None,
    objects: Objects = None,
    video: Video = "1920x1080",
    model: Model = None,
    size: Size = None,
    detector: Detector = None,
    as_json: AsJson = False,
) -> None:
    """Tell what fits into a GPU's memory: the model, the objects of one batch, the detector; and why not more.

    Exit code 1 when nothing fits.
    """
    from trt_track.runtime.memory_plan_choice import Wish, detector_choices, tracking_choices

    wish = Wish(parse_video(video), objects, model, size)
    target = _gpu(vram, gpu)
    memory = {"free_bytes": target.free_bytes, "sm": target.sm}
    found = Found(target, wish, *tracking_choices(wish, **memory), *detector_choices(detector, **memory))
    if as_json:
        _print_json(found)
    else:
        _print(found)
    raise typer.Exit(0 if found.fitting else 1)


def parse_bytes(text: str) -> int:
    """Read an amount of memory: `8GiB`, `8 GB`, `8192MiB`.

    Raises:
        BackendError: it is none, or nothing.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(gib|gb|mib|mb)\s*", text.lower())
    nbytes = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    if nbytes <= 0:
        raise BackendError(f"--vram {text!r} is no amount of memory: write it like 8GiB, 8GB or 8192MiB")
    return nbytes


def parse_video(text: str) -> tuple[int, int]:
    """Read width and height in pixels: `1920x1080`.

    Raises:
        VideoError: it is no size, or larger than engines are built for.
    """
    from trt_track.specs import Limits

    match, most = re.fullmatch(r"\s*(\d+)x(\d+)\s*", text.lower()), max(Limits().video_wh)
    if match is None or not all(1 <= int(side) <= most for side in match.groups()):
        raise VideoError(f"--video {text!r} is no size of a video: write it like 1920x1080, up to {most} pixels a side")
    return int(match[1]), int(match[2])


def _gpu(vram: str | None, name: str | None) -> Gpu:
    """Return the GPU to plan for: its free memory as it was told, else of the table, else of the GPU that is present.

    Raises:
        BackendError: there is no GPU, or what was told makes no sense.
    """
    from trt_track.cli.clip_run import warn
    from trt_track.engines.device_memory import Gpu
    from trt_track.engines.nvml_door import present_gpu
    from trt_track.runtime.known_gpus import known_gpu
    from trt_track.runtime.memory_plan import told_bytes

    known = None if name is None else known_gpu(name)
    if vram is not None:
        free = parse_bytes(vram)
        return Gpu(known.name if known else "a GPU", known.sm if known else _USUAL_SM, free, free)
    if known is not None:
        warn(
            f"the system takes about 5 to 10 % of a GPU's memory: planned with {told_bytes(known.free_bytes)} of the "
            f"{told_bytes(known.total_bytes)} of {known.name}; --vram says what is really free"
        )
        return known
    try:
        return present_gpu()
    except BackendError as error:
        raise BackendError(f'{error}: say how much memory is free, --vram 8GiB, or which GPU it is, --gpu "RTX 4060"') from error


def _print(found: Found) -> None:
    from rich.console import Console

    from trt_track.runtime.memory_plan import told_bytes

    console = Console(width=140, highlight=False, markup=False)
    width, height = found.wish.video_wh
    console.print(f"{found.gpu.name}, {told_bytes(found.gpu.free_bytes)} free; video of {width}x{height}; engines in FP16")
    if found.fitting:
        best = found.fitting[0]
        console.print("\nwhat fits, the best first", _fitting_table(found))
        console.print(f"\n{best.model} at {best.size} px, {best.objects} objects, {best.batch} a batch", _parts_table(best.plan))
    else:
        console.print("\nnothing fits")
    if found.detectors:
        one = found.detectors[0]
        needed, several = told_bytes(one.plan.total_bytes), one.batch > 1
        call = f"{one.batch} frames a call (trt-track build --frames {one.batch})" if several else "1 frame a call"
        console.print(f"\ndetection with {one.detector} {one.frame}, {call}: {needed}, before tracking, which has it all then")
    if reasons := found.reasons():
        console.print("\nwhat does not fit", *(f"  {reason}" for reason in reasons), sep="\n")


def _fitting_table(found: Found) -> Table:
    from rich.table import Table

    from trt_track.runtime.memory_plan import told_bytes

    table = Table("model", "size", "precision", "objects", "a batch", "GPU memory", box=None, pad_edge=False)
    for one in found.fitting:
        table.add_row(one.model, str(one.size), "fp16", str(one.objects), str(one.batch), told_bytes(one.plan.total_bytes))
    return table


def _parts_table(plan: MemoryPlan) -> Table:
    from rich.table import Table

    table = Table("part", "MiB", "", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for part in plan.parts:
        if not part.pinned:
            table.add_row(part.name, f"{part.nbytes / 2**20:.1f}", part.reason)
    table.add_row("all", f"{plan.total_bytes / 2**20:.1f}", f"and up to {plan.pinned_bytes / 2**20:.0f} MiB of the host's memory, pinned")
    return table


def _print_json(found: Found) -> None:
    import json

    content = {
        "gpu": {"name": found.gpu.name, "sm": found.gpu.sm, "free_bytes": found.gpu.free_bytes, "total_bytes": found.gpu.total_bytes},
        "video": list(found.wish.video_wh),
        "choices": [_tracking(one) for one in found.fitting],
        "too_large": [_tracking(one) for one in found.too_large],
        "detectors": [_detection(one) for one in found.detectors],
        "too_large_detectors": [_detection(one) for one in found.large_detectors],
        "reasons": found.reasons(),
    }
    typer.echo(json.dumps(content, indent=2))


def _tracking(one: Choice) -> dict[str, Any]:
    head = {"model": one.model, "size": one.size, "precision": "fp16", "objects": one.objects, "batch": one.batch}
    return {**head, **_sum(one.plan)}


def _detection(one: DetectorChoice) -> dict[str, Any]:
    return {"detector": one.detector, "frame": one.frame, "batch": one.batch, **_sum(one.plan)}


def _sum(plan: MemoryPlan) -> dict[str, Any]:
    parts = [{"name": part.name, "bytes": part.nbytes, "reason": part.reason, "pinned": part.pinned} for part in plan.parts]
    return {"total_bytes": plan.total_bytes, "pinned_bytes": plan.pinned_bytes, "parts": parts}
