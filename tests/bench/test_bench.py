"""The bench around its runs, which are replaced here by what they send."""

from dataclasses import replace

import numpy as np
import pytest
from test_figures import LIMIT, run_of
from test_run_log import settings_of

from trt_track.bench import bench as module
from trt_track.bench.bench import Bench, guarded_run
from trt_track.bench.mask_file import MaskFile
from trt_track.bench.order import Plan, RunOrder
from trt_track.engines.bundle import Bundle
from trt_track.export.local_models import config_of
from trt_track.models import PICO_BUNDLE
from trt_track.parity.weights import UpstreamModel

WH = (24, 16)


@pytest.fixture
def bench():
    settings = settings_of(frames=8, skip=2, bundle=PICO_BUNDLE, upstream=UpstreamModel(config_of("pico"), 256, None, 0))
    return Bench(Plan(settings, ("ours", "upstream"), (1, 2), 1), WH, Bundle.open(PICO_BUNDLE))


@pytest.fixture
def measured(bench, monkeypatch, tmp_path):
    """Measure with processes that send what `sent` makes of an order; return the calls of both listeners."""

    def measure(sent):
        def messages(work, order):
            if not isinstance(order, RunOrder):
                yield from LIMIT.items()
                return
            yield from sent(order)

        monkeypatch.setattr(module, "messages", messages)
        written, progress = [], []
        bench.measure(tmp_path, on_run=lambda: written.append(bench.figures()), on_progress=lambda *call: progress.append((*call, "")[:3]))
        return written, progress

    return measure


def good(order, *, wrong=()):
    """A run whose masks are all full; of the wrong ones a half is missing."""
    with MaskFile(order.masks) as file:
        for frame in range(8):
            masks = np.ones((order.objects, *WH[::-1]), bool)
            masks[:, : WH[1] // 2] ^= (order.side, order.objects, frame) in wrong
            file.write(masks)
    yield "frame", 4
    yield "run", run_of(order.side, order.objects)
    if order.side == "ours":
        yield "stages", [{"upload": 0.1}] * 8


def test_figures_are_there_after_every_run(bench, measured):
    written, progress = measured(good)
    assert [len(figures["rows"]) for figures in written] == [1, 2, 3, 4, 4]
    assert [figures["finished"] for figures in written] == [False] * 4 + [True]
    assert progress[0] == (0, 32, "arithmetic limit")
    assert progress[-1] == (32, 32, "")
    assert (20, 32, "ours, 2 objects") in progress
    assert [done for done, _, _ in progress] == sorted(done for done, _, _ in progress)
    assert bench.passed
    assert [row["least_iou"] for row in bench.agreement] == [1.0, 1.0]


def test_one_wrong_mask_fails_the_bench(bench, measured):
    measured(lambda order: good(order, wrong={("ours", 2, 5)}))
    assert not bench.passed
    assert [row["under_bound"] for row in bench.agreement] == [0, 2]
    assert bench.agreement[1]["worst"] == {"frame": 5, "object": 1}


@pytest.mark.parametrize(("side", "passed"), [("upstream", True), ("ours", False)])
def test_a_side_that_fails_ends_nothing_else(bench, measured, side, passed):
    def sent(order):
        if (order.side, order.objects) == (side, 1):
            yield "frame", 2
            yield "failures", {"reason": "OutOfMemoryError: 16 objects"}
        else:
            yield from good(order)

    measured(sent)
    assert bench.finished
    assert bench.passed is passed
    assert bench.failures == [{"side": side, "objects": 1, "repeat": 0, "reason": "OutOfMemoryError: 16 objects"}]
    assert len(bench.runs) == 3
    assert len(bench.agreement) == 1


def test_compiled_is_compared_with_both(bench, measured):
    bench.plan = replace(bench.plan, sides=("ours", "upstream", "upstream-compiled"), objects=(1,))
    measured(lambda order: good(order, wrong={("upstream-compiled", 1, 0)}))
    pairs = {(row["side"], row["reference"]): row["under_bound"] for row in bench.agreement}
    assert pairs == {("ours", "upstream"): 0, ("ours", "upstream-compiled"): 1, ("upstream-compiled", "upstream"): 1}


@pytest.mark.parametrize(("ours", "upstream", "bound"), [("fp32", "fp32", 0.999), ("fp16", "fp32", 0.95), ("fp32", "bf16", 0.95)])
def test_the_bound_is_that_of_the_lower_precision(bench, ours, upstream, bound):
    description = replace(bench.bundle.manifest.description, precision=ours)
    bench.bundle = Bundle(bench.bundle.folder, replace(bench.bundle.manifest, description=description))
    bench.plan = replace(bench.plan, settings=replace(bench.plan.settings, precision=upstream))
    assert bench.bound == bound


def test_what_ends_a_run_is_told(tmp_path):
    told = []
    order = RunOrder(settings_of(bundle=tmp_path / "none"), "ours", 1, 0, tmp_path / "masks")
    guarded_run(order, lambda *message: told.append(message))
    ((kind, content),) = told
    assert kind == "failures"
    assert content["reason"].startswith("BundleError: ")
    assert "Traceback" in content["trace"]
