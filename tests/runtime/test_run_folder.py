import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction

import pytest
from test_writers import frames_of, result

from trt_track.errors import OutputError
from trt_track.runtime.channel import Channel
from trt_track.runtime.run_folder import RunFolder
from trt_track.runtime.video import open_video

RATE = Fraction(25)


@pytest.fixture(autouse=True)
def no_threads_left():
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("trt-track")] == []


def write_run(out, count=5, *, finish=True, **options):
    with RunFolder(out, frame_rate=RATE, **options) as folder:
        for index in range(count):
            folder.write(result(index))
        if finish:
            folder.finish({"model": "tiny"})


def names(folder):
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def test_a_finished_run(tmp_path):
    out = tmp_path / "runs/clip"
    write_run(out, 3)
    assert names(out) == ["masks/00000.png", "masks/00001.png", "masks/00002.png", "run.json", "tracked.mp4", "tracks.jsonl"]
    assert json.loads((out / "run.json").read_text()) == {"model": "tiny", "frames_written": 3}
    assert len((out / "tracks.jsonl").read_text().splitlines()) == len(frames_of(out / "tracked.mp4")[1]) == 3


@pytest.mark.parametrize(("save", "files"), [({"jsonl"}, ["run.json", "tracks.jsonl"]), ({"png"}, ["masks/00000.png", "run.json"])])
def test_only_what_was_asked_for(tmp_path, save, files):
    write_run(tmp_path / "out", 1, save=save)
    assert names(tmp_path / "out") == files


def test_nothing_is_created_without_a_result(tmp_path):
    with RunFolder(tmp_path / "out", frame_rate=RATE):
        pass
    assert not (tmp_path / "out").exists()
    with pytest.raises(OutputError, match="cannot save gif: choose from video, jsonl, png"):
        RunFolder(tmp_path / "out", frame_rate=RATE, save={"gif"})


def test_a_finished_run_is_kept_unless_overwritten(tmp_path):
    write_run(tmp_path, 5)
    with pytest.raises(OutputError, match="holds a finished run"):
        RunFolder(tmp_path, frame_rate=RATE)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "masks/mine.png").write_text("mine")
    RunFolder(tmp_path, frame_rate=RATE, overwrite=True).close()
    assert "masks/00004.png" in names(tmp_path)  # nothing happens before the first result
    write_run(tmp_path, 1, save={"png"}, overwrite=True)
    assert names(tmp_path) == ["masks/00000.png", "masks/mine.png", "notes.txt", "run.json"]


def test_an_unfinished_run_is_replaced(tmp_path):
    write_run(tmp_path, 5, finish=False)
    assert "run.unfinished" in names(tmp_path)
    write_run(tmp_path, 2)
    assert names(tmp_path) == ["masks/00000.png", "masks/00001.png", "run.json", "tracked.mp4", "tracks.jsonl"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_files_of_others_are_never_touched(tmp_path, overwrite):
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/00000.png").write_text("the ground truth")
    with pytest.raises(OutputError, match=r"holds masks/00000.png, which no run of this program wrote"):
        RunFolder(tmp_path, frame_rate=RATE, overwrite=overwrite)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is a file, not a folder"):
        RunFolder(tmp_path / "file", frame_rate=RATE)


def test_an_error_in_the_thread_reaches_the_producer(tmp_path):
    folder = RunFolder(tmp_path, frame_rate=RATE, save={"jsonl", "png"})
    folder.write(result(0))
    block(tmp_path, 1)
    with pytest.raises(OutputError, match=r"00001\.png"):  # noqa: PT012 - on one of the next calls
        for index in range(1, 50):
            folder.write(result(index))
    folder.close()  # told once
    assert "masks/00000.png" in names(tmp_path)
    with pytest.raises(OutputError), RunFolder(tmp_path / "second", frame_rate=RATE, save={"png"}) as folder:  # noqa: PT012
        folder.write(result(0))
        block(tmp_path / "second", 1)
        folder.write(result(1))


def block(folder, frame):
    """Put a folder where an image will have to go."""
    (folder / "masks" / f"{frame:05d}.png").mkdir(parents=True)


def test_more_objects_than_mask_images_hold_end_no_run(tmp_path, caplog):
    with RunFolder(tmp_path, frame_rate=RATE) as folder:
        for index in range(4):
            folder.write(result(index, ids=(254 + index, 256 + index)))
        folder.finish({})
    lines = [json.loads(line) for line in (tmp_path / "tracks.jsonl").read_text().splitlines()]
    assert [[entry["id"] for entry in line["objects"]] for line in lines] == [[254, 256], [255, 257], [256, 258], [257, 259]]
    assert len(frames_of(tmp_path / "tracked.mp4")[1]) == len(list((tmp_path / "masks").iterdir())) == 4
    assert len(caplog.messages) == 1


def test_an_exception_in_the_loop_leaves_complete_files(tmp_path):
    with pytest.raises(KeyboardInterrupt), RunFolder(tmp_path, frame_rate=RATE) as folder:  # noqa: PT012
        for index in range(30):
            folder.write(result(index))
        raise KeyboardInterrupt
    assert len((tmp_path / "tracks.jsonl").read_text().splitlines()) == len(frames_of(tmp_path / "tracked.mp4")[1]) == 30
    assert "run.json" not in names(tmp_path)


def test_queue_is_bounded():
    channel = Channel(3)
    thread = threading.Thread(target=lambda: [channel.put(number) for number in range(10)])
    thread.start()
    time.sleep(0.05)
    assert len(channel) == 3
    channel.cancel()
    thread.join(1)
    assert not thread.is_alive()
    assert channel.put(0) is False


CHILD = """
import sys
sys.path.insert(0, {tests!r})
import resource
from test_run_folder import RATE, RunFolder, result
from trt_track.errors import OutputError
if {limit}:
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    with RunFolder({out!r}, frame_rate=RATE, save={save!r}) as folder:
        for index in range(100000):
            folder.write(result(index, size_wh=(320, 240)))
            print(index, flush=True)
except OutputError as error:
    print("OutputError:", error, flush=True)
"""


def start_child(out, *, save, limit=0):
    code = CHILD.format(tests=os.path.dirname(__file__), out=str(out), save=set(save), limit=limit)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_a_killed_run_leaves_files_that_can_be_read(tmp_path):
    child = start_child(tmp_path, save={"video", "jsonl", "png"})
    written = -1
    for line in child.stdout:
        written = int(line)
        if written >= 120:
            break
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    lines = (tmp_path / "tracks.jsonl").read_text().splitlines()
    assert [json.loads(line)["frame"] for line in lines] == list(range(len(lines)))
    assert len(lines) > 110
    with open_video(tmp_path / "tracked.mp4") as video:
        assert len(list(video.frames(size=16))) >= 50  # the fragment that was being written may be cut
    assert "run.unfinished" in names(tmp_path)


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limit on the size of files")
@pytest.mark.parametrize(("kind", "file"), [("jsonl", "tracks.jsonl"), ("video", "tracked.mp4")])
def test_no_room_for_more(tmp_path, kind, file):
    child = start_child(tmp_path, save={kind}, limit=100_000)
    output = child.communicate(timeout=60)[0].splitlines()
    assert output[-1].startswith("OutputError:")
    assert file in output[-1]
    assert "what was written before is kept" in output[-1]
    if kind == "jsonl":
        lines = (tmp_path / file).read_text().splitlines()
        assert [json.loads(line)["frame"] for line in lines] == list(range(len(lines)))
        assert len(lines) > 10
    else:
        assert len(frames_of(tmp_path / file)[1]) > 5


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no full device")
@pytest.mark.parametrize(("kind", "file"), [("jsonl", "tracks.jsonl"), ("video", "tracked.mp4")])
def test_a_full_disk(tmp_path, monkeypatch, kind, file):
    monkeypatch.setattr(RunFolder, "_prepare", lambda _: (tmp_path / file).symlink_to("/dev/full"))
    folder = RunFolder(tmp_path, frame_rate=RATE, save={kind})
    with pytest.raises(OutputError, match=f"{file}: the disk is full"):  # noqa: PT012 - on one of these calls
        for index in range(60):
            folder.write(result(index))
        folder.close()
    folder.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="no permission to write here"):
        RunFolder(tmp_path / "out", frame_rate=RATE)
