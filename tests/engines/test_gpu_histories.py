"""Objects that come and go as they like on a fake GPU: in the end a frame is one launch for the encoder and one for each batch."""

from collections import Counter

import pytest
import toy_model
from fake_gpu import FakeDevice
from fake_tensorrt import FakeEngine, FakeTensorRT
from histories import FRAMES, OBJECTS, blank_clip, histories, memories_of, pointers_of, prompt
from hypothesis import given, settings

from trt_track.engines import recordings
from trt_track.engines.session import Lane
from trt_track.engines.tensorrt_session import TensorRTSession
from trt_track.runtime.tracker import Tracker, Video
from trt_track.specs import Limits

PASSES = 5
"""Each of two slots meets every batch twice in four: it is prepared, then recorded."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return toy_model.write_bundle(tmp_path_factory.mktemp("histories") / "toy", "fp16")


def open_idle(bundle, device):
    """Open a session whose engines find nothing."""
    profiles = toy_model.write_engines(bundle, Limits(objects=OBJECTS, video_wh=(40, 30)))
    engines = {
        name: FakeEngine(spec, profiles[name], lambda inputs, spec=spec: {tensor.name: 0 for tensor in spec.outputs}, bytes_per_object=100)
        for name, spec in bundle.specs.items()
    }
    return TensorRTSession(bundle, device=device, tensorrt=FakeTensorRT(device, engines))


def batches_of(events):
    """Return the number of batches on each frame, None where something is prompted."""
    starts, found = {}, []
    for frame in range(FRAMES):
        told = events.get(frame, [])
        for kind, object_id in told:
            if kind == "remove":
                del starts[object_id]
            else:
                starts.setdefault(object_id, frame)
        keys = {(len(memories_of(0, start, frame)), len(pointers_of(0, start, frame))) for start in starts.values()}
        found.append(None if any(kind != "remove" for kind, _ in told) else len(keys))
    return found


def track(video, logs):
    """Track to the end and return copies of what the logs got on each frame. No result is held when it returns."""
    asked = []
    for log in logs:
        log.clear()
    for _ in video.propagate():
        asked.append(tuple(map(list, logs)))
        for log in logs:
            log.clear()
    return asked


@settings(deadline=None, max_examples=3)
@given(events=histories())
def test_a_frame_is_one_launch_for_the_encoder_and_one_for_each_batch(bundle, events):
    device = FakeDevice()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recordings, "RARE", 0)
        patch.setattr(recordings, "MOST", 1000)
        with Tracker(open_idle(bundle, device), bundle.model, max_objects=OBJECTS) as tracker:
            video = Video(tracker, blank_clip(bundle.model.image_size))
            prompt(video, events)
            logs, asked = (device.log, tracker.session._tensorrt.log), []
            for _ in range(PASSES):
                asked = track(video, logs)
    assert len(asked) == FRAMES
    for batches, (on_device, in_contexts) in zip(batches_of(events), asked, strict=True):
        assert not {call[0] for call in on_device} & {"allocate", "pinned", "event", "capture"}
        if batches is not None:
            launches = [lane for call, lane in (call for call in on_device if call[0] == "launch")]
            assert launches == [Lane.ENCODE] * bool(batches) + [Lane.TRACK] * batches
            assert in_contexts == []
            copies = bool(batches) + batches * (1 + 3)  # the frame, then for each batch its indices, masks, predicted IoU and presence
            assert Counter(call[0] for call in on_device)["copy"] == copies
