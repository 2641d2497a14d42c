"""`trt-track detect` in a process of its own."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import typer


def run_detection(source: Path, options: Mapping[str, object]) -> None:
    """Run `trt-track detect` to its end.

    Args:
        source: the clip.
        options: by their names: None for one that was not given, True or False for a flag.

    Raises:
        typer.Exit: it failed, and has said why.
    """
    # -P: else `-m` would take this package from the current folder, if that has one of its name.
    command = [sys.executable, "-P", "-m", "trt_track", *_verbosity(), "detect"]
    command += [name for name, value in options.items() if value is True]
    for name, value in options.items():
        command += [] if value is None or isinstance(value, bool) else [name, str(value)]
    code = subprocess.run([*command, "--", str(source)], stdout=subprocess.DEVNULL, check=False).returncode
    if code < 0:
        typer.echo(f"error: {_told(-code)}", err=True)
    if code:
        raise typer.Exit(code if code > 0 else 128 - code)


def _verbosity() -> list[str]:
    return ["--verbose"] if logging.getLogger().isEnabledFor(logging.INFO) else []


def _told(number: int) -> str:
    """Say which signal ended it, and what helps; a process that memory is taken from says nothing itself."""
    what = f"detection was ended by signal {number} ({signal.strsignal(number)})"
    if number != signal.SIGKILL:
        return f"{what}: trt-track --verbose detect tells how far it comes"
    return (
        f"{what}, as a system does that is short of memory: free some, or take a smaller detector "
        "(trt-track export-detector grounding-dino-tiny --frame 544x960)"
    )
