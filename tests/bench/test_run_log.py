import os
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from trt_track.bench.mask_file import read_masks
from trt_track.bench.memory_series import MemorySeries, device_meter, growth_mb_per_frame, nothing_used
from trt_track.bench.order import Plan, RunOrder, Settings
from trt_track.bench.run_log import RunLog
from trt_track.bench.thread_times import spent, thread_seconds
from trt_track.engines import cuda_door
from trt_track.errors import BackendError, VideoError


def settings_of(**more):
    given = {"frames": 6, "skip": 2, "backend": "onnxruntime-cpu", "threads": 1, "device": "cpu", "precision": "fp32"}
    given |= {"clip": Path("clip.mp4"), "bundle": Path("bundle"), "flush_denormals": False, "upstream": None}
    return Settings(**given | more)


def order_of(tmp_path, **more):
    return RunOrder(settings_of(**more), "ours", 1, 0, tmp_path / "masks")


def masks_of(frames, work_s=0.0):
    for index in range(frames):
        end = time.perf_counter() + work_s
        while time.perf_counter() < end:
            pass
        yield np.full((1, 5, 7), index % 2 == 0)


def test_a_run_is_followed(tmp_path):
    told = []
    log = RunLog(order_of(tmp_path), MemorySeries(lambda: 7_000_000, 2_000_000), lambda *message: told.append(message))
    log.follow(masks_of(6, work_s=0.02))
    found = log.figures()
    assert len(found["frame_s"]) == len(found["cpu_s"]) == 6
    assert min(found["frame_s"]) >= 0.02
    assert found["whole_s"] >= sum(found["frame_s"])
    assert 0 < found["busiest_thread"]["utilisation"] < 1.5  # the kernel counts in hundredths of a second
    assert found["memory"]["samples"]["frame"] == [1, 2, 3, 4, 5, 6]
    assert found["memory"]["samples"]["device_mb"] == [5.0] * 6
    assert found["memory"]["device_peak_mb"] == 5.0
    assert found["memory"]["host_peak_mb"] > 10
    assert told == [("frame", frame) for frame in range(1, 7)]
    assert [bool(mask.all()) for mask in read_masks(tmp_path / "masks", (1, 5, 7))] == [True, False] * 3


def test_seconds_that_are_nobodys_fault_are_taken_off(tmp_path):
    off = [0.0]

    def frames():
        for mask in masks_of(6, work_s=0.01):
            time.sleep(0.03)
            off[0] += 0.03
            yield mask

    log = RunLog(order_of(tmp_path), MemorySeries(nothing_used), lambda *_: None, off_the_clock=lambda: off[0])
    started = time.perf_counter()
    log.follow(frames())
    counted = time.perf_counter() - started - off[0]
    found = log.figures()
    assert 6 * 0.01 <= sum(found["frame_s"]) <= found["whole_s"] <= counted


def test_a_clip_that_ends_early_is_refused(tmp_path):
    log = RunLog(order_of(tmp_path), MemorySeries(nothing_used), lambda *_: None)
    with pytest.raises(VideoError, match=r"clip\.mp4 ends after 4 frames"):
        log.follow(masks_of(4))


def test_growth_of_a_series():
    samples = {"frame": [5, 10, 15, 20], "host_mb": [0.0, 10.0, 20.0, 30.0], "device_mb": [None, None, None, 4.0]}
    assert growth_mb_per_frame(samples, "host_mb", skip=8) == pytest.approx(2)
    assert growth_mb_per_frame(samples, "device_mb", skip=0) is None


def test_a_machine_without_the_drivers_library_uses_the_fallback(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with device_meter(lambda: 42) as used:
        assert used() == 42


class FakeNvml:
    """Stands in for nvidia-ml-py: GPU 0 has 10 bytes in use, GPU 1 has 20, GPU-x 30; of GPU 9 it says nothing."""

    class NVMLError(Exception):
        pass

    def __init__(self, count=1):
        self.open, self.count = 0, count

    def nvmlDeviceGetCount(self):
        return self.count

    def nvmlDeviceGetHandleByPciBusId(self, name):
        return {"0000:65:00.0": 1}[name]

    def nvmlInit(self):
        self.open += 1

    def nvmlShutdown(self):
        self.open -= 1

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetHandleByUUID(self, name):
        return {"GPU-x": 2}[name]

    def nvmlDeviceGetMemoryInfo(self, handle):
        if handle == 9:
            raise self.NVMLError
        return SimpleNamespace(used=10 * (handle + 1))


@pytest.mark.parametrize(
    ("visible", "order", "count", "used"),
    [
        (None, None, 1, 10),
        ("1,0", "PCI_BUS_ID", 2, 20),
        ("GPU-x", None, 3, 30),
        ("9", "PCI_BUS_ID", 10, 42),
        (None, None, 2, 20),  # the fastest one comes first in CUDA and second on the bus
        (None, "FASTEST_FIRST", 2, 20),
        (None, "PCI_BUS_ID", 2, 10),
    ],
)
def test_the_drivers_library_tells_of_the_gpu_that_cuda_sees_first(monkeypatch, visible, order, count, used):
    nvml = FakeNvml(count)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(cuda_door, "first_bus_id", lambda: "0000:65:00.0")
    for name, value in (("CUDA_VISIBLE_DEVICES", visible), ("CUDA_DEVICE_ORDER", order)):
        monkeypatch.delenv(name, raising=False)
        if value:
            monkeypatch.setenv(name, value)
    with device_meter(lambda: 42) as meter:
        assert meter() == used
    assert nvml.open == 0


def test_of_several_gpus_none_is_taken_where_cuda_cannot_be_asked(monkeypatch):
    def missing():
        raise BackendError("no NVIDIA driver")

    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(2))
    monkeypatch.setattr(cuda_door, "first_bus_id", missing)
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)
    with device_meter(lambda: 42) as meter:
        assert meter() == 42


class TestThreadTimes:
    def test_a_busy_thread_is_found(self):
        busy, stop = threading.Event(), threading.Event()

        def work():
            busy.set()
            while not stop.is_set():
                pass

        thread = threading.Thread(target=work)
        thread.start()
        busy.wait()
        before = thread_seconds()
        time.sleep(0.3)
        found = spent(before, thread_seconds())
        stop.set()
        thread.join()
        assert max(found, key=found.get) == thread.native_id
        assert 0.02 < found[thread.native_id] <= 0.5

    def test_clock_ticks_where_there_is_nothing_finer(self, tmp_path):
        (tmp_path / "12").mkdir()
        fields = ["R", *["0"] * 10, "150", "50", *["0"] * 20]
        (tmp_path / "12" / "stat").write_text(f"12 (a) b) {' '.join(fields)}")
        assert thread_seconds(tmp_path) == {12: 200 / os.sysconf("SC_CLK_TCK")}

    def test_a_system_that_does_not_say(self, tmp_path):
        assert thread_seconds(tmp_path / "none") == {}

    def test_a_new_thread_counts_from_nothing(self):
        assert spent({1: 5.0, 2: 1.0}, {1: 6.0, 3: 2.0}) == {1: 1.0, 3: 2.0}


class TestOrder:
    def test_sides_take_turns(self, tmp_path):
        plan = Plan(settings_of(), ("ours", "upstream"), (1, 4), 2)
        orders = list(plan.orders(tmp_path))
        assert len(orders) == plan.count == len({order.masks for order in orders})
        assert [order.name for order in orders[:4]] == ["ours, 1 object", "upstream, 1 object", "ours, 4 objects", "upstream, 4 objects"]
        assert [order.repeat for order in orders] == [0] * 4 + [1] * 4

    @pytest.mark.parametrize(
        ("side", "device", "frames"), [("ours", "cpu", 2), ("upstream", "cpu", 2), ("upstream", "cuda", 4), ("upstream-compiled", "cpu", 4)]
    )
    def test_what_prepares_for_its_sizes_warms_up_for_all_of_them(self, side, device, frames):
        assert settings_of(device=device).warm_up(side) == frames
        assert settings_of(device=device, frames=3).warm_up(side) <= 3

    @pytest.mark.parametrize(("skip", "ahead", "frames"), [(2, 1, 24), (20, 1, 28), (16, 4, 48)])
    def test_ours_on_a_gpu_warms_up_until_all_is_recorded(self, skip, ahead, frames):
        assert settings_of(device="cuda", skip=skip, frames=30).warm_up("ours", ahead) == frames
