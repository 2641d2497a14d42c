import numpy as np
import pytest
from rich.console import Console

from trt_track.bench.figures import further_object_ms, gmac_of, rows
from trt_track.bench.tables import remarks, speed_table, stage_table

LIMIT = {"gmac": {"image_encoder": 5.0, "mask_decoder": 2.0, "memory_encoder": 1.0}, "peak": {"gmac_per_s": 1000.0, "by": "a product"}}


def run_of(side="ours", objects=1, frame_s=0.1, *, repeat=0, **more):
    """Eight frames; the first two take ten times as long and hold 50 MB less."""
    frames = [10 * frame_s] * 2 + [frame_s] * 6
    return {
        "side": side,
        "objects": objects,
        "repeat": repeat,
        "whole_s": sum(frames) + 1,
        "frame_s": frames,
        "cpu_s": [2 * seconds for seconds in frames],
        "busiest_thread": {"cpu_s": 0.5, "utilisation": 0.75},
        "memory": {
            "host_peak_mb": 400.0,
            "device_peak_mb": None,
            "samples": {"frame": [2, 4, 6, 8], "host_mb": [50.0, 100.0, 106.0, 112.0], "device_mb": [None] * 4},
        },
        **more,
    }


def test_steady_figures_leave_the_first_frames_out():
    (row,) = rows([run_of()], LIMIT, skip=2)
    assert row["steady"]["frames"] == 6
    assert row["steady"]["frames_per_s"] == pytest.approx(10)
    assert row["steady"]["frame_ms_median"] == pytest.approx(100)
    assert row["whole"]["frames_per_s"] == pytest.approx(8 / (0.1 * 26 + 1))
    assert row["host"] == {"cpu_s_per_frame": pytest.approx(0.2), "busiest_thread_utilisation": 0.75}


def test_growth_is_the_slope_of_the_steady_frames():
    (row,) = rows([run_of()], LIMIT, skip=3)
    assert row["memory"]["host_growth_mb_per_frame"] == pytest.approx(3)
    assert row["memory"]["device_growth_mb_per_frame"] is None


def test_distance_to_the_limit():
    assert gmac_of(LIMIT["gmac"], 4) == 17
    (row,) = rows([run_of(objects=4)], LIMIT, skip=2)
    assert row["limit"]["percent_of_peak"] == pytest.approx(17)
    (row,) = rows([run_of()], {"gmac": LIMIT["gmac"]}, skip=2)
    assert row["limit"] is None


def test_repetitions_are_one_row_and_ours_comes_first():
    found = rows([run_of("upstream", frame_s=0.3), run_of(), run_of(repeat=1, frame_s=0.2)], LIMIT, skip=2)
    assert [(row["side"], row["repeats"]) for row in found] == [("ours", 2), ("upstream", 1)]
    assert found[0]["steady"]["frames"] == 12
    assert found[0]["times_upstream"] == pytest.approx(0.3 / 0.15)
    assert found[1]["times_upstream"] == 1
    assert found[0]["times_compiled"] is None
    assert "compiled" not in printed(speed_table(figures_of([run_of("upstream"), run_of()])))


def test_ours_is_told_beside_compiled_upstream_too():
    runs = [run_of("upstream", frame_s=0.3), run_of("upstream-compiled", frame_s=0.16), run_of(frame_s=0.1)]
    times = {row["side"]: (row["times_upstream"], row["times_compiled"]) for row in rows(runs, LIMIT, skip=2)}
    assert times["ours"] == (pytest.approx(3), pytest.approx(1.6))
    assert times["upstream-compiled"] == (pytest.approx(0.3 / 0.16), 1)
    shown = printed(speed_table(figures_of(runs))).splitlines()
    assert shown[1].split()[-3:] == ["eager", "compiled", "IoU"]
    assert shown[2].split()[-3:] == ["3.00", "1.60", "-"]


def test_stages_of_steady_frames():
    stages = [{"upload": 9.0, "host remainder": 9.0}] * 2 + [
        {"upload": 0.01, "mask_decoder": 0.02, "host remainder": 0.03},
        {"upload": 0.03},
    ]
    (row,) = rows([run_of(stages=stages)], LIMIT, skip=2)
    assert row["stages"]["upload"]["median_ms"] == pytest.approx(20)
    assert row["stages"]["mask_decoder"]["mean_ms"] == pytest.approx(10)
    total = sum(stage["mean_ms"] for stage in row["stages"].values())
    assert total == pytest.approx(1000 * np.mean([0.06, 0.03]))


def test_each_further_object():
    found = rows([run_of(objects=n, frame_s=0.05 + 0.01 * n) for n in (1, 4, 16)], LIMIT, skip=2)
    assert further_object_ms(found) == {"ours": pytest.approx(10)}
    assert further_object_ms(found[:1]) == {}


def figures_of(runs, **more):
    found = rows(runs, LIMIT, skip=2)
    empty = {"rows": found, "limit": LIMIT, "further_object_ms": further_object_ms(found), "left_out": {}, "failures": [], "agreement": []}
    return empty | more


def printed(*what):
    console = Console(width=140, highlight=False, markup=False)
    with console.capture() as shown:
        for one in what:
            console.print(one)
    return shown.get()


def test_tables_fit_a_terminal():
    agreement = [
        {"side": "ours", "reference": reference, "objects": 1, "least_iou": iou, "under_bound": 1, "masks": 8, "bound": 0.999}
        | {"worst": {"frame": 3, "object": 1}}
        for reference, iou in (("upstream-compiled", 0.5), ("upstream", 0.25))
    ]
    runs = [run_of(stages=[{"upload": 0.1}] * 4), run_of("upstream-compiled", frame_s=12.345), run_of("upstream", frame_s=123.456)]
    figures = figures_of(runs, agreement=agreement, left_out={"x": "why"}, failures=[{"side": "ours", "objects": 4, "reason": "memory"}])
    text = printed(speed_table(figures), stage_table(figures))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 140
    assert len(lines) == 2 + 3 + 2
    assert lines[2].split()[:3] == ["1", "ours", "10"]
    assert lines[2].split()[-1] == "0.250000", "eager upstream is the reference where it ran"
    assert "…" not in text
    said = list(remarks(figures))
    assert "left out: x: why" in said
    assert "failed: ours, 4 objects: memory" in said
    assert sum(line.startswith("masks differ from upstream") for line in said) == 2


def test_no_table_of_stages_without_ours():
    assert stage_table(figures_of([run_of("upstream")])) is None
