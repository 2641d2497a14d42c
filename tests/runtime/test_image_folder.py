import numpy as np
import pytest
from clip_maker import assert_reverse_of, picture, read
from PIL import Image

from trt_track.errors import VideoError
from trt_track.runtime.video import open_video


def test_folder_is_what_upstream_reads(tmp_path):
    for index in (10, 2, 1):
        Image.fromarray(picture(index, 60, 40)).save(tmp_path / f"{index}.jpg", quality=90)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "._1.jpg").write_text("no image either")
    video, frames = read(tmp_path, size=32, keep_video=True)
    assert (video.info.width, video.info.height, video.info.frame_count, video.info.frame_rate) == (60, 40, 3, 30)
    assert frames[2].time_s == pytest.approx(2 / 30)
    for frame, number in zip(frames, (1, 2, 10), strict=True):
        image = Image.open(tmp_path / f"{number}.jpg")
        np.testing.assert_array_equal(frame.model_rgb_hwc, np.array(image.convert("RGB").resize((32, 32))))
        np.testing.assert_array_equal(frame.video_rgb_hwc, np.array(image.convert("RGB")))
    assert_reverse_of(frames, read(tmp_path, reverse=True)[1])


def test_folder_with_two_sizes(tmp_path):
    Image.new("RGB", (60, 40)).save(tmp_path / "0.png")
    Image.new("RGB", (40, 60)).save(tmp_path / "1.png")
    with pytest.raises(VideoError, match=r"0.png is 60x40 and 1.png is 40x60"):
        open_video(tmp_path)


def test_folder_with_a_damaged_image(tmp_path):
    for index in range(3):
        Image.fromarray(picture(index, 60, 40)).save(tmp_path / f"{index}.jpg")
    content = (tmp_path / "1.jpg").read_bytes()
    (tmp_path / "1.jpg").write_bytes(content[:-60])
    video, frames = read(tmp_path)
    assert [frame.index for frame in frames] == [0]
    assert "frame 1 of 3 cannot be read (1.jpg" in video.damage
    with pytest.raises(VideoError, match=r"frame 1 of 3"):
        read(tmp_path, reverse=True)
    video, frames = read(tmp_path, only=(0, 2))  # what is not asked for is not even opened
    assert ([frame.index for frame in frames], video.damage) == ([0, 2], None)
    (tmp_path / "1.jpg").write_bytes(b"")
    with pytest.raises(VideoError, match="not an image"):
        open_video(tmp_path)
