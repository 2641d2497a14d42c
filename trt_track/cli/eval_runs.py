"""What `trt-track eval` found: each bundle under a name of its own, as JSON and as a table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt_track.errors import ModelError

if TYPE_CHECKING:
    from trt_track.engines.bundle import Bundle
    from trt_track.evaluation.evaluate import SequenceScore
    from trt_track.evaluation.scores import Score

_COLUMNS = ("bundle", "prompt", "sequence", "object", "J&F", "J", "recall", "decay", "F", "recall", "decay", "frames/s")


@dataclass(slots=True)
class EvalRun:
    """One bundle on one backend and what it came to so far."""

    name: str
    bundle: Bundle
    backend: str
    scores: list[SequenceScore] = field(default_factory=list)

    def by_prompt(self) -> dict[str, list[SequenceScore]]:
        """Return the sequences that are finished, by kind of prompt."""
        kinds = dict.fromkeys(score.prompt for score in self.scores)
        return {kind: [score for score in self.scores if score.prompt == kind] for kind in kinds}

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        model, precision = self.bundle.model, self.bundle.manifest.description.precision
        head = {"name": self.name, "bundle": str(self.bundle.folder), "model": model.name, "image_size": model.image_size}
        means = {kind: {**_mean(found).to_json(), "frames_per_s": round(_rate(found), 3)} for kind, found in self.by_prompt().items()}
        how = {"precision": precision, "backend": self.backend}
        return {**head, **how, "means": means, "sequences": [score.to_json() for score in self.scores]}


def run_names(bundles: Sequence[Bundle]) -> list[str]:
    """Name each bundle by model and precision, or by as much of its path as tells it from the others.

    Raises:
        ModelError: one is there twice.
    """
    folders = [bundle.folder.resolve() for bundle in bundles]
    if twice := [folder for folder in folders if folders.count(folder) > 1]:
        raise ModelError(f"--bundle {twice[0]} is given twice")
    names = [f"{bundle.model.name} {bundle.manifest.description.precision}" for bundle in bundles]
    parts = 0
    while len(set(names)) < len(names):
        parts += 1
        names = ["/".join(folder.parts[-parts:]) for folder in folders]
    return names


def write_runs(report: Path, davis: Path, runs: Sequence[EvalRun]) -> None:
    """Write every number so far to a file, in place of what it held.

    Raises:
        OutputError: it cannot be written.
    """
    from trt_track.runtime.output_file import output_errors, write_whole

    content = json.dumps({"davis": str(davis), "runs": [run.to_json() for run in runs]}, indent=1) + "\n"
    with output_errors(report):
        report.parent.mkdir(parents=True, exist_ok=True)
        write_whole(report, content.encode())


def print_runs(runs: Sequence[EvalRun], *, per_object: bool) -> None:
    """Print the table: a row for each bundle and kind of prompt, above it those of the sequences where there are several."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*_COLUMNS, box=None)
    for run in runs:
        for kind, found in run.by_prompt().items():
            for row in _rows(found, per_object=per_object):
                table.add_row(run.name, kind, *row)
    if table.rows:
        Console(width=170, highlight=False, markup=False).print(table)


def _rows(found: Sequence[SequenceScore], *, per_object: bool) -> Iterator[tuple[str, ...]]:
    for one in found:
        for number, score in one.objects.items() if per_object else ():
            yield one.name, str(number), *_figures(score), ""
        if len(found) > 1:
            yield one.name, f"all {len(one.objects)}", *_figures(one.score), f"{_rate([one]):.1f}"
    shown = found[0].name if len(found) == 1 else f"all {len(found)}"
    yield shown, f"all {sum(len(one.objects) for one in found)}", *_figures(_mean(found)), f"{_rate(found):.1f}"


def _mean(found: Sequence[SequenceScore]) -> Score:
    """Return the mean over the objects of all sequences."""
    from trt_track.evaluation.scores import Score

    return Score.mean([score for one in found for score in one.objects.values()])


def _rate(found: Sequence[SequenceScore]) -> float:
    """Return frames a second."""
    return sum(one.frames for one in found) / sum(one.seconds for one in found)


def _figures(score: Score) -> list[str]:
    values = (score.j_and_f, score.j_mean, score.j_recall, score.j_decay, score.f_mean, score.f_recall, score.f_decay)
    return [f"{value:.4f}" for value in values]
