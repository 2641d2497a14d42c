"""Times of batches: the split that they give, against every other one, and the file that keeps them."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from trt_track.engines.batch_times import (
    BATCH_TIMES,
    BatchTimes,
    check_batch_times,
    device_of,
    find_batch_times,
    keep_batch_times,
    widest_batch,
)
from trt_track.errors import BundleError, OutputError

SIZES = (1, 2, 4, 8, 16)


def times(*milliseconds, **named):
    return BatchTimes(
        **{"backend": "tensorrt", "version": "10", "device": "GPU", **named}, milliseconds=dict(zip(SIZES, milliseconds, strict=False))
    )


def session(**named):
    return SimpleNamespace(**{"backend": "tensorrt", "version": "10", "device": "GPU", "max_objects": None, "max_batch": 4, **named})


@pytest.mark.parametrize(
    ("advised", "built", "objects", "milliseconds", "widest"),
    [
        (4, None, 16, None, 4),
        (4, None, 3, None, 3),
        (16, 2, 16, None, 2),
        (1, None, 16, (1, 1.2, 1.5), 4),  # measured to be quicker than what was advised, as far as it went
        (8, None, 16, (1, 1.2, 1.5), 8),
        (1, None, 16, (1, 1.2, 1.5, 2, 3), 16),
        (1, 4, 16, (1, 1.2, 1.5, 2, 3), 4),
        (4, None, 16, (1, 2.5), 1),  # measured to be slower
    ],
)
def test_what_was_measured_overrules_what_is_advised(advised, built, objects, milliseconds, widest):
    table = None if milliseconds is None else times(*milliseconds)
    assert widest_batch(session(max_batch=advised, max_objects=built), objects, table) == widest


def partitions(count, largest):
    """Every way to write a number as a sum, the largest first."""
    if not count:
        yield ()
    for first in range(min(count, largest), 0, -1):
        yield from ((first, *rest) for rest in partitions(count - first, first))


@pytest.mark.parametrize("seed", range(20))
def test_no_other_split_is_much_quicker(seed):
    rng = np.random.default_rng(seed)
    table = times(*np.cumsum(rng.uniform(0.2, 4, 4)))

    def cost(split):
        known, taken = list(table.milliseconds), list(table.milliseconds.values())
        slope = (taken[-1] - taken[-2]) / (known[-1] - known[-2])
        return sum(np.interp(size, known, taken) + slope * max(0, size - known[-1]) for size in split)

    for objects in range(1, 13):
        for most in (1, 3, 8, 16):
            split = table.split(objects, most)
            every = list(partitions(objects, most))
            assert split in every
            assert cost(split) <= min(cost(one) for one in every) / 0.97 + 1e-9
    assert table.widest(12, 16) == max(table.split(objects, 16)[0] for objects in range(1, 13))


@pytest.mark.parametrize(
    ("milliseconds", "objects", "most", "split"),
    [
        ((1, 1.5, 2, 3, 5), 16, 16, (16,)),  # batching helps
        ((1, 1.5, 2, 3, 5), 13, 16, (13,)),
        ((1, 1.5, 2, 3, 5), 16, 8, (8, 8)),
        ((1, 1.5, 2, 3, 5), 40, 64, (40,)),  # larger ones than were measured, on the same line
        ((1, 1.5, 2, 3, 5), 40, 16, (16, 16, 8)),
        ((5, 6), 16, 16, (16,)),  # only small ones were measured
        ((1, 1.6, 3, 8, 20), 32, 32, (4,) * 8),
        ((1, 2.2, 4.8, 10, 22), 4, 16, (1, 1, 1, 1)),  # batching hurts
        ((1, 1.6, 3, 8, 20), 10, 16, (4, 4, 2)),  # it hurts from somewhere on
        ((1, 2, 4, 8.1, 16.4), 16, 16, (16,)),  # within the noise
        ((2.5,), 3, 16, (3,)),  # nothing says that one by one is quicker
        ((1, 0.9), 4, 16, (4,)),
    ],
)
def test_splits(milliseconds, objects, most, split):
    assert times(*milliseconds).split(objects, most) == split


def test_threads_tell_cpus_apart():
    assert device_of(session()) == "GPU"
    assert device_of(session(device="CPU", threads=2)).startswith("CPU, 2 threads, ")


@pytest.mark.parametrize("milliseconds", [{}, {2: 1.0}, {1: 1.0, 4: 2.0, 2: 1.5}, {1: 0.0}, {1: -1.0, 2: 2.0}])
def test_tables_that_make_no_sense(milliseconds):
    with pytest.raises(ValueError, match="batch times must begin with one object"):
        BatchTimes("tensorrt", "10", "GPU", milliseconds)


def test_each_device_has_its_own(tmp_path):
    assert find_batch_times(tmp_path, session()) is None
    old, new, other = times(1, 2), times(1, 1.5, version="11"), times(3, 4, device="another GPU")
    for table in (old, other, new):
        assert keep_batch_times(tmp_path, table) == tmp_path / BATCH_TIMES
    assert find_batch_times(tmp_path, session(version="11")) == new
    assert find_batch_times(tmp_path, session(device="another GPU")) == other
    assert find_batch_times(tmp_path, session()) is None  # measured with what is no longer installed
    assert find_batch_times(tmp_path, session(backend="tensorrt-rtx")) is None
    assert [path.name for path in tmp_path.iterdir()] == [BATCH_TIMES]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "holds no JSON object"),
        ('{"format": 2, "measured": []}', "has format 2 instead of 1"),
        ('{"format": 1}', "is malformed (KeyError"),
        (
            '{"format": 1, "measured": [{"backend": "a", "version": "b", "device": "c", "milliseconds": {"one": 1}}]}',
            "is malformed (ValueError",
        ),
        ('{"format": 1, "measured": [{"backend": "a", "version": "b", "device": "c", "milliseconds": {"2": 1}}]}', "begin with one object"),
        ('{"format": 1, "measured": 5}', "is malformed (TypeError"),
    ],
)
def test_damaged_files(tmp_path, content, message):
    (tmp_path / BATCH_TIMES).write_text(content)
    for work in (
        lambda: find_batch_times(tmp_path, session()),
        lambda: check_batch_times(tmp_path),
        lambda: keep_batch_times(tmp_path, times(1)),
    ):
        with pytest.raises(BundleError) as caught:
            work()
        assert message in str(caught.value)
        assert str(caught.value).endswith(f"delete {tmp_path / BATCH_TIMES} and run trt-track tune again")
    assert (tmp_path / BATCH_TIMES).read_text() == content


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    check_batch_times(tmp_path)
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(OutputError, match="copy the bundle to where it can"):
        check_batch_times(tmp_path)
    with pytest.raises(OutputError, match="copy the bundle to where it can"):
        keep_batch_times(tmp_path / "missing", times(1))


def test_what_is_written(tmp_path):
    keep_batch_times(tmp_path, times(1.23456, 2))
    table = {"backend": "tensorrt", "version": "10", "device": "GPU", "milliseconds": {"1": 1.2346, "2": 2}}
    assert json.loads((tmp_path / BATCH_TIMES).read_text()) == {"format": 1, "measured": [table]}
