"""Work in a process of its own that tells what it has as it comes: what happens to its memory, or ends it, costs nothing else."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

Send: TypeAlias = Callable[[str, Any], None]
"""Takes the kind of what was measured, and what it is."""


def messages(work: Callable[[Any, Send], None], order: Any) -> Iterator[tuple[str, Any]]:
    """Start `work(order, send)` in a new process and yield kind and content of all that it sends.

    When the process dies, the last kind is `failures`.

    Args:
        work: a function of a module, so that the new process finds it.
        order: what to do; it is pickled.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(work, order, sender))
    process.start()
    sender.close()
    yield from _received(receiver)
    process.join()
    if process.exitcode:
        yield "failures", {"step": "process", "reason": f"it ended with exit code {process.exitcode}"}


def _run(work: Callable[[Any, Send], None], order: Any, sender: Connection) -> None:
    work(order, lambda kind, content: sender.send((kind, content)))


def _received(receiver: Connection) -> Iterator[tuple[str, Any]]:
    while True:
        try:
            yield receiver.recv()
        except EOFError:
            return
