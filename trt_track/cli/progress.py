"""Progress bars on stderr; nothing is drawn where stderr is no terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Advance(Protocol):
    """Reports how far the work is."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Show `done` of `total`, 0 for unknown, with a note behind the bar."""


@contextmanager
def progress_bar(title: str, *, unit: str = "") -> Iterator[Advance]:
    """Draw a bar while the block runs.

    Args:
        title: stands before the bar.
        unit: "bytes" shows amounts and speed of a download.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    amounts = (DownloadColumn(), TransferSpeedColumn()) if unit == "bytes" else (MofNCompleteColumn(),)
    columns = (TextColumn("{task.description}"), BarColumn(), *amounts, TextColumn("{task.fields[note]}"), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=False, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=None, note="")

        def advance(done: int, total: int, note: str = "") -> None:
            progress.update(task, completed=done, total=total or None, note=note)

        yield advance
