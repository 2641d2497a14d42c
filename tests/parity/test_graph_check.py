"""The sizes that graphs are compared at: what the engines of a session were built for."""

from types import SimpleNamespace

import pytest

from trt_track.engines.profiles import graph_profile
from trt_track.parity.graph_check import QUICK, STEADY, fitting_sizes
from trt_track.specs import Limits, ModelSpec, graph_specs

MODEL = ModelSpec("model", 64)


def session_of(limits):
    return SimpleNamespace(max_batch=limits.objects, max_objects=limits.objects, max_video_side=max(limits.video_wh))


@pytest.mark.parametrize("sizes", [QUICK, STEADY])
@pytest.mark.parametrize("limits", [Limits(objects=1), Limits(objects=2), Limits(), Limits(objects=2, video_wh=(300, 200))])
def test_sizes_are_within_what_engines_were_built_for(sizes, limits):
    fitting = fitting_sizes(session_of(limits), sizes)
    for spec in graph_specs(MODEL, "float16").values():
        profile = graph_profile(spec, MODEL, limits)
        for tensor in spec.inputs:
            fewest, _, most = profile.shapes[tensor.name]
            assert all(low <= size <= high for low, size, high in zip(fewest, tensor.concrete(fitting), most, strict=True)), tensor
        values = {"video_height": fitting["H"], "video_width": fitting["W"]}
        assert all(low <= values[name] <= high for name, (low, _, high) in profile.values.items())


@pytest.mark.parametrize("sizes", [QUICK, STEADY])
def test_sizes_are_the_usual_ones_where_nothing_limits_them(sizes):
    assert fitting_sizes(SimpleNamespace(max_batch=4, max_objects=None, max_video_side=None), sizes) == sizes
    assert fitting_sizes(session_of(Limits()), sizes) == sizes
