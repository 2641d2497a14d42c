"""The report in its three forms: complete, true to the numbers, and safe with whatever names hold."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from drift_rows import row

from trt_track.engines.manifest import Description
from trt_track.errors import OutputError
from trt_track.parity.clip_drift import ClipDrift
from trt_track.parity.measures import Deviation, TrackDeviation
from trt_track.parity.report import Report, Subject
from trt_track.parity.report_folder import ReportFolder
from trt_track.parity.report_markdown import write_markdown
from trt_track.parity.report_page import write_page
from trt_track.parity.thresholds import Thresholds
from trt_track.parity.worst_frames import WorstFrame
from trt_track.specs import GRAPHS, ModelSpec

LIMITS = Thresholds.read()
HOSTILE = 'a "b" <script>|.mp4'
VOID = {"meta", "img", "br"}


def graph(passed=True):
    return Deviation("mask_decoder B2 N2", "iou", 0.1, 1e-5 if passed else 0.1, 2e-4, (1, 3))


def case(passed=True):
    rows = [TrackDeviation("box", 0, 1, 1e-5, 1.0, 1.0, 99, passed=True), TrackDeviation("box", 7, 1, 0.5, 0.4, 0.4, 99, passed=passed)]
    return SimpleNamespace(case="box", rows=rows, seconds=1.0, upstream_seconds=2.0)


def drifted(ious, *, clip="bikes.mp4", against="fp32", damage=None, limits=LIMITS, **others):
    rows = [row(frame, iou, **others) for frame, iou in enumerate(ious)]
    picture = np.full((20, 30, 3), 80, np.uint8)
    worst = [WorstFrame(rows[-1], picture, picture[..., 0] > 90, picture[..., 0] > 10)] if rows else []
    drift = ClipDrift(clip, against, [{"frame": 0, "object": 1}], rows, damage, worst)
    drift.judge(limits.track("fp16", ()))
    return drift


def report(**parts):
    description = Description(
        ModelSpec("pico", 256), "fp16", dict.fromkeys(GRAPHS, "float16"), 23, "pico.safetensors", "ab" * 32, {"torch": "2"}
    )
    subject = Subject(description, "bundles/pico", "onnxruntime-cpu", {"fp32": "the bundle pico-fp32"})
    return Report(subject, LIMITS, **{"finished": True, **parts})


class Page(HTMLParser):
    """Checks that tags close in order; keeps attributes and text."""

    def __init__(self, html):
        super().__init__()
        self.open, self.attributes, self.text = [], [], ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize(
    ("parts", "passed", "conclusion"),
    [
        (
            {"graphs": [graph()], "cases": [case()], "drifts": [drifted([1.0] * 60)]},
            True,
            "all 4 comparisons are within the limits of fp16",
        ),
        ({"graphs": [graph(passed=False)]}, False, "1 of 1 comparisons failed"),
        ({"cases": [case(passed=False)]}, False, "1 of 2 comparisons failed"),
        ({"graphs": [graph()], "drifts": [drifted([0.9] * 60)]}, False, "1 of 2 comparisons failed"),
        ({"graphs": [graph()], "finished": False}, False, "not finished; the 1 comparisons so far are within their limits"),
        ({}, False, "nothing was compared"),
    ],
)
def test_verdict(parts, passed, conclusion):
    found = report(**parts)
    assert (found.passed, found.conclusion, bool(list(found.failures()))) == (passed, conclusion, False in found.verdicts)
    told = json.loads(json.dumps(found.to_json()))
    assert (told["passed"], told["conclusion"], told["finished"]) == (passed, conclusion, found.finished)
    word = "PASSED" if passed else "FAILED" if False in found.verdicts else "NOT FINISHED"
    assert word in Page(write_page(found)).text
    assert write_markdown(found).startswith(f"## {'✅' if passed else '❌'} trt-track parity: {conclusion}\n")


def test_fp32_beside_upstream_is_equal_to_it():
    exact = report(graphs=[graph()])
    description = replace(exact.subject.description, precision="fp32", dtypes=dict.fromkeys(GRAPHS, "float32"))
    exact.subject = replace(exact.subject, description=description, against={"upstream": "PyTorch"})
    assert exact.conclusion == "equal to upstream"


def test_failures_say_what_where_and_by_how_much():
    found = report(graphs=[graph(passed=False), graph()], cases=[case(passed=False)], drifts=[drifted([1.0] * 30 + [0.4])])
    assert list(found.failures()) == [
        "graph mask_decoder B2 N2, output iou: 1.0e-01 of the range at [1, 3], the limit is 0.0002",
        "case box: 1 of 2 masks are off, first on frame 7",
        "bikes.mp4 against fp32, object 1: mean IoU 0.9806 is under 0.995",
        "bikes.mp4 against fp32, object 1: IoU 0.4000 on frame 30 is under 0.95",
    ]
    page, markdown = Page(write_page(found)).text, write_markdown(found)
    assert all(failure in page and f"- {failure}\n" in markdown for failure in found.failures())


def everywhere(found, text):
    """Whether a text is in the three forms of a report."""
    return (
        text in json.dumps(found.to_json(), ensure_ascii=False) and text in write_markdown(found) and text in Page(write_page(found)).text
    )


def test_a_damaged_clip_does_not_pass_however_good_its_masks_are():
    damage = "the clip ends early: frame 60 of 250 cannot be read (its data are damaged)"
    found = report(drifts=[drifted([1.0] * 60, damage=damage)])
    assert (found.passed, found.conclusion) == (False, "1 of 2 comparisons failed")
    assert list(found.failures()) == [f"bikes.mp4 against fp32: {damage}: what comes after it was not compared"]
    assert everywhere(found, damage)
    assert "FAILED" in Page(write_page(found)).text


def test_a_clip_of_which_no_frame_was_compared_does_not_pass():
    found = report(graphs=[graph()], drifts=[drifted([])])
    assert list(found.failures()) == ["bikes.mp4 against fp32: no frame was compared"]
    assert not found.passed


@pytest.mark.parametrize(("frames", "said"), [(49, True), (50, False)])
def test_it_is_said_where_a_slope_was_not_judged(frames, said):
    found = report(drifts=[drifted([1.0 - 2e-4 * frame for frame in range(frames)])])
    remark = "the slope of object 1 was not judged: that takes 50 frames on which the reference's mask is large enough"
    assert everywhere(found, remark) is said
    assert ("+0.0e+00 not judged" in write_markdown(report(drifts=[drifted([1.0] * frames)]))) is said
    assert bool(list(found.failures())) is not said


@pytest.mark.parametrize(
    ("own", "failures"),
    [
        ("", []),
        ("choice_flips = 200\npresence_flips = 0\n", []),
        ("choice_flips = 150\n", ["bikes.mp4 against fp32: 166.7 choice flips per 1,000 object-frames are over 150"]),
        ("mean_f = 0.9\n", ["bikes.mp4 against fp32, object 1: boundary F 0.8000 is under 0.9"]),
    ],
)
def test_flips_and_outlines_are_told_and_judged_where_a_limit_asks_for_it(tmp_path, own, failures):
    (tmp_path / "own.toml").write_text(f"[track.fp16]\n{own}")
    limits = Thresholds.read(tmp_path / "own.toml")
    drift = drifted([1.0] * 60, limits=limits, boundary_f=0.8)
    drift.rows[:10] = [row(frame, boundary_f=0.8, choice_differs=True) for frame in range(10)]
    drift.judge(limits.track("fp16", ()))
    found = report(drifts=[drift])
    found.thresholds = limits
    assert list(found.failures()) == failures
    assert found.passed is not bool(failures)
    assert (drift.flips.object_frames, drift.flips.presence, round(drift.flips.choice, 1)) == (60, 0.0, 166.7)
    told = f"presence 0.0{' (limit 0)' if 'presence' in own else ''}, choice 166.7"
    assert told in write_markdown(found)
    assert told in Page(write_page(found)).text
    assert found.to_json()["drift"][0]["flips_per_1000"] == {"object_frames": 60, "presence": 0.0, "choice": 1000 / 6}
    assert found.to_json()["thresholds"]["drift"]["mean_f"] == (0.9 if "mean_f" in own else None)
    assert found.track_limits.of_drift in write_markdown(found)
    assert found.track_limits.of_drift in Page(write_page(found)).text


def test_a_limit_of_flips_that_no_reference_tells_is_missed():
    drift = drifted([1.0] * 60, choice_differs=None)
    drift.judge(replace(LIMITS.track("fp16", ()), choice_flips=5.0))
    assert drift.failures == ("choice flips are limited, and the reference does not say which mask it took",)


def test_a_graph_in_less_than_it_needs_that_nobody_measured_fails():
    found = report(drifts=[drifted([1.0] * 60)], unmeasured={"mask_decoder": ["float32"]})
    failure = (
        "graph mask_decoder computes in float16, SAM 2 needs float32 there: compare it with upstream, without --no-upstream, or allow "
        "float16 in judged_as of --thresholds"
    )
    assert (found.passed, list(found.failures())) == (False, [failure])
    assert everywhere(found, failure)


def test_json_has_every_number():
    told = json.loads(
        json.dumps(
            report(graphs=[graph()], cases=[case()], drifts=[drifted([1.0] * 60), drifted([0.9] * 60, against="upstream")]).to_json()
        )
    )
    assert [(drift["against"], len(drift["rows"]), drift["objects"][0]["passed"]) for drift in told["drift"]] == [
        ("fp32", 60, True),
        ("upstream", 60, False),
    ]
    assert told["drift"][0]["rows"][3] == {
        "frame": 3,
        "object_id": 1,
        "iou": 1.0,
        "boundary_f": 1.0,
        "logits": 0.0,
        "pixels": 1000,
        "found_pixels": 1000,
        "presence_differs": False,
        "choice_differs": False,
    }
    assert told["thresholds"]["tables"]["track"]["fp16"]["mean_iou"] == 0.995
    assert [row["frame"] for row in told["tracks"][0]["rows"]] == [0, 7]


def test_the_page_needs_nothing_else_and_names_do_no_harm():
    html = write_page(report(graphs=[graph()], cases=[case()], drifts=[drifted([0.9] * 60, clip=HOSTILE)]))
    page = Page(html)
    assert HOSTILE in page.text
    assert "script" not in {tag for tag, *_ in page.attributes}
    assert "<script" not in html
    addresses = [value for _, name, value in page.attributes if name in {"src", "href", "data", "action"}]
    assert addresses
    assert all(value.startswith("data:image/png;base64,") for value in addresses)
    assert not re.search(r"https?://|@import|url\(", html)


def test_every_row_of_a_markdown_table_has_as_many_cells_as_its_head():
    lines = write_markdown(report(graphs=[graph()], cases=[case()], drifts=[drifted([0.9] * 60, clip=HOSTILE)])).splitlines()
    tables = [[line for line in block.splitlines() if line.startswith("|")] for block in "\n".join(lines).split("###")]
    assert len([table for table in tables if table]) == 3
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) <= 1
    assert len(lines) < 60


def test_a_clip_on_which_nothing_could_be_judged_has_a_page_too():
    nothing = drifted([1.0] * 5, pixels=0)
    assert "Object 1: nothing to judge, no mask of the reference has 100 pixels." in Page(write_page(report(drifts=[nothing]))).text


class TestFolder:
    def test_files_are_there_after_every_write(self, tmp_path):
        folder, growing = ReportFolder(tmp_path / "new" / "report"), report(finished=False)
        folder.write(growing)
        assert json.loads((folder.path / "report.json").read_text())["finished"] is False
        growing.graphs, growing.finished = [graph()], True
        folder.write(growing)
        assert json.loads((folder.path / "report.json").read_text())["passed"] is True
        assert {path.name for path in folder.path.iterdir()} == {"report.json", "report.md", "report.html", "frames.jsonl"}

    def test_rows_are_written_as_they_come(self, tmp_path):
        folder = ReportFolder(tmp_path)
        for frame in range(3):
            folder.add_rows("bikes.mp4", "fp32", [row(frame, 0.5)])
            lines = [json.loads(line) for line in (tmp_path / "frames.jsonl").read_text().splitlines()]
            assert [(line["clip"], line["frame"], line["iou"]) for line in lines] == [("bikes.mp4", n, 0.5) for n in range(frame + 1)]

    def test_pictures_have_names_that_any_system_takes_and_old_ones_go(self, tmp_path):
        folder = ReportFolder(tmp_path)
        folder.add_pictures(drifted([0.9] * 3, clip=f"../{HOSTILE}"))
        folder.write(report())
        (picture,) = (tmp_path / "worst").iterdir()
        assert re.fullmatch(r"[A-Za-z0-9_.-]+-fp32-object1-frame2\.png", picture.name)
        folder = ReportFolder(tmp_path)
        assert list((tmp_path / "worst").iterdir()) == []
        assert (tmp_path / "frames.jsonl").read_bytes() == b""

    def test_pictures_in_a_folder_without_a_report_are_not_ours(self, tmp_path):
        (tmp_path / "worst").mkdir()
        (tmp_path / "worst" / "mine.png").write_bytes(b"mine")
        ReportFolder(tmp_path)
        assert (tmp_path / "worst" / "mine.png").read_bytes() == b"mine"

    def test_a_folder_that_cannot_be_written(self):
        with pytest.raises(OutputError, match=r"^/proc/no: "):
            ReportFolder(Path("/proc/no"))
