"""A bounded queue between two threads, and the thread that reads ahead through it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Channel(Generic[T]):
    """A first-in, first-out queue for one sender and one receiver, which either of them can end.

    It holds at most `capacity` items: `put` waits for room, iterating waits for items.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._finished = False
        self._cancelled = False
        self._error: BaseException | None = None

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> bool:
        """Append an item as soon as there is room; False, and nothing appended, when the receiver has gone."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._items) < self.capacity or self._cancelled)
            if self._cancelled:
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def finish(self, error: BaseException | None = None) -> None:
        """Say, as the sender, that nothing more comes; `error` is raised in the receiver after the last item."""
        with self._changed:
            self._finished, self._error = True, error
            self._changed.notify_all()

    def cancel(self) -> None:
        """Say, as the receiver, that nothing more is wanted; what was queued is dropped."""
        with self._changed:
            self._cancelled = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Generator[T, None, None]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._items or self._finished or self._cancelled)
                if not self._items:
                    break
                item = self._items.popleft()
                self._changed.notify_all()
            yield item
        if self._error is not None:
            raise self._error


def read_ahead(items: Iterator[T], *, capacity: int, cancelled: threading.Event) -> Generator[T, None, None]:
    """Yield `items`, which a thread of its own produces up to `capacity` items ahead.

    The thread is gone when the iteration has ended: exhausted, closed or left with an exception.

    Args:
        items: run in the thread, and closed there if it is a generator.
        capacity: items that wait at most; the thread holds one more.
        cancelled: set when the iteration ends, for work in `items` that takes long between two of them.

    Raises:
        BaseException: whatever `items` raised.
    """
    channel: Channel[T] = Channel(capacity)
    thread = threading.Thread(target=_pump, args=(items, channel), name="trt-track-read-ahead", daemon=True)
    thread.start()
    try:
        yield from channel
    finally:
        cancelled.set()
        channel.cancel()
        if thread is not threading.current_thread():  # the garbage collector may close us anywhere
            thread.join()


def _pump(items: Iterator[T], channel: Channel[T]) -> None:
    try:
        for item in items:
            if not channel.put(item):
                break
            del item  # or the thread would hold it while the next one is made
    except BaseException as error:  # it goes on in the receiver
        channel.finish(error)
    else:
        channel.finish()
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()
