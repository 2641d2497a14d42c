import gc
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_graphs as tiny
from fake_gpu import FakeBlock, FakeDevice, GpuMisuseError
from fake_tensorrt import FakeEngine, FakeTensorRT

from trt_track.engines.device_memory import DeviceArray, UploadRing
from trt_track.engines.engine_record import EngineFolder, EngineRecord
from trt_track.engines.file_record import FileRecord
from trt_track.engines.host_memory import MemoryState
from trt_track.engines.profiles import graph_profile
from trt_track.engines.session import Lane
from trt_track.engines.tensorrt_door import TensorRT
from trt_track.engines.tensorrt_session import TensorRTSession
from trt_track.errors import BackendError, EngineError, EngineMismatchError, EngineRunError, TensorMismatchError
from trt_track.specs import Limits

LIMITS = Limits(objects=4, memories=8, clicks=4, video_wh=(320, 240))
PAGES = LIMITS.pages


def compute_sum(inputs):
    total = inputs["bank"][inputs["page"]].sum(axis=1)
    return {"total": np.where(inputs["negate"].reshape(-1, 1, 1, 1), -total, total)}


def compute_upscale(inputs):
    return {"mask": np.uint8(inputs["mask_logits"][:, :1, 0, 0] > 0).reshape(-1, 1, 1)}


@pytest.fixture
def bundle(tmp_path):
    bundle = tiny.write_bundle(tmp_path / "tiny", tiny.SUM, tiny.UPSCALE)
    folder = EngineFolder.at(bundle, "tensorrt-rtx", FakeTensorRT.version, "sm89")
    folder.folder.mkdir(parents=True)
    for name, spec in bundle.specs.items():
        path = folder.folder / f"{name}.engine"
        path.write_bytes(f"plan of {name}".encode())
        onnx_sha256, profile = bundle.record(name).onnx.sha256, graph_profile(spec, bundle.model, LIMITS)
        folder = folder.with_record(
            EngineRecord(name, FileRecord.of(folder.folder, path), onnx_sha256, profile, LIMITS, 0.1, f"{name}.log")
        )
    return bundle


@pytest.fixture
def device():
    return FakeDevice()


@pytest.fixture
def tensorrt(bundle, device):
    profiles = {name: graph_profile(spec, bundle.model, LIMITS) for name, spec in bundle.specs.items()}
    return FakeTensorRT(
        device,
        {
            "memory_sum": FakeEngine(tiny.SUM, profiles["memory_sum"], compute_sum, bytes_per_object=500),
            "upscale": FakeEngine(tiny.UPSCALE, profiles["upscale"], compute_upscale, bytes_per_object=700),
        },
    )


@pytest.fixture
def session(bundle, tensorrt, device):
    with TensorRTSession(bundle, device=device, tensorrt=tensorrt) as opened:
        yield opened


def uploaded(session, values):
    array = session.empty(values.shape, values.dtype.name)
    session.upload(array, values)
    return array


def sum_arrays(session, batch=2, memories=3):
    bank = np.arange(PAGES * 128, dtype=np.float16).reshape(PAGES, 8, 4, 4) % 7
    page = np.arange(batch * memories, dtype=np.int32).reshape(batch, memories)
    negate = np.arange(batch) % 2 == 1
    inputs = {"bank": uploaded(session, bank), "page": uploaded(session, page), "negate": uploaded(session, negate)}
    outputs = {"total": session.empty((batch, 8, 4, 4), "float16")}
    return inputs, outputs, compute_sum({"bank": bank, "page": page, "negate": negate})["total"]


def upscale_arrays(session, height=30, width=40):
    logits = np.float32([1, -1]).reshape(2, 1, 1, 1) * np.ones((2, 1, 8, 8), np.float32)
    inputs = {
        "mask_logits": uploaded(session, logits),
        "video_height": uploaded(session, np.array([height])),
        "video_width": uploaded(session, np.array([width])),
    }
    return inputs, {"mask": session.empty((2, height, width), "uint8")}


def test_the_fakes_fit_the_protocols(tensorrt):
    assert isinstance(tensorrt, TensorRT)


def test_a_graph_runs_on_arrays_bound_by_name(session):
    inputs, outputs, expected = sum_arrays(session)
    session.run("memory_sum", inputs, outputs)
    np.testing.assert_array_equal(session.download(outputs["total"]), expected)
    assert (session.max_batch, session.max_objects, session.max_frames, session.max_video_side) == (4, 4, 1, 320)
    assert session.memory() == MemoryState(held=0, peak=0, available=8 << 30)
    assert (session.version, session.device) == ("1.2.3", "Fake RTX")
    assert session.backend == "tensorrt-rtx"
    assert list(session.specs) == ["memory_sum", "upscale"]


def test_all_contexts_share_one_work_space_that_grows_with_need(session, tensorrt, device):
    sums, upscales = sum_arrays(session, batch=2), upscale_arrays(session)
    memory, upscale = (tensorrt.contexts[name] for name in ("memory_sum", "upscale"))
    session.run("memory_sum", *sums[:2])
    assert device.live[memory.memory].nbytes == 2 * 500
    session.run("upscale", *upscales)
    assert device.live[upscale.memory].nbytes == 2 * 700
    assert memory.memory not in device.live, "the smaller one is gone"
    session.run("memory_sum", *sums[:2])
    assert memory.memory == upscale.memory
    assert memory.memory in device.live
    tensorrt.log.clear()
    small = sum_arrays(session, batch=1)
    session.run("memory_sum", *small[:2])
    session.run("upscale", *upscales)
    assert device.live[upscale.memory].nbytes == 2 * 700
    np.testing.assert_array_equal(session.download(small[1]["total"]), small[2])


def test_the_steady_state_only_enqueues(session, tensorrt):
    inputs, outputs, _ = sum_arrays(session)
    session.run("memory_sum", inputs, outputs)
    tensorrt.log.clear()
    session.run("memory_sum", inputs, outputs)
    assert tensorrt.log == [("memory_sum", "run")]


def test_a_new_shape_or_address_is_bound_before_the_run(session, tensorrt):
    inputs, outputs, _ = sum_arrays(session)
    session.run("memory_sum", inputs, outputs)
    tensorrt.log.clear()
    other = {"total": session.empty((2, 8, 4, 4), "float16")}
    session.run("memory_sum", inputs, other)
    assert tensorrt.log == [("memory_sum", "address", "total"), ("memory_sum", "run")]
    tensorrt.log.clear()
    session.run("memory_sum", {**inputs, "page": inputs["page"][:1], "negate": inputs["negate"][:1]}, {"total": outputs["total"][1:]})
    kinds = [call[1] for call in tensorrt.log]
    assert kinds == ["shape", "shape", "shape", "infer", "size", "memory", "address", "run"]
    assert ("memory_sum", "shape", "page", (1, 3)) in tensorrt.log


def test_sizes_may_change_and_change_back(session):
    large, small = sum_arrays(session, batch=3, memories=2), sum_arrays(session, batch=1, memories=5)
    for inputs, outputs, expected in (large, small, large, small):
        session.upload(outputs["total"], np.zeros_like(expected))
        session.run("memory_sum", inputs, outputs)
        np.testing.assert_array_equal(session.download(outputs["total"]), expected)


def test_row_views_reach_the_right_memory(session):
    inputs, _, expected = sum_arrays(session)
    many = session.empty((5, 8, 4, 4), "float16")
    session.run("memory_sum", inputs, {"total": many[2:4]})
    got = session.download(many)
    np.testing.assert_array_equal(got[2:4], expected)
    assert not got[:2].any()
    assert not got[4:].any()
    session.copy(many[0], many[3])
    np.testing.assert_array_equal(session.download(many[0]), expected[1])
    np.testing.assert_array_equal(session.download(many[-5]), expected[1])


def test_sizes_that_shapes_depend_on_stay_on_the_host(session, tensorrt):
    inputs, outputs = upscale_arrays(session)
    session.run("upscale", inputs, outputs)
    mask = session.download(outputs["mask"])
    assert mask.shape == (2, 30, 40)
    assert mask[0].all()
    assert not mask[1].any()
    tensorrt.log.clear()
    session.upload(inputs["video_height"], np.array([31]))
    larger = {"mask": session.empty((2, 31, 40), "uint8")}
    session.run("upscale", inputs, larger)
    assert session.download(larger["mask"])[0].all()
    assert ("upscale", "infer") in tensorrt.log
    assert not any(call[1:] == ("shape", "video_height") for call in tensorrt.log)


def test_an_output_of_another_size_than_the_values_say_is_refused(session):
    inputs, _ = upscale_arrays(session)
    with pytest.raises(TensorMismatchError, match=r"'mask' becomes \[2, 30, 40\], DeviceArray\(uint8\[2, 31, 40\]\) was given"):
        session.run("upscale", inputs, {"mask": session.empty((2, 31, 40), "uint8")})


def test_a_size_that_only_the_gpu_knows_is_refused(session):
    inputs, outputs = upscale_arrays(session)
    two = uploaded(session, np.array([30, 40]))
    with pytest.raises(TensorMismatchError, match="depend on the value of input 'video_height': upload it"):
        session.run("upscale", {**inputs, "video_height": two[1:]}, outputs)
    session.copy(inputs["video_height"], two[:1])
    with pytest.raises(TensorMismatchError, match="'video_height': upload it"):
        session.run("upscale", inputs, outputs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i, o, s: i.pop("page"), "missing or unknown is page"),
        (lambda i, o, s: i.update(extra=i["page"]), "missing or unknown is extra"),
        (lambda i, o, s: o.update(total=s.empty((3, 8, 4, 4), "float16")), r"'total': expected float16\[B, 8, 4, 4\] with"),
        (lambda i, o, s: o.update(total=s.empty((2, 8, 4, 4), "float32")), "got float32"),
        (lambda i, o, s: i.update(page=s.empty((2, 9), "int32")), r"'page' is \[2, 9\], its engine was built for \[1, 1\] to \[4, 8\]"),
    ],
)
def test_arrays_must_fit_the_contract(session, change, message):
    inputs, outputs, _ = sum_arrays(session)
    change(inputs, outputs, session)
    with pytest.raises(TensorMismatchError, match=message):
        session.run("memory_sum", inputs, outputs)


def test_a_refused_call_does_not_spoil_the_next(session):
    inputs, outputs, expected = sum_arrays(session)
    with pytest.raises(TensorMismatchError):
        session.run("memory_sum", {**inputs, "page": session.empty((2, 9), "int32")}, outputs)
    session.run("memory_sum", inputs, outputs)
    np.testing.assert_array_equal(session.download(outputs["total"]), expected)


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        ("shape", "TensorRT refuses DeviceArray.* for input 'bank': out of range"),
        ("address", "'memory_sum': TensorRT refuses an address for tensor 'bank': out of range"),
        ("infer", "'memory_sum' cannot tell its output sizes: out of range"),
        ("size", "engine 'memory_sum' cannot tell how much memory it needs: out of range"),
        ("memory", "engine 'memory_sum' refuses 1000 bytes to work in: out of range"),
        ("run", "engine 'memory_sum' failed to run: out of range"),
    ],
)
def test_every_refusal_of_tensorrt_is_raised_with_its_reason(session, tensorrt, refusal, message):
    inputs, outputs, expected = sum_arrays(session)
    tensorrt.contexts["memory_sum"].refuse = {refusal}
    tensorrt.messages.append("out of\n  range")
    with pytest.raises((TensorMismatchError, EngineRunError), match=message):
        session.run("memory_sum", inputs, outputs)
    tensorrt.contexts["memory_sum"].refuse = set()
    session.run("memory_sum", inputs, outputs)
    np.testing.assert_array_equal(session.download(outputs["total"]), expected)


def test_an_unknown_graph_is_named(session):
    with pytest.raises(TensorMismatchError, match="no graph 'decoder'; it has memory_sum, upscale"):
        session.run("decoder", {}, {})


def test_arrays_start_as_zeros_and_copies_must_match(session):
    array = session.empty((2, 3), "int32")
    assert not session.download(array).any()
    for source in (np.zeros((3, 2), np.int32), np.zeros((2, 3), np.int64)):
        with pytest.raises(TensorMismatchError, match="cannot take"):
            session.upload(array, source)
    with pytest.raises(TensorMismatchError, match="cannot take"):
        session.copy(array, session.empty((2, 2), "int32"))
    with pytest.raises(TensorMismatchError, match="dtype 'float64' is unknown"):
        session.empty((1,), "float64")
    assert session.download(session.empty((0, 4), "float32")).shape == (0, 4)


def test_one_number_that_is_no_size_is_uploaded_as_it_is(session):
    assert np.isnan(session.download(uploaded(session, np.float32([np.nan])))).all()


def test_strided_sources_are_uploaded_in_order(session):
    source = np.arange(6, dtype=np.int32).reshape(2, 3).T
    array = session.empty((3, 2), "int32")
    session.upload(array, source)
    source[...] = 0
    np.testing.assert_array_equal(session.download(array), [[0, 3], [1, 4], [2, 5]])


def test_downloads_from_different_places_do_not_overwrite_each_other(session):
    first, second = (session.download(uploaded(session, np.full(4, value, np.int32))) for value in (1, 2))
    assert first.tolist() == [1] * 4
    assert second.tolist() == [2] * 4


def test_everything_is_freed_once(bundle, tensorrt, device):
    session = TensorRTSession(bundle, device=device, tensorrt=tensorrt)
    session.run("memory_sum", *sum_arrays(session)[:2])
    session.close()
    session.close()
    assert device.live == {}
    assert device.closed == 1


def test_a_closed_session_refuses_everything(bundle, tensorrt, device):
    session = TensorRTSession(bundle, device=device, tensorrt=tensorrt)
    inputs, outputs, _ = sum_arrays(session)
    session.close()
    asked = (
        lambda: session.run("memory_sum", inputs, outputs),
        lambda: session.upload(inputs["page"], np.zeros((2, 3), np.int32)),
        lambda: session.download(outputs["total"]),
        lambda: session.copy(inputs["page"], inputs["page"]),
        lambda: session.empty((1,), "int32"),
    )
    for ask in asked:
        with pytest.raises(EngineRunError, match=r"the session is closed: .* open it again"):
            ask()


def test_a_failure_while_closing_still_frees(bundle, tensorrt, device):
    session = TensorRTSession(bundle, device=device, tensorrt=tensorrt)
    device.fail_synchronize = EngineRunError("the GPU fell over")
    with pytest.raises(EngineRunError, match="fell over"):
        session.close()
    assert device.live == {}
    assert device.closed == 1


def test_nothing_that_holds_gpu_memory_outlives_a_session(bundle, tensorrt, device):
    session = TensorRTSession(bundle, device=device, tensorrt=tensorrt)
    arrays = sum_arrays(session)[:2]
    for _ in range(4):
        session.recorded(("anybody",), lambda: session.run("memory_sum", *arrays))
    contexts = [weakref.ref(context) for context in (*tensorrt.contexts.values(), *tensorrt.recorded)]
    tensorrt.contexts.clear()
    tensorrt.recorded.clear()
    session.close()
    gc.collect()
    assert [one() for one in contexts if one() is not None] == []
    assert session._engines == {}
    assert tensorrt.closed == 1


@pytest.mark.parametrize("failing", [0, 3, -1])
def test_what_cannot_be_freed_leaves_nothing_else_behind(bundle, tensorrt, device, monkeypatch, failing):
    session = TensorRTSession(bundle, device=device, tensorrt=tensorrt)
    session.run("memory_sum", *sum_arrays(session)[:2])
    spoilt = list(device.live)[failing]

    def close(block):
        if block.pointer == spoilt:
            raise EngineRunError("this one stays")
        device.give_back(block)

    monkeypatch.setattr(FakeBlock, "close", close)
    with pytest.raises(EngineRunError, match="this one stays"):
        session.close()
    assert list(device.live) == [spoilt]
    assert (device.closed, tensorrt.closed) == (1, 1)


def test_a_failure_while_opening_frees_what_was_made(bundle, tensorrt, device):
    (bundle.folder / "engines" / "tensorrt-rtx-1.2.3" / "sm89" / "upscale.engine").write_bytes(b"plan of upscalE")
    with pytest.raises(EngineMismatchError, match=r"upscale\.engine was changed"):
        TensorRTSession(bundle, device=device, tensorrt=tensorrt)
    assert device.live == {}
    assert device.closed == 1


def test_another_gpu_is_refused(bundle, tensorrt):
    with pytest.raises(EngineMismatchError, match=r"built for SM 8\.9 \(RTX 40\), this GPU is SM 8\.6 \(RTX 30\)"):
        TensorRTSession(bundle, device=FakeDevice(sm=86), tensorrt=tensorrt)


def test_the_upload_ring_waits_before_it_reuses_memory(device):
    ring = UploadRing(device, Lane.TRACK, half_bytes=64)
    block = device.allocate(1000)
    device.log.clear()
    source = np.arange(200, dtype=np.uint8)
    ring.upload(block.pointer, source)
    assert device.log == [("copy", 64), ("copy", 64), ("wait",), ("copy", 64), ("wait",), ("copy", 8)]
    source[:] = 0
    device.synchronize()
    np.testing.assert_array_equal(block.memory[:200], np.arange(200))


def test_the_upload_ring_waits_for_nothing_that_was_copied_meanwhile():
    device = FakeDevice(eager=(Lane.UPLOAD,))
    ring = UploadRing(device, Lane.UPLOAD, half_bytes=64)
    ring.upload(device.allocate(1000).pointer, np.arange(200, dtype=np.uint8))
    assert [call for call in device.log if call[0] == "wait"] == []


def test_the_upload_ring_would_overwrite_what_it_does_not_wait_for(device, monkeypatch):
    ring = UploadRing(device, Lane.TRACK, half_bytes=64)
    monkeypatch.setattr(device, "happened", lambda event: True)
    with pytest.raises(GpuMisuseError, match="pinned memory is written while a copy is on its way"):
        ring.upload(device.allocate(1000).pointer, np.arange(200, dtype=np.uint8))


@pytest.mark.parametrize(
    ("index", "shape", "offset"),
    [
        (0, (2,), 0),
        (-1, (2,), 24),
        (slice(1, 3), (2, 2), 8),
        (slice(None), (4, 2), 0),
        (slice(2, 2), (0, 2), 16),
        (slice(3, 99), (1, 2), 24),
    ],
)
def test_device_arrays_slice_like_numpy(index, shape, offset):
    array = DeviceArray(1000, (4, 2), "float32")
    assert (array[index].shape, array[index].pointer) == (shape, 1000 + offset)
    assert array[index].nbytes == np.zeros((4, 2), np.float32)[index].nbytes


def test_device_arrays_refuse_what_is_not_rows():
    array = DeviceArray(1000, (4, 2), "float32")
    with pytest.raises(IndexError, match="no row 4"):
        array[4]
    with pytest.raises(TensorMismatchError, match="step of 2"):
        array[::2]


@pytest.fixture
def kernels(tmp_path, monkeypatch):
    monkeypatch.setenv("TRT_TRACK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kernels"


def opened_and_closed(bundle, tensorrt, compiled, *, device=None):
    """Open and close a session that compiles some kernels; return what it found there."""
    tensorrt.compiled, tensorrt.restored, tensorrt.contexts = compiled, b"", {}
    TensorRTSession(bundle, device=device or FakeDevice(), tensorrt=tensorrt).close()
    return tensorrt.restored


def test_kernels_are_kept_from_one_session_to_the_next(bundle, tensorrt, kernels):
    assert opened_and_closed(bundle, tensorrt, b"first") == b""
    (path,) = kernels.iterdir()
    assert path.read_bytes() == b"first"
    assert opened_and_closed(bundle, tensorrt, b"first and second") == b"first"
    assert opened_and_closed(bundle, tensorrt, None) == b"first and second"
    assert path.read_bytes() == b"first and second"
    assert list(kernels.iterdir()) == [path]


def test_what_did_not_change_is_not_written_again(bundle, tensorrt, kernels):
    opened_and_closed(bundle, tensorrt, b"kernels")
    (path,) = kernels.iterdir()
    before = path.stat().st_ino
    opened_and_closed(bundle, tensorrt, b"kernels")
    assert path.stat().st_ino == before
    opened_and_closed(bundle, tensorrt, b"others")
    assert path.stat().st_ino != before


def test_every_gpu_and_every_engine_has_its_own(bundle, tensorrt, kernels):
    opened_and_closed(bundle, tensorrt, b"one")
    other = FakeDevice()
    other.gpu = SimpleNamespace(name="another GPU", sm=other.gpu.sm)
    assert opened_and_closed(bundle, tensorrt, b"two", device=other) == b""
    assert sorted(path.read_bytes() for path in kernels.iterdir()) == [b"one", b"two"]


def test_a_cache_that_cannot_be_written_costs_nothing(bundle, tensorrt, kernels, caplog):
    caplog.set_level("INFO")
    kernels.parent.write_text("a file where the folder should be")
    assert opened_and_closed(bundle, tensorrt, b"kernels") == b""
    assert "compiled kernels cannot be kept in" in caplog.text


def test_a_session_that_does_not_open_keeps_nothing(bundle, tensorrt, kernels, monkeypatch):
    monkeypatch.setattr(tensorrt, "host_inputs", lambda engine: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        opened_and_closed(bundle, tensorrt, b"kernels")
    assert not kernels.exists()


@pytest.fixture(params=["tensorrt-rtx", "tensorrt"])
def gpu_session(tmp_path, request):
    """A real session of each TensorRT on a bundle of tiny graphs; skips with what is missing."""
    from trt_track.engines.tensorrt_builder import build_engines

    bundle = tiny.write_bundle(tmp_path / "tiny", tiny.SUM, tiny.UPSCALE, tiny.FRAME)
    try:
        build_engines(bundle, flavour=request.param, targets=("local",), limits=LIMITS)
    except BackendError as error:
        pytest.skip(str(error))
    with TensorRTSession(bundle, flavour=request.param) as session:
        yield session, bundle


@pytest.mark.gpu
@pytest.mark.parametrize(("batch", "memories"), [(1, 7), (4, 2)])
def test_tensorrt_agrees_with_onnxruntime(gpu_session, batch, memories):
    ort = pytest.importorskip("onnxruntime")
    session, bundle = gpu_session
    cases = {"memory_sum": sum_arrays(session, batch, memories)[:2], "upscale": upscale_arrays(session)}
    frames = uploaded(session, np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3))
    cases["frame"] = ({"frames": frames}, {"image": session.empty((1, 3, 4, 4), "float32")})
    for graph, (inputs, outputs) in cases.items():
        for _ in range(3):
            session.run(graph, inputs, outputs)
        reference = ort.InferenceSession(bundle.onnx_path(graph), providers=["CPUExecutionProvider"])
        feed = {name: session.download(array) for name, array in inputs.items()}
        for (name, array), expected in zip(outputs.items(), reference.run(list(outputs), feed), strict=True):
            np.testing.assert_allclose(session.download(array), expected, atol=1e-2, err_msg=f"{graph} {name}")


@pytest.mark.gpu
def test_a_broken_engine_is_an_error_of_ours(gpu_session):
    from trt_track.engines.tensorrt_door import TensorRTRuntime

    session, _ = gpu_session
    with pytest.raises(EngineError, match="engine 'frame' cannot be loaded"):
        TensorRTRuntime(session.backend).load_engine(b"no engine", "frame")
