"""A GPU that does nothing before the host waits for it, and that insists on what CUDA only documents.

Work is queued by lane and runs when the host waits, so what is read too early, or overwritten too early, shows. Other schedules run some
lanes as early as events allow, or at random: whatever is not ordered by an event happens in every order. Device memory has addresses that
the host cannot reach, lies between gaps, and is full of rubbish when it is new and when it was given back.
"""

import random
import threading
import weakref
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from trt_track.engines.device_memory import Gpu
from trt_track.engines.session import Lane
from trt_track.errors import EngineRunError

FIRST_ADDRESS = 1 << 48
"""Above every address that a process on x86-64 or ARM has."""
FIRST_STREAM = 77
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
    waits: tuple[Lane, int] | None = None
    """Lane and number of works that must be done there before."""
    check: object = None
    """Called when a recording that holds it is launched."""


@dataclass
class Queue:
    works: deque = field(default_factory=deque)
    asked: int = 0
    done: int = 0


class FakeEvent:
    def __init__(self):
        self.destroyed = False
        self.point = None
        """Lane and number of works, as last recorded."""


class FakeRecording:
    def __init__(self, works):
        self.works, self.closed = works, False

    def close(self):
        misuse_unless(not self.closed, "a recording was destroyed twice")
        self.closed, self.works = True, ()


class FakeBlock:
    def __init__(self, device, pointer, nbytes, lane):
        self.device, self.pointer, self.nbytes, self.lane = device, pointer, nbytes, lane
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

    def __init__(self, sm=89, *, reuses_addresses=False, eager=(), seed=None):
        """Open it.

        Args:
            sm: compute capability times ten.
            reuses_addresses: whether new memory lies where some was given back.
            eager: lanes whose work runs as soon as events allow, instead of when the host waits for it.
            seed: of a schedule that lets any lane run at any time; None for none.
        """
        self.present = Gpu("Fake RTX", sm, 8 << 30, 8 << 30)
        self.reuses_addresses, self.eager = reuses_addresses, tuple(eager)
        self.chance = None if seed is None else random.Random(seed)
        self.live, self.log, self.closed, self.fail_synchronize, self.refuses_capture = {}, [], 0, None, False
        self.events, self.recordings = [], []
        self._given_back = []
        self._current = threading.local()
        self.make_current()
        self._next = FIRST_ADDRESS
        self._pinned = []
        self._queues = {lane: Queue() for lane in Lane}
        self._tape, self._tape_lane = None, None

    # What the Device protocol asks for

    @property
    def gpu(self):
        self.check_current()
        return self.present

    @gpu.setter
    def gpu(self, present):
        self.present = present

    def make_current(self):
        self._current.yes = True

    def stream(self, lane):
        return FIRST_STREAM + lane

    def allocate(self, nbytes, lane=Lane.TRACK):
        self.check_open()
        misuse_unless(self._tape is None, "memory is allocated while a stream is captured")
        self.log.append(("allocate", nbytes))
        pointer = self._address(nbytes)
        block = self.live[pointer] = FakeBlock(self, pointer, nbytes, lane)
        return block

    def pinned(self, nbytes):
        self.check_open()
        self.log.append(("pinned", nbytes))
        store = np.full(nbytes, NEW, np.uint8)
        self._pinned.append((store.ctypes.data, nbytes, weakref.ref(store)))
        array = store.view(PinnedArray)
        array.device = self
        return array

    def copy(self, target, source, nbytes, lane=Lane.TRACK):
        self.log.append(("copy", nbytes))
        into, out_of = self.place(target, nbytes), self.place(source, nbytes)
        reads = (source, source + nbytes) if source < FIRST_ADDRESS else (0, 0)
        writes = (target, target + nbytes) if target < FIRST_ADDRESS else (0, 0)
        misuse_unless(lane != self._tape_lane or not (reads[1] or writes[1]), "host memory in a recording, which would stay as it is now")
        if writes[1]:
            self._check_host(writes, "written")
            into.bytes()[:] = UNREAD

        def move():
            into.bytes()[:] = out_of.bytes()

        self.ask(Work(move, reads, writes), lane)

    def scatter(self, target, rows, source, shape, lane=Lane.TRACK):
        self.log.append(("scatter", *shape))
        count, nbytes = shape
        misuse_unless(nbytes % 4 == 0, "rows are copied in words of four bytes")
        indices, out_of = self.place(rows, 4 * count), self.place(source, count * nbytes)
        misuse_unless(min(target, rows, source) >= FIRST_ADDRESS, "a kernel is told of host memory")

        def move():
            numbers = indices.bytes().copy().view(np.int32).tolist()
            misuse_unless(len(set(numbers)) == count, f"rows that are written twice: {numbers}")
            for number, row in zip(numbers, out_of.bytes().reshape(count, nbytes), strict=True):
                self.place(target + number * nbytes, nbytes).bytes()[:] = row

        self.ask(Work(move), lane)

    def zero(self, target, nbytes, lane=Lane.TRACK):
        place = self.place(target, nbytes)
        misuse_unless(target >= FIRST_ADDRESS, "cuMemset of host memory")
        self.ask(Work(lambda: place.bytes().fill(0)), lane)

    def event(self):
        self.check_open()
        self.log.append(("event",))
        event = FakeEvent()
        self.events.append(event)
        return event

    def destroy(self, event):
        self._check_event(event)
        misuse_unless(self.happened(event), "an event is destroyed before it happened")
        event.destroyed = True
        self.events.remove(event)

    def record(self, event, lane=Lane.TRACK):
        self._check_event(event)
        misuse_unless(lane != self._tape_lane, "an event of a stream that is captured")
        event.point = (lane, self._queues[lane].asked)

    def after(self, event, lane=Lane.TRACK):
        self._check_event(event)
        misuse_unless(lane != self._tape_lane, "a stream that is captured waits for an event")
        if event.point is not None:
            self.ask(Work(lambda: None, waits=event.point), lane)

    def happened(self, event):
        self._check_event(event)
        misuse_unless(self._tape is None, "an event is looked at while a stream is captured")
        return event.point is None or self._queues[event.point[0]].done >= event.point[1]

    def wait(self, event):
        self._check_event(event)
        misuse_unless(self._tape is None, "the host waits while a stream is captured")
        self.log.append(("wait",))
        if event.point is not None:
            self._run(*event.point)

    def synchronize(self):
        self.check_open()
        misuse_unless(self._tape is None, "the host waits while a stream is captured")
        self.log.append(("synchronize",))
        if self.fail_synchronize:
            raise self.fail_synchronize
        for lane, queue in self._queues.items():
            self._run(lane, queue.asked)

    @contextmanager
    def capture(self, lane=Lane.TRACK):
        self.check_open()
        misuse_unless(self._tape is None, "a stream is captured already")
        self.log.append(("capture", lane))
        works, made = [], []
        self._tape, self._tape_lane = works, lane
        try:
            yield lambda: made[0]
        finally:
            self._tape, self._tape_lane = None, None
        if self.refuses_capture:
            raise EngineRunError("capturing a stream failed: CUDA: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")
        made.append(FakeRecording(works))
        self.recordings.append(made[0])

    def launch(self, recording, lane=Lane.TRACK):
        self.check_open()
        self.log.append(("launch", lane))
        misuse_unless(not recording.closed, "a recording that was destroyed is launched")
        for work in recording.works:
            if work.check is not None:
                work.check()

        def play():
            for work in recording.works:
                work.do()

        self.ask(Work(play), lane)

    def close(self):
        self.check_current()
        misuse_unless(not self.closed, "the streams were destroyed twice")
        self.closed += 1

    # What the fake of TensorRT asks for

    def lane_of(self, stream):
        """Return the lane of a stream's handle."""
        misuse_unless(stream - FIRST_STREAM in list(Lane), "another stream")
        return Lane(stream - FIRST_STREAM)

    def captures(self, lane):
        """Whether what is asked for on a lane is recorded now."""
        return self._tape is not None and self._tape_lane == lane

    def ask(self, work, lane=Lane.TRACK):
        """Queue some work, or record it."""
        self.check_open()
        if self.captures(lane):
            self._tape.append(work)
            return
        queue = self._queues[lane]
        queue.works.append(work)
        queue.asked += 1
        for early in self.eager:
            self._advance(early)
        while self.chance is not None and self.chance.random() < 0.6:
            self._advance(self.chance.choice(list(Lane)), 1)

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
        self.check_current()
        misuse_unless(not self.closed, "the device was closed")

    def check_current(self):
        misuse_unless(hasattr(self._current, "yes"), "the device is not current on this thread")

    def check_readable(self, array):
        span = (array.ctypes.data, array.ctypes.data + array.nbytes)
        misuse_unless(not any(_overlap(span, work.writes) for work in self._waiting()), "read before the copy was waited for")

    def check_writable(self, array):
        self._check_host((array.ctypes.data, array.ctypes.data + array.nbytes), "written")

    def give_back(self, block):
        """Free in order with the lane that it was allocated on."""
        misuse_unless(self.live.pop(block.pointer, None) is block, "a block was freed twice")
        self._given_back.append(block)
        self.ask(Work(lambda: block.memory.fill(GIVEN_BACK)), block.lane)

    def _check_event(self, event):
        self.check_open()
        misuse_unless(not event.destroyed, "an event was destroyed before")

    def _check_host(self, span, what):
        busy = any(_overlap(span, work.reads) or _overlap(span, work.writes) for work in self._waiting())
        misuse_unless(not busy, f"pinned memory is {what} while a copy is on its way")

    def _waiting(self):
        return [work for queue in self._queues.values() for work in queue.works]

    def _run(self, lane, until):
        """Do a lane's work up to a point, and what it waits for on other lanes."""
        queue = self._queues[lane]
        while queue.done < until:
            if queue.works[0].waits is not None:
                self._run(*queue.works[0].waits)
            self._do_next(queue)

    def _advance(self, lane, most=None):
        """Do what a lane can do without work of other lanes, so much at most."""
        queue, done = self._queues[lane], 0
        while queue.works and (most is None or done < most):
            waits = queue.works[0].waits
            if waits is not None and self._queues[waits[0]].done < waits[1]:
                return
            self._do_next(queue)
            done += 1

    @staticmethod
    def _do_next(queue):
        queue.works.popleft().do()
        queue.done += 1

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
