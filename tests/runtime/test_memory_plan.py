"""What tracking takes, added up before, against what is allocated; and what is chosen for a GPU."""

import json
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from fake_session import FakeSession
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_track.engines.engine_record import EngineRecord
from trt_track.engines.file_record import FileRecord
from trt_track.engines.host_memory import MemoryState
from trt_track.engines.profiles import Profile
from trt_track.errors import BackendError, DeviceMemoryError, ModelError
from trt_track.runtime.batch_size import BatchSize
from trt_track.runtime.detection_stage import detect_clip
from trt_track.runtime.detections import DetectionWriter, read_detections
from trt_track.runtime.engine_memory import (
    OBJECT_BATCHES,
    EngineFigures,
    detector_figures,
    known_detectors,
    known_models,
    measured_figures,
    recorded_figures,
)
from trt_track.runtime.frames import Frame, VideoInfo
from trt_track.runtime.held_clip import HeldClip
from trt_track.runtime.known_gpus import known_gpu
from trt_track.runtime.memory_plan import (
    CONTEXT_BYTES,
    RECORDINGS_BYTES,
    TrackingTask,
    fitting_task,
    halved,
    plan_memory,
    told_bytes,
)
from trt_track.runtime.memory_plan_choice import Wish, detector_choices, tracking_choices
from trt_track.runtime.steps import Steps
from trt_track.specs import GRAPHS, Limits, ModelSpec, graph_specs

GIB = 1 << 30


class CountingSession(FakeSession):
    """Counts the bytes of its arrays; what it works in takes some bytes an object where `per_object` is set."""

    per_object = None
    free = 0
    nbytes = 0

    def empty(self, shape, dtype):
        array = super().empty(shape, dtype)
        self.nbytes += array.nbytes
        return array

    def work_space(self, sizes):
        return None if self.per_object is None else self.per_object * sizes["B"]

    def memory(self):
        return MemoryState(0, 0, self.free)


@settings(deadline=None, max_examples=60)
@given(
    size=st.sampled_from([32, 64, 96, 128]),
    channels=st.sampled_from([8, 16, 64]),
    batch=st.integers(1, 9),
    objects=st.integers(1, 9),
    video_wh=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    memories=st.integers(1, 12),
    overlaps=st.booleans(),
)
def test_steps_allocate_what_is_planned(size, channels, batch, objects, video_wh, memories, overlaps):
    model = ModelSpec("any", size, embed_channels=channels, memory_channels=8)
    session = CountingSession(max_batch=batch, model=model)
    session.overlaps = overlaps
    limits = Limits(objects=objects, memories=memories)
    steps = Steps(session, model, limits, video_wh)
    task = TrackingTask(session.specs, model, limits, steps.batch, video_wh)
    assert steps.batch == min(batch, objects)
    assert session.nbytes == sum(task.buffer_bytes(2 if overlaps else 1).values())


@pytest.mark.parametrize("name_size", known_models())
@pytest.mark.parametrize("video_wh", [(640, 360), (1920, 1080)])
def test_the_parts_of_a_plan_add_up(name_size, video_wh):
    model = ModelSpec(*name_size)
    task = TrackingTask(graph_specs(model, "float16"), model, Limits(objects=4), 4, video_wh)
    engines = measured_figures(*name_size, sm=89, objects=4)
    plan = plan_memory(task, engines)
    weights = sum(figures.weights for figures in engines.values())
    spaces = engines["image_encoder"].activation + max(engines[name].activation for name in GRAPHS if name != "image_encoder")
    buffers = sum(task.buffer_bytes().values())
    assert plan.total_bytes == weights + spaces + buffers + CONTEXT_BYTES + RECORDINGS_BYTES
    assert plan.pinned_bytes == sum(part.nbytes for part in plan.parts) - plan.total_bytes > 0
    assert len({part.name for part in plan.parts}) == len(plan.parts)
    assert all(part.reason for part in plan.parts)


@pytest.mark.parametrize("sm", [75, 86, 89, 120])
@pytest.mark.parametrize("name_size", known_models())
def test_more_objects_take_more(name_size, sm):
    needs = [measured_figures(*name_size, sm=sm, objects=objects) for objects in range(1, 17)]
    for fewer, more in pairwise(needs):
        assert fewer.keys() == more.keys() == set(GRAPHS)
        assert fewer["image_encoder"] == more["image_encoder"]
        assert fewer["memory_attention"].activation <= more["memory_attention"].activation
    assert needs[-1]["memory_attention"].activation > 3 * needs[1]["memory_attention"].activation


def test_every_published_model_is_in_the_table():
    expected = {(f"sam2.1-hiera-{size}", 1024) for size in ("tiny", "small", "base-plus", "large")}
    assert set(known_models()) == expected | {("sam2.1-hiera-tiny", 512), ("pico", 256)}
    assert measured_figures("sam2-hiera-large", 1024, sm=89, objects=4) == measured_figures("sam2.1-hiera-large", 1024, sm=89, objects=4)
    assert {name for name, _ in known_detectors()} == {"grounding-dino-tiny", "grounding-dino-base"}
    assert set(detector_figures("grounding-dino-tiny", "800x1333", sm=89)) == {"text_encoder", "detector"}


@pytest.mark.parametrize("name_size", known_models())
@pytest.mark.parametrize("sm", [75, 89])
def test_what_is_estimated_for_fewer_objects_is_no_less_than_what_was_measured(name_size, sm):
    most = measured_figures(*name_size, sm=sm, objects=16)
    records = {
        graph: engine_record(graph, 16, weights_bytes=figures.weights, activation_bytes=figures.activation)
        for graph, figures in most.items()
    }
    for objects in OBJECT_BATCHES:
        estimated, measured = recorded_figures(records, objects), measured_figures(*name_size, sm=sm, objects=objects)
        two = measured_figures(*name_size, sm=sm, objects=2)
        for graph in GRAPHS:
            if objects == 1 and measured[graph] == two[graph]:
                continue  # TensorRT refuses to build it for a single object, so those for two stand in
            assert measured[graph].activation <= estimated[graph].activation <= 1.1 * measured[graph].activation + (40 << 20)


@pytest.mark.parametrize("asked", [("sam2.1-hiera-large", 512), ("mine", 1024)])
def test_a_model_that_was_not_measured_is_an_error(asked):
    with pytest.raises(ModelError, match=r"was not measured: choose one of .*pico at 256 px"):
        measured_figures(*asked, sm=89, objects=1)


def engine_record(graph, objects=8, **told):
    return EngineRecord(graph, FileRecord("f", "", 0), "", Profile({}, {}), Limits(objects=objects), 1.0, "log", **told)


def test_engines_of_a_bundle_tell_their_own_figures():
    told = {"weights_bytes": 100, "activation_bytes": 8 * GIB}
    records = {graph: engine_record(graph, **told) for graph in GRAPHS}
    assert recorded_figures(records, 8) == dict.fromkeys(GRAPHS, EngineFigures(100, 8 * GIB))
    half = recorded_figures(records, 4)
    assert half["image_encoder"] == EngineFigures(100, 8 * GIB)
    assert half["mask_decoder"] == EngineFigures(100, int(4.2 * GIB) + (32 << 20))  # in proportion, and a margin
    assert recorded_figures(records, 9) is None  # more than they were built for
    assert recorded_figures({**records, "mask_prompt": engine_record("mask_prompt")}, 4) is None  # from before they were noted
    assert recorded_figures({}, 1) is None


@pytest.mark.parametrize(
    ("per_object", "free", "batch"),
    [(None, 0, 16), (1, GIB, 16), (GIB, 40 * GIB, 16), (GIB, 10 * GIB, 8), (GIB, 3 * GIB, 2), (GIB, GIB // 2, 1), (GIB, 0, 1)],
)
def test_a_batch_is_halved_until_it_fits(per_object, free, batch, caplog):
    session = CountingSession(max_batch=16)
    session.per_object, session.free = per_object, free
    task = TrackingTask(session.specs, session.model, Limits(), 16, (64, 36))
    assert fitting_task(session, task) == replace(task, batch=batch)
    assert len(caplog.records) == (batch < 16)
    if batch < 16:
        assert f"in batches of {batch} instead of 16, which need 16." in caplog.text
        assert f"{told_bytes(free)} are free" in caplog.text
    smaller = replace(task, batch=3)
    assert fitting_task(session, smaller).batch in {3, 2, 1}
    caplog.clear()
    assert fitting_task(session, replace(task, batch=1)).batch == 1
    assert not caplog.records


@pytest.mark.parametrize(("free", "frames", "batch"), [(40, 8, 4), (20, 4, 4), (9, 2, 4), (5, 1, 4), (3, 1, 2), (0, 1, 1)])
def test_fewer_frames_are_encoded_at_once_before_batches_get_smaller(free, frames, batch, caplog):
    session = CountingSession(max_batch=16)
    session.work_space = lambda sizes: sizes["F"] * sizes["B"] * GIB
    session.free = free * GIB
    task = TrackingTask(session.specs, session.model, Limits(objects=4), 4, (64, 36), frames=8)
    assert fitting_task(session, task) == replace(task, frames=frames, batch=batch)
    assert ("frames are encoded in batches of" in caplog.text) == (frames < 8)
    assert ("objects are tracked in batches of" in caplog.text) == (batch < 4)


def test_halves_end_at_one():
    assert [halved(batch) for batch in (16, 8, 5, 3, 2)] == [8, 4, 3, 2, 1]


@pytest.mark.parametrize("nbytes_told", [(0, "0 MiB"), (120 << 20, "120 MiB"), (int(7.4 * GIB), "7.4 GiB"), (GIB, "1.0 GiB")])
def test_bytes_are_told_as_people_read_them(nbytes_told):
    assert told_bytes(nbytes_told[0]) == nbytes_told[1]


class TestChoice:
    @pytest.fixture(autouse=True)
    def library(self, tmp_path, monkeypatch):
        monkeypatch.setenv("TRT_TRACK_CACHE", str(tmp_path))

    def choose(self, gib, **wish):
        return tracking_choices(Wish(**{"video_wh": (1920, 1080), **wish}), free_bytes=int(gib * GIB), sm=89)

    def test_the_largest_model_with_16_objects_fits_an_8_gb_card(self):
        fitting, too_large = tracking_choices(Wish((1920, 1080), objects=16), free_bytes=known_gpu("RTX 4060").free_bytes, sm=89)
        assert (fitting[0].model, fitting[0].size, fitting[0].batch) == ("sam2.1-hiera-large", 1024, 16)
        assert fitting[0].plan.total_bytes < known_gpu("RTX 4060").free_bytes
        assert too_large == []
        assert [(one.model, one.size) for one in fitting] == [
            *((f"sam2.1-hiera-{size}", 1024) for size in ("large", "base-plus", "small", "tiny")),
            ("sam2.1-hiera-tiny", 512),
            ("pico", 256),
        ]

    @pytest.mark.parametrize("gib", [0.3, 0.9, 1.4, 2, 3, 4, 6, 8, 24])
    @pytest.mark.parametrize("objects", [None, 1, 5, 16, 40])
    def test_what_is_chosen_fits_and_the_next_batch_does_not(self, gib, objects):
        fitting, too_large = self.choose(gib, objects=objects)
        free = int(gib * GIB)
        assert all(one.plan.total_bytes <= free for one in fitting)
        assert all(one.plan.total_bytes > free for one in too_large)
        chosen = {(one.model, one.size): one for one in fitting}
        for one in too_large:
            smaller = chosen.get((one.model, one.size))
            batches = sorted({min(objects or 16, 16), *OBJECT_BATCHES})
            assert one.batch == (1 if smaller is None else batches[batches.index(smaller.batch) + 1])
        for one in fitting:
            assert one.objects == (objects or one.batch)
            assert one.batch <= min(one.objects, 16)

    def test_more_objects_than_a_batch_take_a_larger_bank_alone(self):
        few, many = (self.choose(24, objects=objects, model="pico")[0][0] for objects in (16, 64))
        parts = [{part.name: part.nbytes for part in choice.plan.parts} for choice in (few, many)]
        assert {name for name in parts[0] if parts[0][name] != parts[1][name]} == {"bank", "downloads"}
        assert parts[1]["bank"] == 4 * parts[0]["bank"]

    @pytest.mark.parametrize(
        ("wish", "message"),
        [
            ({"model": "mine"}, "what mine takes was not measured"),
            ({"model": "sam2.1-hiera-large", "size": 512}, "sam2.1-hiera-large at 512 px takes was not measured"),
            ({"size": 300}, "any model at 300 px"),
        ],
    )
    def test_what_is_not_known_is_an_error(self, wish, message):
        with pytest.raises(ModelError, match=message):
            self.choose(8, **wish)

    def test_a_detector_has_the_memory_to_itself(self):
        fitting, too_large = detector_choices(None, free_bytes=24 * GIB, sm=89)
        assert (fitting[0].detector, fitting[0].frame, too_large) == ("grounding-dino-base", "800x1333", [])
        assert detector_choices("grounding-dino-tiny", free_bytes=GIB // 10, sm=89)[0] == []
        assert detector_choices("grounding-dino-tiny", free_bytes=GIB // 10, sm=89)[1][0].batch == 1
        with pytest.raises(ModelError, match=r"what yolo takes was not measured: choose one of .*grounding-dino-tiny"):
            detector_choices("yolo", free_bytes=GIB, sm=89)

    @pytest.mark.parametrize("sm", [75, 89])
    @pytest.mark.parametrize("gib", [2, 3, 6, 8, 12, 24, 80])
    def test_a_detector_gets_the_batch_that_detection_will_make(self, gib, sm):
        """One frame first; then as many as half of what is left has room for."""
        for one in detector_choices(None, free_bytes=gib * GIB, sm=sm)[0]:
            parts = {part.name: part.nbytes for part in one.plan.parts}
            frame = (parts["work space"] + parts["buffers"]) / one.batch  # the prompt's share is small
            left = gib * GIB - one.plan.total_bytes + (one.batch - 1) * frame
            assert one.plan.total_bytes <= gib * GIB
            assert one.batch == 16 or 0.97 * left < 2 * (one.batch + 1) * frame
            assert one.batch == 1 or 2 * one.batch * frame < 1.03 * left
            assert 1 <= one.batch <= 16

    def test_more_memory_means_larger_batches_of_frames(self):
        batches = [detector_choices("grounding-dino-tiny", free_bytes=gib * GIB, sm=89)[0][0].batch for gib in (2, 4, 8, 16, 40)]
        assert batches == sorted(batches)
        assert batches[0] == 1
        assert batches[-1] == 16


@pytest.mark.parametrize(
    ("name", "known", "gib"),
    [
        ("RTX 4060", "RTX 4060", 8),
        ("NVIDIA GeForce RTX 4060", "RTX 4060", 8),
        ("rtx-4060-ti 16gb", "RTX 4060 Ti 16GB", 16),
        ("Tesla T4", "T4", 15),
        ("a100", "A100 40GB", 40),
        ("5090", None, None),
        ("Voodoo 2", None, None),
        ("", None, None),
    ],
)
def test_gpus_are_known_by_their_names(name, known, gib):
    if known is None:
        with pytest.raises(BackendError, match="is not in the table: say how much of its memory is free"):
            known_gpu(name)
        return
    gpu = known_gpu(name)
    assert (gpu.name, gpu.total_bytes) == (known, gib * GIB)
    assert 0.9 * gpu.total_bytes <= gpu.free_bytes <= 0.95 * gpu.total_bytes


@dataclass
class ShortDetector:
    """Has memory for so many frames at once."""

    room: int
    min_batch: int = 1
    max_batch: int = 8
    device: str = "CPU"

    def __post_init__(self):
        self.batches = []

    def detect(self, frames_rgb):
        self.batches.append(len(frames_rgb))
        if len(frames_rgb) > self.room:
            raise DeviceMemoryError("3 MiB asked for")
        return [() for _ in frames_rgb]

    def memory(self):
        return MemoryState(held=0, peak=1 << 20, available=GIB)


class TestDetection:
    FRAMES = 21

    def detect(self, detector, tmp_path):
        picture = np.zeros((32, 32, 3), np.uint8)
        clip = HeldClip(
            VideoInfo("held", 32, 32, self.FRAMES, Fraction(25), 0, Path("held")),
            tuple(Frame(index, index / 25, picture, picture) for index in range(self.FRAMES)),
        )
        path = tmp_path / "found.jsonl"
        with DetectionWriter(path, {}) as writer:
            detect_clip(clip, detector, range(self.FRAMES), writer)
        return [one.frame for one in read_detections(path).frames]

    @pytest.mark.parametrize(("room", "batches"), [(8, [1, 8]), (7, [1, 8, 4]), (4, [1, 8, 4]), (3, [1, 8, 4, 2]), (1, [1, 8, 4, 2, 1])])
    def test_batches_get_smaller_where_memory_is_short(self, tmp_path, caplog, room, batches):
        detector = ShortDetector(room)
        assert self.detect(detector, tmp_path) == list(range(self.FRAMES))
        assert detector.batches[: len(batches)] == batches
        assert set(detector.batches[len(batches) :]) <= set(range(1, batches[-1] + 1))
        assert sum(size for size in detector.batches if size <= room) == self.FRAMES
        assert len(caplog.records) == sum(size > room for size in detector.batches)

    def test_a_frame_that_does_not_fit_is_an_error(self, tmp_path):
        with pytest.raises(DeviceMemoryError):
            self.detect(ShortDetector(0), tmp_path)


def test_a_batch_that_a_model_fixes_cannot_step_down():
    size = BatchSize(4, 4, lambda: None)
    assert not size.step_down(4)
    assert size.frames == 4


def test_the_table_states_what_made_it():
    from trt_track.runtime.engine_memory import ENGINE_MEMORY

    table = json.loads(ENGINE_MEMORY.read_text(encoding="utf-8"))
    assert table["made_by"] == "python benchmarks/engine_memory.py"
    assert np.all([row["weights_bytes"] > 0 and row["activation_bytes"] >= 0 for row in table["engines"]])
