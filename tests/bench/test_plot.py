import pytest
from PIL import Image
from test_figures import run_of

from trt_track.bench.plot import check_plot, write_plot
from trt_track.errors import OutputError


def test_a_picture_of_two_panels(tmp_path):
    runs = [run_of(), run_of("upstream", objects=4), run_of(repeat=1)]
    path = tmp_path / "folder" / "bench.png"
    write_plot(runs, path, title="pico")
    with Image.open(path) as picture:
        assert picture.width > 2 * picture.height
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 50


def test_a_name_that_is_of_no_picture(tmp_path):
    with pytest.raises(OutputError, match=r"choose a name that ends in \.png"):
        check_plot(tmp_path / "bench.txt")


def test_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setattr("trt_track.bench.plot.find_spec", lambda name: None)
    with pytest.raises(OutputError, match=r"--plot needs matplotlib: pip install 'trt-track\[bench\]'"):
        check_plot(tmp_path / "bench.png")


def test_a_folder_that_nobody_can_write_to():
    with pytest.raises(OutputError, match="/proc"):
        write_plot([run_of()], __import__("pathlib").Path("/proc/trt-track/bench.png"), title="")
