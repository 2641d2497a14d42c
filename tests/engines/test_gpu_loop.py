"""The real tracking loop on the real TensorRT session over a strict fake GPU, against the same loop on ONNX Runtime: equal bit for bit."""

import random
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import toy_model
from fake_gpu import FakeDevice, GpuMisuseError
from fake_tensorrt import FakeContext, FakeEngine, FakeTensorRT

from trt_track.bench.order import Settings
from trt_track.engines import recordings
from trt_track.engines.backends import open_session
from trt_track.engines.bound_engine import BoundEngine
from trt_track.engines.bundle import Bundle
from trt_track.engines.device_memory import MOST_LENT, DownloadPool, UploadRing
from trt_track.engines.recordings import Recordings
from trt_track.engines.session import Lane
from trt_track.engines.tensorrt_session import TensorRTSession
from trt_track.errors import DeviceMemoryError, EngineRunError, PromptError, TrtTrackError, VideoError
from trt_track.runtime.frames import Frame, VideoInfo
from trt_track.runtime.held_clip import HeldClip
from trt_track.runtime.steps import Steps
from trt_track.runtime.tracker import Tracker, Video
from trt_track.specs import Limits

FRAMES = 30
LIMITS = Limits(objects=4, video_wh=(200, 100))
TOGETHER = [1, 3, 4]
"""Frames of one call of the image encoder."""


def held_clip(size, video_wh=(53, 37), count=FRAMES):
    """Every frame is of another colour and has a square somewhere else."""
    frames = tuple(Frame(index, index / 25, picture(size, index, count), None) for index in range(count))
    return HeldClip(VideoInfo("held", *video_wh, count, Fraction(25), 0, Path("held")), frames)


def picture(size, index, count):
    image = np.full((size, size, 3), (5 * index, 250 - 3 * index, 40), np.uint8)
    left = index * size // (2 * count)
    image[left : left + size // 3, left : left + size // 4] = np.random.default_rng(index).integers(0, 256, 3)
    return image


def open_fake(bundle, device, limits=LIMITS):
    """Open a TensorRT session whose engines are the bundle's graphs in ONNX Runtime."""
    profiles, engines = toy_model.write_engines(bundle, limits), {}
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    for number, (name, spec) in enumerate(bundle.specs.items()):
        engine = ort.InferenceSession(bundle.onnx_path(name), options, providers=["CPUExecutionProvider"])
        engines[name] = FakeEngine(spec, profiles[name], computed_by(engine), bytes_per_object=1000 * number)
    return TensorRTSession(bundle, device=device, tensorrt=FakeTensorRT(device, engines))


def computed_by(engine):
    names, known = [output.name for output in engine.get_outputs()], {tensor.name for tensor in engine.get_inputs()}
    return lambda inputs: dict(zip(names, engine.run(names, {k: v for k, v in inputs.items() if k in known}), strict=True))


def prompt_all(video):
    """Objects that start together, late, from a mask, that are corrected, removed, replaced, and a while without any."""
    width, height = video.info.width, video.info.height
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : height // 2, width // 3 : width // 2] = 1
    video.add(object_id=1, frame=1, box=(2, 3, width / 2, height / 2))
    video.add(object_id=2, frame=1, points=[(width / 3, 9)])
    video.add(object_id=3, frame=3, mask=mask)
    video.add(object_id=1, frame=5, points=[(width / 4, 7), (9, 9), (width - 2, 3)], labels=[1, 1, 0])
    video.add(object_id=4, frame=6, points=[(width / 2, 20), (3, 4)], box=(1, 1, 30, 30))
    video.add(object_id=2, frame=8, mask=mask)
    video.remove(object_id=2, frame=11)
    video.add(object_id=7, frame=11, points=[(5, 20)])
    for object_id in (1, 3, 4, 7):
        video.remove(object_id=object_id, frame=22)
    video.add(object_id=9, frame=25, points=[(15, 20), (20, 20)])


LATE = {
    9: {"object_id": 3, "points": [(40, 30), (20, 1)], "labels": [0, 1]},
    23: {"object_id": 8, "points": [(11, 30)]},  # a frame without objects, which nothing was encoded for
}
"""Prompts by frame that come once the frame's result is there."""


def track(session, model, *, clips=1, prompt=prompt_all, late=LATE, **options):
    """Track clips of different sizes one after the other, the first one twice, with prompts that come while tracking runs."""
    results = []
    with Tracker(session, model, max_objects=LIMITS.objects) as tracker:
        for number in [*range(clips), 0]:
            video = Video(tracker, held_clip(model.image_size, (53 + 31 * number, 37 + 20 * number)))
            prompt(video)
            coming = dict(late) if prompt is prompt_all else {}
            for result in video.propagate(keep_logits=True, **options):
                results.append(result)
                if result.frame_index in coming:
                    video.add(frame=result.frame_index, **coming.pop(result.frame_index))
    return results


def assert_equal(found, wanted):
    assert [result.frame_index for result in found] == [result.frame_index for result in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one.object_ids == other.object_ids
        for name in ("masks", "ious", "presence", "logits"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=f"{name} on frame {one.frame_index}")


@pytest.fixture(params=["fp32", "fp16"])
def bundle(request, tmp_path):
    return toy_model.write_bundle(tmp_path / "toy", request.param)


@pytest.fixture
def device():
    return FakeDevice()


@pytest.fixture
def small_ring(monkeypatch):
    """A ring of pinned memory that is smaller than a frame, so that it goes round and round."""
    monkeypatch.setattr(UploadRing.__init__, "__defaults__", (5000,))


SCHEDULES = {
    "late": {},
    "encoder early": {"eager": (Lane.UPLOAD, Lane.ENCODE)},
    "tracking early": {"eager": (Lane.TRACK,)},
    "results early": {"eager": (Lane.UPLOAD, Lane.RESULTS)},
    "any order": {"seed": 1},
    "any other order": {"seed": 2},
}
"""What runs when on the fake GPU."""


@pytest.mark.usefixtures("small_ring")
@pytest.mark.parametrize("reuses_addresses", [False, True])
def test_tracks_are_the_same_on_the_gpu(bundle, reuses_addresses):
    wanted = track(open_session(bundle, "onnxruntime-cpu", threads=1), bundle.model, clips=2)
    device = FakeDevice(reuses_addresses=reuses_addresses)
    assert_equal(track(open_fake(bundle, device), bundle.model, clips=2), wanted)
    assert device.closed == 1
    assert device.live == {}
    tell_much(wanted)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("throughput", "together"), [(False, 1), (False, 3), *((True, frames) for frames in TOGETHER)])
def test_tracks_do_not_depend_on_what_runs_when(bundle, schedule, throughput, together):
    wanted = track(open_session(bundle, "onnxruntime-cpu", threads=1), bundle.model, late={})
    session = open_fake(bundle, FakeDevice(**SCHEDULES[schedule]), replace(LIMITS, frames=together))
    assert_equal(track(session, bundle.model, late={}, throughput=throughput), wanted)


@pytest.mark.parametrize("together", TOGETHER)
@pytest.mark.parametrize("settled", [(), (4, 9, 10, 23), range(FRAMES)])
def test_frames_that_are_encoded_together_can_be_corrected_where_they_are_settled(bundle, device, together, settled):
    late = {frame: prompt for frame, prompt in LATE.items() if frame in settled}
    wanted = track(open_session(bundle, "onnxruntime-cpu", threads=1), bundle.model, late=late)
    session = open_fake(bundle, device, replace(LIMITS, frames=together))
    assert_equal(track(session, bundle.model, late=late, throughput=True, settled=settled), wanted)


def tell_much(results):
    """Fail unless the tracks could tell one mistake from another: masks that are neither empty nor full, frames and objects that differ."""
    shares = [mask.mean() for result in results for mask in result.masks]
    assert np.mean([0.02 < share < 0.98 for share in shares]) > 0.8
    once = [mask.tobytes() for result in results[: FRAMES // 2] for mask in result.logits]
    assert len(set(once)) > 0.9 * len(once)  # a mask that is drawn twice is the same, and so is a frame that comes twice
    assert Counter(len(result.object_ids) for result in results).keys() >= {0, 1, 2, 3, 4}


def test_tracks_backwards_are_the_same_on_the_gpu(bundle, device):
    def prompt(video):
        video.add(object_id=1, frame=20, points=[(30, 20)])
        video.add(object_id=2, frame=14, box=(3, 3, 30, 30))
        video.add(object_id=1, frame=9, points=[(3, 3)], labels=[0])
        video.remove(object_id=2, frame=4)

    wanted = track(open_session(bundle, "onnxruntime-cpu", threads=1), bundle.model, prompt=prompt, reverse=True)
    assert_equal(track(open_fake(bundle, device), bundle.model, prompt=prompt, reverse=True), wanted)


@pytest.mark.parametrize(("seed", "together"), [(0, 1), (1, 1), (2, 1), (3, 3), (4, 4)])
def test_any_prompts_give_the_same_tracks(bundle, device, seed, together):
    def prompt(video):
        rng, active = random.Random(seed), {}
        for frame in range(FRAMES):
            for object_id in rng.sample(range(1, 7), rng.choice([0, 0, 1, 2])):
                xy = [[rng.uniform(0, 50), rng.uniform(0, 35)] for _ in range(rng.randint(1, 5))]
                if object_id in active and rng.random() < 0.4 and active[object_id] < frame:
                    video.remove(object_id=object_id, frame=frame)
                    active[object_id] = FRAMES  # an id that was removed stays away
                elif (
                    active.get(object_id, frame) < FRAMES and len({object_id, *(n for n in active if active[n] < FRAMES)}) <= LIMITS.objects
                ):
                    active.setdefault(object_id, frame)
                    video.add(object_id=object_id, frame=frame, points=xy)

    wanted = track(open_session(bundle, "onnxruntime-cpu", threads=1), bundle.model, prompt=prompt)
    session = open_fake(bundle, device, replace(LIMITS, frames=together))
    assert_equal(track(session, bundle.model, prompt=prompt, throughput=together > 1), wanted)


def test_a_real_model_tracks_the_same_on_the_gpu(tiny_bundle, tmp_path, device):
    """SAM 2 with narrow layers, as the export command writes it."""
    bundle = Bundle.open(shutil.copytree(tiny_bundle, tmp_path / "bundle"))

    def prompt(video):
        video.add(object_id=1, points=[(20, 20)])
        video.add(object_id=2, frame=1, box=(3, 3, 40, 30))
        video.add(object_id=1, frame=3, points=[(5, 5)], labels=[0])

    wanted = track(open_session(bundle, "onnxruntime-cpu", threads=1), bundle.model, prompt=prompt, max_frames=6)
    assert_equal(track(open_fake(bundle, device), bundle.model, prompt=prompt, max_frames=6), wanted)


def test_a_video_larger_than_the_engines_is_refused_up_front(bundle, device):
    with (
        Tracker(open_fake(bundle, device), bundle.model) as tracker,
        pytest.raises(VideoError, match="201x20 pixels, the engines were built for up to 200 a side"),
    ):
        Video(tracker, held_clip(64, (201, 20)))


@pytest.mark.parametrize("throughput", [False, True])
def test_a_tracker_may_be_opened_on_one_thread_and_used_on_others(bundle, device, throughput):
    """Frame by frame on two threads in turn, and closed on the one that it was opened on."""
    wanted = track(open_session(bundle, "onnxruntime-cpu", threads=1), bundle.model, late={})
    with Tracker(open_fake(bundle, device), bundle.model, max_objects=LIMITS.objects) as tracker:
        video = Video(tracker, held_clip(bundle.model.image_size))
        prompt_all(video)
        running, found = video.propagate(throughput=throughput, keep_logits=True), []
        with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
            while (result := (one, other)[len(found) % 2].submit(next, running, None).result()) is not None:
                found.append(result)
    assert_equal(found, wanted[: len(wanted) // 2])


def left_running(bundle, device, throughput):
    """Close a tracker in the middle of a pass; return the pass."""
    with Tracker(open_fake(bundle, device), bundle.model) as tracker:
        video = Video(tracker, held_clip(64))
        video.add(object_id=1, points=[(20, 20)])
        running = video.propagate(throughput=throughput)
        next(running)
    return running


@pytest.mark.parametrize("throughput", [False, True])
def test_tracking_after_the_tracker_was_closed_is_refused(bundle, device, throughput):
    running = left_running(bundle, device, throughput)
    with pytest.raises(EngineRunError, match="the session is closed"):
        next(running)
    assert list(running) == []


@pytest.mark.parametrize("throughput", [False, True])
def test_a_pass_that_outlives_its_tracker_can_be_left(bundle, device, throughput):
    left_running(bundle, device, throughput).close()


def test_what_had_arrived_when_the_tracker_was_closed_is_there_still(bundle, device):
    wanted = track(open_session(bundle, "onnxruntime-cpu", threads=1), bundle.model, late={})[:8]
    with Tracker(open_fake(bundle, device), bundle.model, max_objects=LIMITS.objects) as tracker:
        video = Video(tracker, held_clip(bundle.model.image_size))
        prompt_all(video)
        running = video.propagate(throughput=True, keep_logits=True, max_frames=8)
        found = [next(running) for _ in range(7)]  # the eighth frame has been asked for
    assert_equal([*found, *running], wanted)


def test_results_that_a_failure_took_are_not_handed_out(bundle, device):
    tracker = Tracker(open_fake(bundle, device), bundle.model)
    video = Video(tracker, held_clip(64))
    video.add(object_id=1, points=[(20, 20)])
    running = video.propagate(throughput=True, max_frames=2)
    next(running)
    device.fail_synchronize = EngineRunError("the GPU fell over")
    with pytest.raises(EngineRunError, match="fell over"):
        tracker.close()
    with pytest.raises(EngineRunError, match="closed after a failure: its last results are lost"):
        next(running)


def steady_log(bundle, objects, *, together=1, device=None, **options):
    """Track objects until all is recorded; return what device and engines were asked for in ten frames, or in two batches of them."""
    device = device or FakeDevice()
    session = open_fake(bundle, device, Limits(objects=8, frames=together, video_wh=(200, 100)))
    frames = []
    with Tracker(session, bundle.model, max_objects=8) as tracker:
        video = Video(tracker, held_clip(bundle.model.image_size, count=28 + 16 * together))
        for object_id in range(1, objects + 1):
            video.add(object_id=object_id, points=[(5 * object_id, 20)])
        for result in video.propagate(**options):
            frames.append(device.log + session._tensorrt.log)
            device.log.clear()
            session._tensorrt.log.clear()
            del result
    end = len(frames) - 2 * together - 2
    return frames[end - (10 if together == 1 else 2 * together) : end]


@pytest.mark.parametrize("objects", [1, 5])
@pytest.mark.parametrize("throughput", [False, True])
def test_a_frame_is_two_launches_once_the_memory_is_full(bundle, objects, throughput):
    for asked in steady_log(bundle, objects, throughput=throughput):
        assert [call for call in asked if call[0] == "launch"] == [("launch", Lane.ENCODE), ("launch", Lane.TRACK)]
        assert Counter(call[0] for call in asked) == {"copy": 2 + 3, "launch": 2, "wait": 1}
        frame, indices, *found = [nbytes for kind, *nbytes in asked if kind == "copy"]
        assert frame == [3 * bundle.model.image_size**2]
        assert indices[0] < 3000
        assert found == [[objects * 37 * 53], [4 * objects], [4 * objects]]


@pytest.mark.parametrize(("together", "most"), [(3, 32), (4, 32), (4, 3)])
def test_frames_that_are_encoded_together_are_one_launch_of_the_encoder(bundle, together, most, monkeypatch):
    monkeypatch.setattr(recordings, "MOST", most)  # of each frame of a call
    asked = [call for calls in steady_log(bundle, 2, together=together, throughput=True) for call in calls]
    assert Counter(call for call in asked if call[0] == "launch") == {("launch", Lane.ENCODE): 2, ("launch", Lane.TRACK): 2 * together}
    assert Counter(call[0] for call in asked) == {"copy": 2 * together * (2 + 3), "launch": 2 + 2 * together, "wait": 2 * together}


@pytest.mark.parametrize("objects", [1, 5])
def test_the_host_waits_once_a_frame_where_the_ring_has_room_for_one(bundle, objects, monkeypatch):
    """As at 1024 px, where each frame turns the ring round; the copies run by themselves, as on a GPU."""
    monkeypatch.setattr(UploadRing.__init__, "__defaults__", (4 * bundle.model.image_size**2,))
    device = FakeDevice(eager=(Lane.UPLOAD,))
    for asked in steady_log(bundle, objects, device=device, throughput=True):
        assert Counter(call[0] for call in asked) == {"copy": 2 + 3, "launch": 2, "wait": 1}


@pytest.mark.parametrize("together", [1, 4])
def test_what_a_bench_measures_was_recorded_while_it_warmed_up(bundle, device, together):
    """From the frame on that its steady figures begin with, nothing is prepared, recorded or run by itself but the last, smaller batch."""
    session = open_fake(bundle, device, replace(LIMITS, frames=together))
    settings = Settings(Path(), 60, 16, Path(), "tensorrt-rtx", 1, "cuda", "bf16", flush_denormals=False, upstream=None)
    warm_up, log = settings.warm_up("ours", together), session._tensorrt.log
    with Tracker(session, bundle.model, max_objects=LIMITS.objects) as tracker:
        for frames in (warm_up, 16 + 6 * together):
            video = Video(tracker, held_clip(bundle.model.image_size, count=frames))
            for object_id in (1, 2):
                video.add(object_id=object_id, points=[(9 * object_id, 9)])
            for result in video.propagate(throughput=True):
                if result.frame_index == 15:
                    device.log.clear()
                    log.clear()
                if result.frame_index == frames - 2 * together - 2:
                    asked = [*device.log, *log]
    assert {call[0] for call in asked} == {"copy", "launch", "wait"}
    assert len([call for call in asked if call == ("launch", Lane.TRACK)]) > 2 * together


def test_nothing_is_allocated_once_every_size_was_there(bundle, device):
    """The second pass over a clip asks for no memory, no event and no context, whoever comes and goes."""
    with Tracker(open_fake(bundle, device), bundle.model, max_objects=LIMITS.objects) as tracker:
        video = Video(tracker, held_clip(bundle.model.image_size))
        prompt_all(video)
        for _ in video.propagate():
            pass
        device.log.clear()
        for _ in video.propagate():
            pass
    assert {call[0] for call in device.log} <= {"copy", "scatter", "launch", "capture", "wait", "synchronize"}


def test_pinned_memory_for_results_does_not_grow_with_the_sizes_that_come_up(device):
    """Three results at once, of one to four objects: three pieces as large as the largest are enough, however they come."""
    pool = DownloadPool(device)
    sizes = np.random.default_rng(0).integers(1, 1000, 60)
    for first in range(0, 60, 3):
        held = []
        for nbytes in sizes[first : first + 3]:
            piece = pool.take(int(nbytes))
            assert piece.memory.size >= nbytes
            piece.memory[:] = first % 250
            held.append(pool.lend(piece))
        assert all((array == first % 250).all() for array in held)
        held.clear()
    assert len(pool._free) == 3
    assert sum(call[0] == "pinned" for call in device.log) < 20


def test_results_are_their_holders_however_many_they_keep(bundle, device):
    session = open_session(bundle, "onnxruntime-cpu", threads=1)
    wanted = track(session, bundle.model, late={}, max_frames=3 * MOST_LENT)
    found = track(open_fake(bundle, device), bundle.model, late={}, max_frames=3 * MOST_LENT)
    for one, other in zip(found, wanted, strict=True):
        if one.masks.size:
            np.testing.assert_array_equal(one.masks, other.masks)
            one.masks[...] = ~one.masks
            np.testing.assert_array_equal(one.masks, ~other.masks)


def refuse_contexts(monkeypatch, error):
    """Let TensorRT refuse every third context for recordings, so that no sequence of four gets all of its own."""
    create = FakeTensorRT.create_context

    def created(self, engine, graph, *, recorded=False):
        if recorded and len(self.recorded) % 3 == 2:
            self.recorded.append(None)
            raise error
        return create(self, engine, graph, recorded=recorded)

    monkeypatch.setattr(FakeTensorRT, "create_context", created)


@pytest.mark.parametrize("refusal", ["CUDA", "TensorRT", "a context"])
def test_what_cannot_be_recorded_runs_without(bundle, device, refusal, caplog, monkeypatch):
    wanted = track(open_session(bundle, "onnxruntime-cpu", threads=1), bundle.model)
    if refusal == "CUDA":
        device.refuses_capture = True
    elif refusal == "TensorRT":
        monkeypatch.setattr(FakeContext, "is_stream_capturable", lambda self, stream: False)
    else:
        refuse_contexts(monkeypatch, EngineRunError("engine 'memory_encoder' got no execution context"))
    session = open_fake(bundle, device)
    refused, erased = [], Recordings.close

    def close(self):
        refused.extend(tape for tape in self._tapes.values() if tape.refused)
        assert not any(tape.engines for tape in refused)
        erased(self)

    monkeypatch.setattr(Recordings, "close", close)
    assert_equal(track(session, bundle.model), wanted)
    launched = {lane for call, lane in (call for call in device.log if call[0] == "launch")}
    assert launched <= ({Lane.ENCODE} if refusal == "a context" else set())
    assert bool(refused) == ("slower but not wrong" in caplog.text) == (refusal != "TensorRT")


def test_a_shortage_of_memory_while_a_context_is_made_is_none_of_recording(bundle, device, caplog, monkeypatch):
    refuse_contexts(monkeypatch, DeviceMemoryError("5 MiB asked for"))
    wanted = track(open_session(bundle, "onnxruntime-cpu", threads=1), bundle.model)
    with pytest.raises(DeviceMemoryError):  # at a batch of one: larger ones are halved before
        assert_equal(track(open_fake(bundle, device), bundle.model), wanted)
    assert "slower but not wrong" not in caplog.text


@pytest.mark.parametrize("most", ["MOST", "MOST_COUNTED"])
def test_recordings_that_are_used_least_are_forgotten(bundle, device, monkeypatch, most):
    monkeypatch.setattr(recordings, most, 2)
    wanted = track(open_session(bundle, "onnxruntime-cpu", threads=1), bundle.model)
    assert_equal(track(open_fake(bundle, device), bundle.model), wanted)


@pytest.mark.parametrize("throughput", [False, True])
@pytest.mark.parametrize("prompted", [False, True])
def test_batches_before_one_that_fails_arrive(bundle, device, throughput, prompted, monkeypatch):
    """The second batch of a frame fails for good, of tracked objects or of prompted ones: no copy into freed memory, and all can go on."""
    session = open_fake(bundle, device)
    wanted = track(open_session(bundle, "onnxruntime-cpu", threads=1), bundle.model, late={})
    with Tracker(session, bundle.model, max_objects=LIMITS.objects) as tracker:
        failing = Video(tracker, held_clip(bundle.model.image_size))
        for object_id in (1, 2):
            failing.add(object_id=object_id, frame=0 if prompted else object_id, points=[(9 * object_id, 9)])
        running, fetch = failing.propagate(throughput=throughput), session.fetch
        frame = 0 if prompted else 4

        def fail(sources):
            if failing.first_open >= frame and len(fetched) % 2:
                raise EngineRunError("the second batch failed")
            fetched.append(sources)
            return fetch(sources)

        fetched = []
        monkeypatch.setattr(session, "fetch", fail)
        with pytest.raises(EngineRunError, match="the second batch failed"):
            list(running)
        monkeypatch.undo()
        assert session._pool._taken == {}
        video = Video(tracker, held_clip(bundle.model.image_size))
        prompt_all(video)
        assert_equal(list(video.propagate(throughput=throughput, keep_logits=True)), wanted[: len(wanted) // 2])


def test_what_nobody_waits_for_keeps_its_memory_until_it_has_arrived(device):
    """A promise that is dropped: its copy has somewhere to go."""
    pool, block = DownloadPool(device), device.allocate(100)
    piece = pool.take(100)
    device.copy(piece.memory.ctypes.data, block.pointer, 100)
    device.record(piece.arrived)
    del piece
    device.synchronize()


@pytest.mark.parametrize("throughput", [False, True])
def test_recordings_do_not_grow_with_the_numbers_of_objects_that_come_up(bundle, device, monkeypatch, throughput):
    """Whatever comes up twice is recorded; objects of all ages come and go, so that batches of one to four meet all kinds of memories."""
    monkeypatch.setattr(recordings, "RARE", 0)
    monkeypatch.setattr(recordings, "MOST", 12)
    session = open_fake(bundle, device)
    with Tracker(session, bundle.model, max_objects=LIMITS.objects) as tracker:
        video = Video(tracker, held_clip(bundle.model.image_size))
        prompt_all(video)
        for _ in range(3):
            for _ in video.propagate(throughput=throughput):
                kept = [tape for tape in session._recordings._tapes.values() if tape.engines]
                assert len(kept) <= 12
                assert sum(len(tape.engines) for tape in kept) <= 12 * 4
                assert sum(not recording.closed for recording in device.recordings) <= 12
    assert len(device.recordings) > 12
    assert all(recording.closed for recording in device.recordings)


def test_a_pass_that_is_left_early_leaves_the_next_one_alone(bundle, device):
    wanted = track(open_session(bundle, "onnxruntime-cpu", threads=1), bundle.model, late={})
    with Tracker(open_fake(bundle, device), bundle.model, max_objects=LIMITS.objects) as tracker:
        video = Video(tracker, held_clip(bundle.model.image_size))
        prompt_all(video)
        for frames in (1, 7, 16):
            running = video.propagate(throughput=True, keep_logits=True)
            for _ in range(frames):
                next(running)
            running.close()
        assert_equal(list(video.propagate(throughput=True, keep_logits=True)), wanted[: len(wanted) // 2])


def test_a_frame_that_was_yielded_late_cannot_be_corrected(bundle, device):
    with Tracker(open_fake(bundle, device), bundle.model) as tracker:
        video = Video(tracker, held_clip(bundle.model.image_size))
        video.add(object_id=1, points=[(20, 20)])
        for result in video.propagate(throughput=True):
            if result.frame_index == 4:
                with pytest.raises(PromptError, match="frame 4 lies behind: the pass is at frame 5; prompt one ahead"):
                    video.add(object_id=1, frame=4, points=[(10, 10)])
                with pytest.raises(PromptError, match="frame 5 lies behind"):
                    video.add(object_id=1, frame=5, points=[(10, 10)])
                video.add(object_id=2, frame=6, points=[(10, 10)])
        assert result.object_ids == (1, 2)


class TestMistakes:
    """What a session could do wrong, each as a patch: the run must not come out as if nothing had happened."""

    @pytest.fixture
    def bundle(self, tmp_path):
        return toy_model.write_bundle(tmp_path / "toy", "fp32")

    @pytest.fixture
    def wanted(self, bundle):
        return track(open_session(bundle, "onnxruntime-cpu", threads=1), bundle.model, clips=2, max_frames=8)

    @pytest.mark.usefixtures("small_ring")
    @pytest.mark.parametrize(
        ("owner", "method", "instead"),
        [
            (FakeDevice, "synchronize", lambda self: None),
            (FakeDevice, "wait", lambda self, event: None),
            (TensorRTSession, "copy", lambda self, target, source: None),
            (UploadRing, "upload", lambda self, target, source: self._device.copy(target, source.ctypes.data, source.nbytes)),
            (BoundEngine, "_borrow_workspace", lambda self: None),
            (BoundEngine, "_set_addresses", lambda self, arrays: None),
        ],
    )
    def test_that_leave_something_out_show(self, bundle, device, wanted, monkeypatch, owner, method, instead):
        monkeypatch.setattr(owner, method, instead)
        self.assert_it_shows(bundle, device, wanted)

    @pytest.mark.parametrize("method", ["_set_shapes", "_set_addresses", "_borrow_workspace", "_read_host_values"])
    def test_that_do_it_only_once_for_each_engine_show(self, bundle, device, wanted, monkeypatch, method):
        whole, done = getattr(BoundEngine, method), {}

        def once(self, *args):
            key = (id(self), *(frozenset(arg) for arg in args if method == "_set_addresses"))
            if key not in done:
                done[key] = whole(self, *args)
            return done[key]

        monkeypatch.setattr(BoundEngine, method, once)
        self.assert_it_shows(bundle, device, wanted)

    @pytest.mark.parametrize("together", [1, 3])
    @pytest.mark.parametrize(
        "where", ["encode: after uploaded", "encode: after tracked", "upload: after encoded", "after encoded", "after fetched"]
    )
    def test_lanes_that_are_not_ordered_show(self, bundle, monkeypatch, where, together):
        """Each of the five places where lanes meet, left out: some schedule must tell."""
        wanted = track(open_session(bundle, "onnxruntime-cpu", threads=1), bundle.model, late={})
        session_after, (lane, event) = TensorRTSession.after, (where.split(": ") if ": " in where else ("track", where))

        def after(self, asked):
            slots = [slot for steps in open_steps for slot in steps.slots]
            left_out = any(asked is getattr(slot, event.removeprefix("after ")) for slot in slots)
            if not (left_out and self._lane.name.lower() == lane):
                session_after(self, asked)

        open_steps, steps_init = [], Steps.__init__

        def init(self, *args, **options):
            steps_init(self, *args, **options)
            open_steps.append(self)

        monkeypatch.setattr(Steps, "__init__", init)
        monkeypatch.setattr(TensorRTSession, "after", after)
        seen = 0
        for schedule in SCHEDULES.values():
            try:
                session = open_fake(bundle, FakeDevice(**schedule), replace(LIMITS, frames=together))
                assert_equal(track(session, bundle.model, late={}, throughput=True), wanted)
            except (GpuMisuseError, TrtTrackError, AssertionError):
                seen += 1
        assert seen

    @staticmethod
    def assert_it_shows(bundle, device, wanted):
        with pytest.raises((GpuMisuseError, TrtTrackError, AssertionError)):
            assert_equal(track(open_fake(bundle, device), bundle.model, clips=2, max_frames=8), wanted)
