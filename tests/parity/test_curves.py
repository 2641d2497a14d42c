"""Curves as SVG: well formed, inside their panel, and no bad frame hidden."""

from xml.etree import ElementTree

import pytest

from trt_track.parity.curves import Curve, Limit, Marks, draw_curves, draw_marks

SVG = {"a": Curve("fp32", "a", range(200), [1 - frame / 1000 for frame in range(200)])}


def elements(svg, tag, kind=None):
    return [one for one in ElementTree.fromstring(svg).iter(tag) if kind is None or kind in one.get("class", "").split()]


def points(path):
    """Numbers of every point of a path of M and L."""
    return [tuple(map(float, part.split())) for part in path.get("d").replace("M", "L").split("L")[1:]]


def test_a_panel_has_its_curves_limits_and_ticks():
    curves = [SVG["a"], Curve("up & down", "b", range(200), [0.9] * 200)]
    svg = draw_curves("IoU", curves, [Limit("least", 0.85), Limit("mean", 0.97)])
    height = float(ElementTree.fromstring(svg).get("viewBox").split()[3])
    lines = elements(svg, "path", "line")
    assert [line.get("class") for line in lines] == ["line a", "line b"]
    assert [title.text for title in lines[1].iter("title")] == ["up & down"]
    assert all(0 <= x <= 1000 and 0 <= y <= height for line in lines for x, y in points(line))
    assert [text.text for text in elements(svg, "text", "limit-name")] == ["mean 0.97", "least 0.85"]
    assert [text.text for text in elements(svg, "text", "tick-x")] == ["0", "50", "100", "150"]
    least = next(circle for circle in elements(svg, "circle") if "a" in circle.get("class"))
    assert least.find("title").text == "least fp32: 0.8010 on frame 199"


def test_higher_values_lie_higher():
    (line,) = elements(draw_curves("IoU", [SVG["a"]]), "path", "line")
    heights = [y for _, y in points(line)]
    assert heights == sorted(heights)
    assert heights[0] < heights[-1]


def test_a_line_breaks_where_frames_are_missing():
    (line,) = elements(draw_curves("IoU", [Curve("fp32", "a", [0, 1, 5, 6], [1, 1, 0.5, 1])]), "path", "line")
    assert line.get("d").count("M") == 2


@pytest.mark.parametrize("frames", [1, 2, 801, 20_000])
def test_many_frames_are_drawn_by_few_points_that_keep_the_worst(frames):
    values = [1.0] * frames
    values[frames // 2] = 0.25
    svg = draw_curves("IoU", [Curve("fp32", "a", range(frames), values)])
    (line,) = elements(svg, "path", "line")
    assert len(points(line)) == min(frames, 800) or 400 <= len(points(line)) <= 800
    assert line.get("d").count("M") == 1
    assert elements(svg, "circle")[0].find("title").text == f"least fp32: 0.2500 on frame {frames // 2}"


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_curves(value):
    (line,) = elements(draw_curves("boundary F", [Curve("fp32", "a", [3], [value])], [Limit("least", 1.0)]), "path", "line")
    assert len(points(line)) == 1


def test_marks_have_a_row_each():
    svg = draw_marks([Marks("presence", "c", [3]), Marks("choice", "d", []), Marks("other", "d", [5, 9])], 0, 10)
    marks = elements(svg, "path", "mark")
    assert [mark.find("title").text for mark in marks] == ["presence: 3", "other: 5, 9"]
    assert [mark.get("d").count("M") for mark in marks] == [1, 2]
    assert [text.text for text in elements(svg, "text")] == ["presence", "other"]
    assert draw_marks([Marks("choice", "d", [])], 0, 10) == ""
