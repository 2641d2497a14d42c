import importlib.util

import pytest

from trt_track.bench.choice import available_sides, chosen_objects, chosen_precision, chosen_sides, upstream_device
from trt_track.errors import ModelError, PromptError


def test_sides_are_named_in_any_order():
    assert chosen_sides(None) is None
    assert chosen_sides("upstream, ours") == ("ours", "upstream")
    assert chosen_sides("upstream-compiled") == ("upstream-compiled",)


@pytest.mark.parametrize(("text", "message"), [("", "names nothing"), ("ours,theirs", "no side is called 'theirs': choose from ours, ")])
def test_sides_that_do_not_exist(text, message):
    with pytest.raises(ModelError, match=message):
        chosen_sides(text)


def test_objects_keep_their_order_and_come_once():
    assert chosen_objects("4,1, 4") == (4, 1)


@pytest.mark.parametrize("text", ["", "0", "17", "1,x", "1.5", "-1"])
def test_objects_that_cannot_be(text):
    with pytest.raises(PromptError, match="give numbers from 1 to 16"):
        chosen_objects(text)


def test_precision():
    assert chosen_precision("auto") is None
    assert chosen_precision("bf16") == "bf16"
    with pytest.raises(ModelError, match="'fp8' is unknown"):
        chosen_precision("fp8")


def test_upstream_computes_where_ours_does():
    assert upstream_device("onnxruntime-cpu", ours=True) == "cpu"
    assert upstream_device("tensorrt-rtx", ours=True) == "cuda"


class TestSides:
    def test_compiled_is_left_out_on_a_cpu_with_its_reason(self):
        sides, left_out = available_sides(None, "cpu")
        assert sides == ("ours", "upstream")
        assert "is for GPUs" in left_out["upstream-compiled"]

    def test_compiled_is_there_on_a_gpu_or_when_it_is_named(self):
        assert available_sides(None, "cuda") == (("ours", "upstream", "upstream-compiled"), {})
        assert available_sides(("upstream-compiled",), "cpu") == (("upstream-compiled",), {})

    @pytest.mark.parametrize("missing", ["torch", "sam2"])
    def test_without_the_package_only_ours_can_be_measured(self, monkeypatch, missing):
        find = importlib.util.find_spec
        monkeypatch.setattr("trt_track.bench.choice.find_spec", lambda name: None if name == missing else find(name))
        with pytest.raises(ModelError, match=rf"{missing} is missing: pip install 'trt-track\[export\]'"):
            available_sides(None, "cpu")
        assert available_sides(("ours",), "cpu") == (("ours",), {})
