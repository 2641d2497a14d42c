"""`trt-track eval`: J and F of a model on annotated sequences, so that a loss of accuracy is a number that people know."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trt_track.cli.model_choice import ModelOptions
from trt_track.errors import ModelError

if TYPE_CHECKING:
    from trt_track.cli.eval_runs import EvalRun
    from trt_track.engines.backends import Machine
    from trt_track.engines.bundle import Bundle
    from trt_track.evaluation.evaluate import SequenceScore
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
MaxObjects = Annotated[int | None, typer.Option(min=1, help="Objects of one sequence, at most. Default: 16, or what the engines take.")]
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
    max_objects: MaxObjects = None,
    per_object: PerObject = False,
    report: Report = None,
    save: Save = None,
) -> None:
    """Track annotated sequences in DAVIS form from first-frame masks, boxes or clicks and print J, F and J&F of one or several bundles."""
    from trt_track.cli.eval_runs import print_runs, write_runs
    from trt_track.engines.backends import inspect_machine
    from trt_track.evaluation.sequences import find_sequences

    kinds = _kinds(prompt or ["mask"])
    machine = inspect_machine()
    folders: list[Path | None] = [*bundle] if bundle else [None]
    options = [ModelOptions(bundle=folder, model=model, size=size, precision=precision) for folder in folders]
    chosen = _chosen([one.open(backend, machine) for one in options], backend, machine)
    sequences = find_sequences(davis, image_set=image_set, names=sequence or ())
    _require_metric()
    runs: list[EvalRun] = []
    try:
        for one in chosen:
            runs.append(one)
            for score in _scores(one, sequences, kinds, save, max_objects):
                one.scores.append(score)
                if report is not None:
                    write_runs(report, davis, runs)
    finally:  # what was finished, if it was cut short
        print_runs(runs, per_object=per_object)


def _chosen(bundles: list[Bundle], backend: str, machine: Machine) -> list[EvalRun]:
    """Name the bundles and choose the backend of each, before anything is tracked."""
    from trt_track.cli.eval_runs import EvalRun, run_names
    from trt_track.engines.backends import choose_backend

    runs = []
    for bundle, name in zip(bundles, run_names(bundles), strict=True):
        used, why = choose_backend(backend, bundle, machine)
        typer.echo(f"{name}: {why}", err=True)
        runs.append(EvalRun(name, bundle, used))
    return runs


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
    run: EvalRun, sequences: list[AnnotatedSequence], kinds: list[str], save: Path | None, max_objects: int | None
) -> Iterator[SequenceScore]:
    """Yield the score of every sequence from every kind of prompt."""
    from trt_track.cli.progress import progress_bar
    from trt_track.evaluation.evaluate import evaluate_sequence
    from trt_track.runtime.tracker import Tracker

    with Tracker.of_bundle(run.bundle, run.backend, max_objects=max_objects) as tracker:
        for kind in kinds:
            for sequence in sequences:
                folder = None if save is None else save / run.name.replace(" ", "-") / kind / sequence.name
                with progress_bar(f"{run.name} {kind} {sequence.name}") as advance:
                    yield evaluate_sequence(tracker, sequence, kind, save=folder, on_frame=advance)
