"""The fakes are as strict as they say."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tiny_graphs as tiny
from fake_gpu import NEW, UNREAD, FakeDevice, GpuMisuseError
from fake_tensorrt import FakeContext, FakeEngine

from trt_track.engines.profiles import graph_profile
from trt_track.specs import Limits

LIMITS = Limits(objects=4, memories=8, video_wh=(320, 240))


@pytest.fixture
def device():
    return FakeDevice()


def test_nothing_happens_before_it_is_waited_for(device):
    block, pinned = device.allocate(8), device.pinned(8)
    device.zero(block.pointer, 8)
    device.copy(pinned.ctypes.data, block.pointer, 8)
    assert set(block.memory) == {NEW}
    assert set(pinned.view(np.ndarray)) == {UNREAD}
    for read in (np.copy, lambda array: array.copy(), lambda array: array.tolist(), lambda array: array + 1, lambda array: array.any()):
        with pytest.raises(GpuMisuseError, match="read before the copy was waited for"):
            read(pinned[2:4])
    device.synchronize()
    assert pinned.tolist() == [0] * 8


def test_an_event_waits_for_what_was_asked_for_before_it(device):
    block = device.allocate(4)
    first, second = device.pinned(4), device.pinned(4)
    device.copy(first.ctypes.data, block.pointer, 4)
    event = device.event()
    assert device.happened(event)
    device.wait(event)
    device.record(event)
    device.copy(second.ctypes.data, block.pointer, 4)
    assert not device.happened(event)
    device.wait(event)
    assert device.happened(event)
    assert first.tolist() == [NEW] * 4
    with pytest.raises(GpuMisuseError, match="read before"):
        second.tolist()


def test_an_event_is_destroyed_once_and_after_it_happened(device):
    event = device.event()
    device.record(event)
    device.copy(device.allocate(4).pointer, device.allocate(4).pointer, 4)
    device.record(event)
    with pytest.raises(GpuMisuseError, match="before it happened"):
        device.destroy(event)
    device.synchronize()
    device.destroy(event)
    for use in (device.destroy, device.record, device.after, device.wait, device.happened):
        with pytest.raises(GpuMisuseError, match="an event was destroyed before"):
            use(event)


def test_pinned_memory_must_stay_as_it_is_and_alive_until_it_was_copied(device):
    block, pinned = device.allocate(8), device.pinned(8)
    device.copy(block.pointer, pinned.ctypes.data, 8)
    with pytest.raises(GpuMisuseError, match="pinned memory is written"):
        pinned[:1] = 1
    del pinned
    with pytest.raises(GpuMisuseError, match="pinned memory was freed"):
        device.synchronize()


def test_memory_that_is_not_there_is_refused(device):
    block, host, gone = device.allocate(8), np.zeros(8, np.uint8), device.allocate(8)
    pinned = device.pinned(8)
    gone.close()
    for target, source in ((block.pointer, host.ctypes.data), (gone.pointer, pinned.ctypes.data), (block.pointer + 8, block.pointer)):
        with pytest.raises(GpuMisuseError, match="no such memory"):
            device.copy(target, source, 8)
    with pytest.raises(GpuMisuseError, match="8 bytes at 4 of a block of 8"):
        device.zero(block.pointer + 4, 8)
    with pytest.raises(GpuMisuseError, match="freed twice"):
        gone.close()


def test_nothing_can_be_asked_of_a_closed_device(device):
    block = device.allocate(8)
    device.close()
    for ask in (
        device.synchronize,
        device.event,
        block.close,
        device.close,
        lambda: device.allocate(1),
        lambda: device.zero(block.pointer, 1),
    ):
        with pytest.raises(GpuMisuseError):
            ask()


def test_a_thread_that_the_device_is_not_current_on_is_refused(device):
    block = device.allocate(8)
    with ThreadPoolExecutor(1) as other:
        for ask in (device.synchronize, device.event, block.close, device.close, lambda: device.allocate(1), lambda: device.gpu):
            with pytest.raises(GpuMisuseError, match="not current on this thread"):
                other.submit(ask).result()
        other.submit(device.make_current)
        other.submit(device.synchronize).result()


class TestContext:
    @pytest.fixture
    def arrays(self, device):
        """Memory of two objects with three memories each."""
        return {"bank": device.allocate(36 * 256), "page": device.allocate(24), "negate": device.allocate(2), "total": device.allocate(512)}

    @pytest.fixture
    def context(self, device, arrays):
        """A context that is ready to run."""
        context = FakeContext(
            FakeEngine(tiny.SUM, graph_profile(tiny.SUM, tiny.MODEL, LIMITS), lambda inputs: {"total": 1}, 100), device, [], []
        )
        for name, shape in (("bank", (36, 8, 4, 4)), ("page", (2, 3)), ("negate", (2,))):
            assert context.set_input_shape(name, shape)
        assert self.lay_out(context) == 200
        context.set_device_memory(device.allocate(200).pointer, 200)
        for name, block in arrays.items():
            context.set_tensor_address(name, block.pointer)
        return context

    @staticmethod
    def lay_out(context):
        assert context.infer_shapes() == []
        return context.update_device_memory_size_for_shapes()

    def test_runs_when_it_is_waited_for(self, context, device, arrays):
        assert context.execute_async_v3(77)
        assert set(arrays["total"].memory) == {NEW}
        device.synchronize()
        assert (arrays["total"].memory.view(np.float16) == 1).all()

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda c, a: c.addresses.pop("page"), "page has no address"),
            (lambda c, a: c.shapes.pop("page"), "page has no shape"),
            (lambda c, a: c.set_input_shape("page", (2, 4)), "laid out for other shapes"),
            (
                lambda c, a: (c.set_input_shape("page", (2, 4)), TestContext.lay_out(c)),
                "there is no work space|32 bytes at 0 of a block of 24",
            ),
            (lambda c, a: c.set_tensor_address("total", a["negate"].pointer), "512 bytes at 0 of a block of 2"),
            (lambda c, a: c.set_tensor_address("total", a["bank"].pointer), "an output overlaps"),
            (lambda c, a: c.set_tensor_address("total", c.memory), "512 bytes at 0 of a block of 200"),
            (lambda c, a: a["page"].close(), "no such memory"),
            (lambda c, a: c.device.live[c.memory].close(), "no such memory"),
            (lambda c, a: c.set_tensor_address("page", a["page"].pointer + 8), "not aligned"),
            (lambda c, a: c.set_tensor_address("page", 4096), "its address is the host's"),
            (lambda c, a: c.set_device_memory(a["negate"].pointer, 2), "2 bytes of work space, 200 are needed"),
            (lambda c, a: c.device.close(), "the device was closed"),
        ],
    )
    def test_refuses_to_run_unless_everything_is_set(self, context, arrays, spoil, message):
        def run():
            spoil(context, arrays)
            context.execute_async_v3(77)

        with pytest.raises(GpuMisuseError, match=message):
            run()
