import json
import os
import signal
import time

import psutil
import pytest

from trt_track.bench.prompts import box_prompts
from trt_track.bench.report import Report
from trt_track.bench.worker import messages
from trt_track.errors import PromptError
from trt_track.runtime.prompts import check_prompts


def count(order, send):
    for number in range(order):
        send("number", number)


def die(order, send):
    send("number", order)
    os._exit(3)


def wait(order, send):
    send("pid", os.getpid())
    time.sleep(60)


def survive_interrupt(order, send):
    os.kill(os.getpid(), signal.SIGINT)
    send("number", order)


def test_messages_come_in_order():
    assert list(messages(count, 3)) == [("number", 0), ("number", 1), ("number", 2)]


def test_a_process_that_dies_is_a_failure():
    assert list(messages(die, 7)) == [("number", 7), ("failures", {"step": "process", "reason": "it ended with exit code 3"})]


def test_a_process_is_ended_with_its_receiver():
    told = messages(wait, None)
    kind, pid = next(told)
    assert kind == "pid"
    assert psutil.pid_exists(pid)
    told.close()
    assert not psutil.pid_exists(pid)


def test_ctrl_c_is_for_the_parent_alone():
    assert list(messages(survive_interrupt, 1)) == [("number", 1)]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_report_is_written_again_and_again(tmp_path):
    report = Report(tmp_path / "folder" / "bench.json", "trt-track bench --frames 3")
    for rows in ([], [1], [1, 2]):
        report.write({"rows": rows})
        content = json.loads(report.path.read_text())
        assert content["rows"] == rows
    assert list(content) == ["command", "machine", "rows"]
    assert content["command"] == "trt-track bench --frames 3"
    assert {"cpu", "cores", "gpu", "load_1_min", "versions", "date"} <= content["machine"].keys()
    assert [path.name for path in report.path.parent.iterdir()] == ["bench.json"]


def test_a_busy_machine_is_told(tmp_path):
    report = Report(tmp_path / "bench.json", "")
    report.head["machine"]["load_1_min"] = 2.0
    assert report.warning == "the load is 2.0: these figures are not worth keeping"
    report.head["machine"]["load_1_min"] = 0.1
    assert report.warning is None


class TestPrompts:
    def test_boxes_lie_in_the_video_and_apart(self):
        prompts = box_prompts(16, width=640, height=272)
        check_prompts(prompts, width=640, height=272, frame_count=1, reverse=False)
        corners = {tuple(prompt.box_xyxy_px.tolist()) for prompt in prompts}
        assert len(corners) == 16
        assert [prompt.object_id for prompt in prompts] == list(range(1, 17))

    def test_the_first_object_is_always_the_same(self):
        first, of_many = box_prompts(1, width=640, height=272)[0], box_prompts(9, width=640, height=272)[0]
        assert first.box_xyxy_px.tolist() == of_many.box_xyxy_px.tolist()

    @pytest.mark.parametrize("objects", [0, 17])
    def test_there_are_sixteen(self, objects):
        with pytest.raises(PromptError, match="choose 1 to 16"):
            box_prompts(objects, width=640, height=272)
