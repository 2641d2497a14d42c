"""The command line. Each command imports what it needs when it runs, so that `--help` starts at once."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from trt_track.cli.bench_command import bench
from trt_track.cli.build_command import build
from trt_track.cli.demo_command import demo
from trt_track.cli.detect_command import detect
from trt_track.cli.doctor_command import doctor
from trt_track.cli.eval_command import evaluate
from trt_track.cli.export_command import export
from trt_track.cli.export_detector_command import export_detector
from trt_track.cli.inspect_command import inspect
from trt_track.cli.models_command import models
from trt_track.cli.parity_command import parity
from trt_track.cli.plan_command import plan
from trt_track.cli.run_command import run
from trt_track.cli.sensitivity_command import sensitivity
from trt_track.cli.tune_command import tune
from trt_track.errors import TrtTrackError

app = typer.Typer(
    name="trt-track",
    help="Track objects in video with SAM 2, compiled: batched over objects, in constant memory, equal to upstream.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(run)
app.command()(detect)
app.command()(demo)
app.command()(export)
app.command()(export_detector)
app.command()(build)
app.command()(inspect)
app.command()(plan)
app.command()(tune)
app.command()(parity)
app.command()(sensitivity)
app.command("eval")(evaluate)
app.command()(bench)
app.command()(doctor)
app.add_typer(models, name="models")

Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log what is done, on stderr.")]
Version = Annotated[bool, typer.Option("--version", help="Print the version and exit.")]


@app.callback(invoke_without_command=True)
def options(context: typer.Context, verbose: Verbose = False, version: Version = False) -> None:
    """Track objects in video with SAM 2, compiled: batched over objects, in constant memory, equal to upstream."""
    if version:
        from importlib import metadata

        typer.echo(metadata.version("trt-track"))
        raise typer.Exit
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr)


def main() -> None:
    """Run the command line: errors that trt-track raises on purpose become one line on stderr and exit code 2."""
    try:
        app()
    except TrtTrackError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except BrokenPipeError:  # the reader of our output went away, as in `trt-track models list | head`
        sys.stderr.close()
        sys.exit(1)
