"""What tracking allocates on the fake GPU, byte for byte, and what happens when that is not there."""

import logging
from dataclasses import replace

import pytest
import toy_model
from fake_gpu import FakeDevice
from test_gpu_loop import FRAMES, LIMITS, assert_equal, held_clip, open_fake, track

from trt_track.engines.backends import open_session
from trt_track.engines.device_memory import Gpu
from trt_track.engines.engine_record import EngineFolder, EngineRecord
from trt_track.engines.session import Lane
from trt_track.engines.tensorrt_builder import _told_memory
from trt_track.errors import DeviceMemoryError, ModelError
from trt_track.runtime.engine_memory import EngineFigures
from trt_track.runtime.memory_plan import CONTEXT_BYTES, RECORDINGS_BYTES, TrackingTask, plan_memory
from trt_track.runtime.memory_plan_choice import Wish, tracking_choices
from trt_track.runtime.steps import Steps
from trt_track.runtime.tracker import Tracker, Video
from trt_track.specs import Limits

VIDEOS = [(53, 37), (200, 100), (1, 1), (64, 199)]


class SmallGpu(FakeDevice):
    """A GPU whose memory ends: `budget` is what may be allocated in all."""

    budget = 8 << 30

    @property
    def held(self):
        return sum(block.nbytes for block in self.live.values())

    def allocate(self, nbytes, lane=Lane.TRACK):
        if self.held + nbytes > self.budget:
            raise DeviceMemoryError(f"{nbytes} bytes asked for, {self.budget - self.held} are free")
        return super().allocate(nbytes, lane)


@pytest.fixture
def bundle(tmp_path):
    return toy_model.write_bundle(tmp_path / "toy", "fp16")


def prompt_four(video):
    """Four objects of one age, so that they are one batch; later one is corrected, one goes and another one comes."""
    for object_id in range(1, 5):
        video.add(object_id=object_id, points=[(9 * object_id, 5 * object_id)])
    video.add(object_id=2, frame=12, points=[(3, 3)], labels=[0])
    video.remove(object_id=3, frame=20)
    video.add(object_id=5, frame=20, box=(3, 3, 30, 30))


def task_of(bundle, batch=LIMITS.objects, video_wh=(53, 37), limits=LIMITS):
    return TrackingTask(bundle.specs, bundle.model, Limits(objects=limits.objects), batch, video_wh)


@pytest.mark.parametrize("video_wh", VIDEOS)
@pytest.mark.parametrize("objects", [1, 2, 5, 16])
def test_steps_allocate_what_is_planned(bundle, video_wh, objects):
    device, limits = FakeDevice(), Limits(objects=objects, video_wh=(200, 200))
    session = open_fake(bundle, device, limits)
    device.log.clear()
    Steps(session, bundle.model, Limits(objects=objects), video_wh)
    task = task_of(bundle, objects, video_wh, limits)
    spaces = sum(space.nbytes for space in session._workspaces.values())
    assert sum(nbytes for kind, *(nbytes,) in allocations(device)) == sum(task.buffer_bytes().values()) + spaces
    assert spaces == session._needs(task.sizes())[Lane.TRACK] > 0
    # One ring of two halves for what is uploaded now; frames have another one, as they go on a lane of their own.
    rings = next(part.nbytes for part in plan_memory(task, figures(session, task)).parts if part.name == "uploads")
    assert 2 * sum(call[1] for call in device.log if call[0] == "pinned") == rings


def allocations(device):
    return [call for call in device.log if call[0] == "allocate"]


def figures(session, task):
    """What the fake engines take: no weights, and work space by the object."""
    return {graph: EngineFigures(0, engine.needed_bytes(task.sizes())) for (graph, _), engine in session._graphs.items()}


@pytest.mark.parametrize("options", [{}, {"throughput": True}])
def test_tracking_takes_what_is_planned_and_no_more(bundle, options):
    device = FakeDevice()
    session = open_fake(bundle, device, LIMITS)
    task = task_of(bundle)
    plan = plan_memory(task, figures(session, task))
    parts = {part.name: part.nbytes for part in plan.parts}
    on_gpu = plan.total_bytes - parts["CUDA"] - parts["recordings"]
    with Tracker(session, bundle.model, max_objects=LIMITS.objects) as tracker:
        video = Video(tracker, held_clip(bundle.model.image_size))
        for object_id in range(1, 5):
            video.add(object_id=object_id, points=[(9 * object_id, 5 * object_id)])
        held = list(video.propagate(**options))
        assert sum(block.nbytes for block in device.live.values()) == on_gpu
        assert {lane: space.nbytes for lane, space in session._workspaces.items() if space.nbytes} == {
            Lane.TRACK: parts["work space of the others"]
        }
        assert session.work_space(task.sizes()) == 0  # nothing is missing
    assert len(held) == FRAMES
    pinned = sum(call[1] for call in device.log if call[0] == "pinned")
    assert parts["uploads"] < pinned <= plan.pinned_bytes


def prompt_two_and_two(video):
    """Two pairs, which become one batch when both have a full memory: by then their frames are recorded."""
    for object_id in range(1, 5):
        video.add(object_id=object_id, frame=0 if object_id < 3 else 3, points=[(9 * object_id, 5 * object_id)])


def wanted_tracks(bundle, batch, prompt=prompt_four):
    """ONNX Runtime rounds a single object's arithmetic differently, so the same batches are compared."""
    session = open_session(bundle, "onnxruntime-cpu", threads=1)
    session.max_batch = batch
    return track(session, bundle.model, prompt=prompt, late={})


def tracks_within(bundle, device, work_space, prompt=prompt_four, **options):
    """Track with so many bytes of work space; return results and the batch at the end."""
    session = open_fake(bundle, device, LIMITS)
    results = []
    with Tracker(session, bundle.model, max_objects=LIMITS.objects) as tracker:
        device.budget = device.held + sum(task_of(bundle).buffer_bytes().values()) + work_space
        for _ in range(2):  # the second time everything was there before
            video = Video(tracker, held_clip(bundle.model.image_size))
            prompt(video)
            results += video.propagate(keep_logits=True, **options)
        (steps,) = (idle[0] for idle in tracker._idle.values())
        return results, steps.batch


@pytest.mark.parametrize("reuses_addresses", [False, True])
@pytest.mark.parametrize("throughput", [False, True])
@pytest.mark.parametrize(
    ("work_space", "batch"),
    [(20_000, 4), (19_999, 2), (12_000, 2), (11_999, 2), (10_000, 2), (9_999, 1), (5_000, 1)],
)
def test_smaller_batches_give_the_same_tracks(bundle, caplog, work_space, batch, reuses_addresses, throughput):
    """Engines take up to 5,000 bytes an object, the last one of a frame most: the batch fails when its memories are written already."""
    device = SmallGpu(reuses_addresses=reuses_addresses)
    found, last = tracks_within(bundle, device, work_space, throughput=throughput)
    assert last == batch
    assert_equal(found, wanted_tracks(bundle, batch))
    told = [record.message for record in caplog.records if "from here on" in record.message]
    assert len(told) == {4: 0, 2: 1, 1: 2}[batch]
    assert all(record.levelno == logging.WARNING for record in caplog.records)


@pytest.mark.parametrize("reuses_addresses", [False, True])
@pytest.mark.parametrize("throughput", [False, True])
@pytest.mark.parametrize("work_space", [10_000, 12_000, 19_999])
def test_a_batch_that_fails_late_is_done_again_in_parts(bundle, caplog, work_space, reuses_addresses, throughput):
    device = SmallGpu(reuses_addresses=reuses_addresses)
    found, last = tracks_within(bundle, device, work_space, prompt_two_and_two, throughput=throughput)
    assert last == 2
    assert_equal(found, wanted_tracks(bundle, 2, prompt_two_and_two))
    assert len([record for record in caplog.records if "from here on" in record.message]) == 1
    assert ("launch", Lane.TRACK) in device.log


@pytest.mark.parametrize(("room_for", "missing", "batch"), [(4, 0, 4), (4, 1, 2), (2, 1, 1)])
def test_buffers_that_do_not_fit_are_made_for_fewer_objects(bundle, caplog, room_for, missing, batch):
    """What was allocated of the larger ones is gone."""
    device = SmallGpu()
    session = open_fake(bundle, device, LIMITS)
    held, events = device.held, len(device.events)
    device.budget = held + sum(task_of(bundle, room_for).buffer_bytes().values()) - missing
    steps = Steps(session, bundle.model, Limits(objects=LIMITS.objects), (53, 37))
    assert steps.batch == len(steps.conditioned) == batch
    spaces = sum(space.nbytes for space in session._workspaces.values())
    assert device.held - held - spaces == sum(task_of(bundle, batch).buffer_bytes().values())
    assert ("buffers are made for 1 frames and 2 objects at once, memory for 1 and 4 is short" in caplog.text) == (batch < 4)
    steps.close()
    assert device.held == held + spaces
    assert len(device.events) == events + 2  # of the ring that uploads go through


def test_fewer_frames_are_given_room_before_fewer_objects(bundle):
    device = SmallGpu()
    session = open_fake(bundle, device, replace(LIMITS, frames=4))
    needed = sum(replace(task_of(bundle), frames=2).buffer_bytes().values())
    device.budget = device.held + needed
    steps = Steps(session, bundle.model, Limits(objects=LIMITS.objects), (53, 37))
    assert (steps.frames, steps.batch) == (2, 4)
    assert len(steps.slots) == 4


def test_no_room_for_a_single_object_is_an_error_that_leaves_nothing_behind(bundle):
    device = SmallGpu()
    session = open_fake(bundle, device, LIMITS)
    device.budget = device.held + sum(task_of(bundle, 1).buffer_bytes().values()) - 1
    held = device.held
    with pytest.raises(DeviceMemoryError, match="bytes asked for"):
        Steps(session, bundle.model, Limits(objects=LIMITS.objects), (53, 37))
    assert device.held == held


@pytest.mark.parametrize("options", [{}, {"throughput": True}])
def test_memory_does_not_grow_with_the_sizes_of_videos(bundle, options):
    """Ten sizes and back to the first, each long enough to be recorded: buffers, events and contexts of the last one are all there is."""
    device = FakeDevice()
    session = open_fake(bundle, device, LIMITS)
    sizes = [(20 + 7 * number, 15 + 5 * number) for number in (9, *range(9), 9)]
    held = []
    with Tracker(session, bundle.model, max_objects=LIMITS.objects) as tracker:
        for video_wh in sizes:
            video = Video(tracker, held_clip(bundle.model.image_size, video_wh))
            video.add(object_id=1, points=[(9, 9)])
            assert len(list(video.propagate(**options))) == FRAMES
            contexts = sum(len(tape.engines) for tape in session._recordings._tapes.values())
            assert contexts > 0
            held.append((sum(block.nbytes for block in device.live.values()), len(device.events), contexts))
    assert held[0] == held[-1] == tuple(map(max, *held))


@pytest.mark.parametrize("options", [{}, {"throughput": True}])
def test_a_first_pass_allocates_nothing_but_while_it_begins(bundle, options):
    """Three results are on their way or held at once; the rest is there before the first frame, however many memories there are later."""
    device = FakeDevice()
    session = open_fake(bundle, device, LIMITS)
    with Tracker(session, bundle.model, max_objects=LIMITS.objects) as tracker:
        video = Video(tracker, held_clip(bundle.model.image_size))
        for object_id in range(1, 5):
            video.add(object_id=object_id, points=[(9 * object_id, 5 * object_id)])
        asked = []
        for result in video.propagate(**options):
            asked.append({call[0] for call in device.log} & {"allocate", "pinned", "event"})
            device.log.clear()
            del result
    assert asked[0] == {"allocate", "pinned", "event"}
    assert set().union(*asked[1:4]) <= {"pinned", "event"}
    assert set().union(*asked[4:]) == set()
    assert len(asked) == FRAMES


def test_one_object_that_does_not_fit_is_an_error(bundle):
    with pytest.raises(DeviceMemoryError, match="5000 bytes asked for, 4999 are free"):
        tracks_within(bundle, SmallGpu(), 4_999)


@pytest.mark.parametrize(("missing", "batch"), [(0, 4), (1, 2)])
def test_batches_fit_what_is_free_when_tracking_begins(bundle, caplog, missing, batch):
    needed = sum(task_of(bundle).buffer_bytes().values()) + 5_000 * LIMITS.objects + RECORDINGS_BYTES
    device = SmallGpu()
    device.gpu = Gpu("Fake RTX", 89, needed - missing, 8 << 30)
    session = open_fake(bundle, device, LIMITS)
    steps = Steps(session, bundle.model, Limits(objects=LIMITS.objects), (53, 37))
    assert steps.batch == batch
    assert ("in batches of 2 instead of 4, which need 64 MiB" in caplog.text) == bool(missing)
    assert len(steps.conditioned) == batch


def test_a_recording_is_not_played_in_a_work_space_that_came_back_smaller(bundle):
    """Where work space could not grow it is gone, and what comes next may take a smaller piece at the same address."""
    device = SmallGpu(reuses_addresses=True)
    session = open_fake(bundle, device, LIMITS)
    space = session._workspaces[Lane.TRACK]
    space.grow(4000)
    place = space.place
    device.budget = device.held
    with pytest.raises(DeviceMemoryError):
        space.grow(4001)
    assert space.place == (0, 0)
    space.grow(2000)
    assert space.place == (place[0], 2000) != place


@pytest.mark.parametrize("told", [False, True])
def test_a_model_of_the_library_is_planned_with_its_own_engines(tmp_path, monkeypatch, told):
    monkeypatch.setenv("TRT_TRACK_CACHE", str(tmp_path))
    bundle = toy_model.write_bundle(tmp_path / "bundles" / "toy-64-fp16", "fp16")
    toy_model.write_engines(bundle, LIMITS)
    folder = EngineFolder.at(bundle, "tensorrt-rtx", "1.2.3", "sm89")
    for record in folder.records.values() if told else ():
        folder = folder.with_record(replace(record, weights_bytes=1000, activation_bytes=1 << 30))
    wish = Wish((64, 36), objects=4, model="toy")
    if not told:  # as in a file from before
        with pytest.raises(ModelError, match="what toy takes at 64 px was not measured"):
            tracking_choices(wish, free_bytes=8 << 30, sm=89)
        return
    fitting, _ = tracking_choices(wish, free_bytes=8 << 30, sm=89)
    assert [(one.model, one.size, one.batch) for one in fitting] == [("toy", 64, 4)]
    buffers = sum(TrackingTask(bundle.specs, bundle.model, Limits(objects=4), 4, (64, 36)).buffer_bytes().values())
    assert fitting[0].plan.total_bytes == 6 * 1000 + (2 << 30) + buffers + CONTEXT_BYTES + RECORDINGS_BYTES
    with pytest.raises(ModelError):
        tracking_choices(wish, free_bytes=8 << 30, sm=75)  # there are no engines for that one


def test_the_build_log_tells_weights_and_work_space(bundle):
    log = "[INFO] Total Activation Memory: 79458304 bytes\n[INFO] Total Weights Memory: 1404160 bytes\n"
    assert _told_memory(log) == {"activation_bytes": 79458304, "weights_bytes": 1404160}
    assert _told_memory("nothing") == {}
    toy_model.write_engines(bundle, LIMITS)
    folder = EngineFolder.at(bundle, "tensorrt-rtx", "1.2.3", "sm89")
    old = folder.records["mask_prompt"].to_json()
    assert "weights_bytes" not in old  # as a file from before would be
    record = EngineRecord.from_json({**old, **_told_memory(log)})
    assert EngineRecord.from_json(record.to_json()) == record
    assert (record.weights_bytes, record.activation_bytes) == (1404160, 79458304)
    assert record.matches(folder.records["mask_prompt"])
