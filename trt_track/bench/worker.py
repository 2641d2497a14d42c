"""Work in a process of its own that tells what it has as it comes: what happens to its memory, or ends it, costs nothing else."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

Send: TypeAlias = Callable[[str, Any], None]
"""Takes the kind of what was measured, and what it is."""


def messages(work: Callable[[Any, Send], None], order: Any) -> Generator[tuple[str, Any], None, None]:
    """Start `work(order, send)` in a new process and yield kind and content of all that it sends.

    When the process dies, the last kind is `failures`. When the receiver stops, as Ctrl-C makes it, the process is ended; it does not heed
    Ctrl-C itself.

    Args:
        work: a function of a module, so that the new process finds it.
        order: what to do; it is pickled.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(work, order, sender))
    with _interrupts_held():
        process.start()
    sender.close()
    try:
        yield from _received(receiver)
        process.join()
    finally:
        process.terminate()
        process.join()
        receiver.close()
    if process.exitcode:
        yield "failures", {"step": "process", "reason": f"it ended with exit code {process.exitcode}"}


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Keep SIGINT pending; a process that starts meanwhile never gets it, though Ctrl-C reaches the whole group."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run(work: Callable[[Any, Send], None], order: Any, sender: Connection) -> None:
    work(order, lambda kind, content: sender.send((kind, content)))


def _received(receiver: Connection) -> Iterator[tuple[str, Any]]:
    while True:
        try:
            yield receiver.recv()
        except EOFError:
            return
