"""`trt-track eval`: J and F of a model on annotated sequences, so that a loss of accuracy is a number that people know."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trt_track.cli.model_choice import ModelOptions
from trt_track.errors import ModelError

if TYPE_CHECKING:
    from trt_track.engines.bundle import Bundle
    from trt_track.evaluation.evaluate import SequenceScore
    from trt_track.evaluation.scores import Score
    from trt_track.evaluation.sequences import AnnotatedSequence

Davis = Annotated[
    Path,
    typer.Option(
        "--davis",
        help="A folder with JPEGImages/480p, Annotations/480p and ImageSets, or one with a clip and a folder `masks` of palette images.",
    ),
]
ImageSet = Annotated[str | None, typer.Option("--set", help="Which list of ImageSets, such as 2017/val; default: every sequence.")]
Names = Annotated[list[str] | None, typer.Option("--sequence", help="Only this sequence; repeatable.")]
Prompts = Annotated[list[str] | None, typer.Option("--prompt", help="mask, box, click or all; repeatable. Default: mask.")]
Bundles = Annotated[list[Path] | None, typer.Option("--bundle", help="A bundle's folder; repeatable, for one table of several.")]
Model = Annotated[str | None, typer.Option(help="A model of the library, by name, or pico; default: the best that is there.")]
Size = Annotated[int | None, typer.Option(help="Which size of --model, where the library has several.")]
Precision = Annotated[str | None, typer.Option(help="Which precision of --model, where the library has several.")]
Backend = Annotated[str, typer.Option(help="auto, tensorrt-rtx, tensorrt, onnxruntime-cuda or onnxruntime-cpu.")]
PerObject = Annotated[bool, typer.Option("--per-object", help="Print a row for every object, too.")]
Report = Annotated[Path | None, typer.Option("--json", help="Write every number to this file, after every sequence.")]
Save = Annotated[Path | None, typer.Option(help="Write the masks below this folder, as DAVIS's palette images.")]


def evaluate(  # noqa: PLR0913, PLR0917 - the command's options
    davis: Davis,
    image_set: ImageSet = None,
    sequence: Names = None,
    prompt: Prompts = None,
    bundle: Bundles = None,
    model: Model = None,
    size: Size = None,
    precision: Precision = None,
    backend: Backend = "auto",
    per_object: PerObject = False,
    report: Report = None,
    save: Save = None,
) -> None:
    """Track annotated sequences in DAVIS form from first-frame masks, boxes or clicks and print J, F and J&F of one or several bundles."""
    from trt_track.engines.backends import inspect_machine
    from trt_track.evaluation.sequences import find_sequences

    kinds = _kinds(prompt or ["mask"])
    machine = inspect_machine()
    folders: list[Path | None] = [*bundle] if bundle else [None]
    options = [ModelOptions(bundle=folder, model=model, size=size, precision=precision) for folder in folders]
    opened = [one.open(backend, machine) for one in options]
    sequences = find_sequences(davis, image_set=image_set, names=sequence or ())
    _require_metric()
    runs: list[_Run] = []
    for one in opened:
        runs.append(_Run(one))
        for score in _scores(one, backend, sequences, kinds, save):
            runs[-1].scores.append(score)
            if report is not None:
                _write(report, davis, runs)
    _print(runs, kinds, per_object=per_object)


@dataclass(slots=True)
class _Run:
    """One bundle and what it came to so far."""

    bundle: Bundle
    scores: list[SequenceScore] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.bundle.model.name} {self.bundle.manifest.description.precision}"

    def to_json(self) -> dict[str, Any]:
        about = self.bundle.manifest.description
        head = {"bundle": str(self.bundle.folder), "model": about.model.name, "precision": about.precision}
        return {**head, "sequences": [score.to_json() for score in self.scores]}


def _kinds(wanted: list[str]) -> list[str]:
    from trt_track.evaluation.evaluate import PROMPTS

    kinds = list(dict.fromkeys(kind for one in wanted for kind in (PROMPTS if one == "all" else [one])))
    if unknown := [kind for kind in kinds if kind not in PROMPTS]:
        raise ModelError(f"--prompt {unknown[0]}: choose from {', '.join(PROMPTS)} and all")
    return kinds


def _require_metric() -> None:
    """Miss trackeval now rather than after the first sequence."""
    import numpy as np

    from trt_track.evaluation.boundary import boundary_f

    boundary_f(np.zeros((8, 8), bool), np.zeros((8, 8), bool))


def _scores(
    bundle: Bundle, backend: str, sequences: list[AnnotatedSequence], kinds: list[str], save: Path | None
) -> Iterator[SequenceScore]:
    """Yield the score of every sequence from every kind of prompt."""
    from trt_track.cli.progress import progress_bar
    from trt_track.engines.backends import choose_backend, open_chosen
    from trt_track.evaluation.evaluate import evaluate_sequence
    from trt_track.runtime.tracker import Tracker

    name, why = choose_backend(backend, bundle)
    typer.echo(f"{bundle.folder}: {why}", err=True)
    precision = bundle.manifest.description.precision
    with Tracker(open_chosen(bundle, name), bundle.model) as tracker:
        for kind in kinds:
            for sequence in sequences:
                folder = None if save is None else save / f"{bundle.model.name}-{precision}" / kind / sequence.name
                with progress_bar(f"{precision} {kind} {sequence.name}") as advance:
                    yield evaluate_sequence(tracker, sequence, kind, save=folder, on_frame=advance)


def _write(report: Path, davis: Path, runs: list[_Run]) -> None:
    from trt_track.runtime.output_file import output_errors, write_whole

    with output_errors(report):
        report.parent.mkdir(parents=True, exist_ok=True)
        write_whole(report, (json.dumps({"davis": str(davis), "runs": [run.to_json() for run in runs]}, indent=1) + "\n").encode())


def _print(runs: list[_Run], kinds: list[str], *, per_object: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from trt_track.evaluation.scores import Score

    table = Table("bundle", "prompt", "sequence", "object", "J&F", "J", "recall", "decay", "F", "recall", "decay", "frames/s", box=None)
    for run in runs:
        for kind in kinds:
            found = [score for score in run.scores if score.prompt == kind]
            for one in found:
                for number, score in one.objects.items() if per_object else ():
                    table.add_row(run.name, kind, one.name, str(number), *_figures(score), "")
                if len(found) > 1:
                    table.add_row(
                        run.name, kind, one.name, f"all {len(one.objects)}", *_figures(one.score), f"{one.frames / one.seconds:.1f}"
                    )
            objects = [score for one in found for score in one.objects.values()]
            rate = sum(one.frames for one in found) / sum(one.seconds for one in found)
            shown = found[0].name if len(found) == 1 else f"all {len(found)}"
            table.add_row(run.name, kind, shown, f"all {len(objects)}", *_figures(Score.mean(objects)), f"{rate:.1f}")
    Console(width=150, highlight=False, markup=False).print(table)


def _figures(score: Score) -> list[str]:
    values = (score.j_and_f, score.j_mean, score.j_recall, score.j_decay, score.f_mean, score.f_recall, score.f_decay)
    return [f"{value:.4f}" for value in values]
