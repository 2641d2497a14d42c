"""A GPU that does nothing before the host waits for it, and that insists on what CUDA only documents.

Work is queued and runs when the host synchronises, so what is read too early, or overwritten too early, shows. Device memory has addresses
that the host cannot reach, lies between gaps, and is full of rubbish when it is new and when it was given back.
"""

import weakref
from collections import deque
from dataclasses import dataclass

import numpy as np

from trt_track.engines.device_memory import Gpu

FIRST_ADDRESS = 1 << 48
"""Above every address that a process on x86-64 or ARM has."""
ALIGNMENT = 256
NEW, UNREAD, GIVEN_BACK = 0xAB, 0xCD, 0xDD
"""Bytes of memory that is new, of host memory that a copy is on its way to, and of memory that was given back."""


class GpuMisuseError(Exception):
    """What a real GPU would answer with wrong results, an error much later, or a crash."""


def misuse_unless(fine, why):
    if not fine:
        raise GpuMisuseError(why)


@dataclass
class Place:
    """Some bytes of a block or of pinned memory, which is held weakly: the GPU keeps no host memory alive."""

    owner: object
    start: int
    nbytes: int

    def bytes(self):
        memory = self.owner.memory if isinstance(self.owner, FakeBlock) else self.owner()
        misuse_unless(memory is not None, "pinned memory was freed while a copy was on its way")
        return memory[self.start : self.start + self.nbytes]


@dataclass
class Work:
    do: object
    reads: tuple[int, int] = (0, 0)
    writes: tuple[int, int] = (0, 0)
    """Addresses of host memory, from and to."""


class FakeBlock:
    def __init__(self, device, pointer, nbytes):
        self.device, self.pointer, self.nbytes = device, pointer, nbytes
        self.memory = np.full(nbytes, NEW, np.uint8)

    def close(self):
        self.device.give_back(self)


class PinnedArray(np.ndarray):
    """Pinned memory: reading what is not there yet, or writing what is still being copied, is an error."""

    device = None

    def __array_finalize__(self, parent):
        self.device = getattr(parent, "device", None)

    def _settled(self):
        if self.device is not None:
            self.device.check_readable(self)
        return self.view(np.ndarray)

    def copy(self, order="C"):
        return self._settled().copy(order)

    def tolist(self):
        return self._settled().tolist()

    def astype(self, *args, **kwargs):
        return self._settled().astype(*args, **kwargs)

    def __setitem__(self, key, value):
        if self.device is not None:
            self.device.check_writable(self)
        super().__setitem__(key, value)

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        return getattr(ufunc, method)(*map(_settled, inputs), **kwargs)

    def __array_function__(self, func, types, args, kwargs):
        return func(*map(_settled, args), **kwargs)


def _settled(argument):
    return argument._settled() if isinstance(argument, PinnedArray) else argument


class FakeDevice:
    """Fills the `Device` protocol; `log` keeps what was asked for."""

    stream = 77

    def __init__(self, sm=89, *, reuses_addresses=False):
        self.gpu = Gpu("Fake RTX", sm, 8 << 30, 8 << 30)
        self.reuses_addresses = reuses_addresses
        self.live, self.log, self.closed, self.fail_synchronize = {}, [], 0, None
        self._given_back = []
        self._next = FIRST_ADDRESS
        self._pinned = []
        self._queue, self._asked, self._done = deque(), 0, 0

    # What the Device protocol asks for

    def allocate(self, nbytes):
        self.check_open()
        self.log.append(("allocate", nbytes))
        pointer = self._address(nbytes)
        block = self.live[pointer] = FakeBlock(self, pointer, nbytes)
        return block

    def pinned(self, nbytes):
        self.check_open()
        store = np.full(nbytes, NEW, np.uint8)
        self._pinned.append((store.ctypes.data, nbytes, weakref.ref(store)))
        array = store.view(PinnedArray)
        array.device = self
        return array

    def copy(self, target, source, nbytes):
        self.log.append(("copy", nbytes))
        into, out_of = self.place(target, nbytes), self.place(source, nbytes)
        reads = (source, source + nbytes) if source < FIRST_ADDRESS else (0, 0)
        writes = (target, target + nbytes) if target < FIRST_ADDRESS else (0, 0)
        if writes[1]:
            self._check_host(writes, "written")
            into.bytes()[:] = UNREAD

        def move():
            into.bytes()[:] = out_of.bytes()

        self.ask(Work(move, reads, writes))

    def zero(self, target, nbytes):
        place = self.place(target, nbytes)
        misuse_unless(target >= FIRST_ADDRESS, "cuMemset of host memory")
        self.ask(Work(lambda: place.bytes().fill(0)))

    def mark(self):
        self.check_open()
        self.log.append(("mark",))
        return self._asked

    def wait(self, event):
        self.check_open()
        self.log.append(("wait", event))
        self._run(event)

    def synchronize(self):
        self.check_open()
        self.log.append(("synchronize",))
        if self.fail_synchronize:
            raise self.fail_synchronize
        self._run(self._asked)

    def close(self):
        misuse_unless(not self.closed, "the stream was destroyed twice")
        self.closed += 1

    # What the fake of TensorRT asks for

    def ask(self, work):
        """Queue some work."""
        self.check_open()
        self._queue.append(work)
        self._asked += 1

    def place(self, pointer, nbytes):
        """Return the memory at an address; all of it must belong to one piece that is alive."""
        self.check_open()
        misuse_unless(nbytes > 0, "an empty range")
        for start, block in self.live.items():
            if start <= pointer < start + block.nbytes:
                misuse_unless(pointer + nbytes <= start + block.nbytes, f"{nbytes} bytes at {pointer - start} of a block of {block.nbytes}")
                return Place(block, pointer - start, nbytes)
        for start, size, store in self._pinned:
            if start <= pointer and pointer + nbytes <= start + size and store() is not None:
                return Place(store, pointer - start, nbytes)
        raise GpuMisuseError("no such memory on the device, and no pinned memory either")

    def check_open(self):
        misuse_unless(not self.closed, "the device was closed")

    def check_readable(self, array):
        span = (array.ctypes.data, array.ctypes.data + array.nbytes)
        misuse_unless(not any(_overlap(span, work.writes) for work in self._queue), "read before the copy was waited for")

    def check_writable(self, array):
        self._check_host((array.ctypes.data, array.ctypes.data + array.nbytes), "written")

    def give_back(self, block):
        """Free in order with the stream."""
        misuse_unless(self.live.pop(block.pointer, None) is block, "a block was freed twice")
        self._given_back.append(block)
        self.ask(Work(lambda: block.memory.fill(GIVEN_BACK)))

    def _check_host(self, span, what):
        busy = any(_overlap(span, work.reads) or _overlap(span, work.writes) for work in self._queue)
        misuse_unless(not busy, f"pinned memory is {what} while a copy is on its way")

    def _run(self, until):
        while self._done < until:
            self._queue.popleft().do()
            self._done += 1

    def _address(self, nbytes):
        if self.reuses_addresses:
            for block in self._given_back:
                if block.nbytes >= nbytes:
                    self._given_back.remove(block)
                    return block.pointer
        pointer = self._next
        self._next += nbytes + -nbytes % ALIGNMENT + ALIGNMENT
        return pointer


def _overlap(first, second):
    return first[0] < second[1] and second[0] < first[1]
