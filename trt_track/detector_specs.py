"""The contract of a text-prompted detector's two graphs: the words once per prompt, then frames.

F frames in one call      T tokens of the prompt, the two at its ends included
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from trt_track.specs import GraphSpec, TensorSpec

DETECTOR_GRAPHS: Final = ("text_encoder", "detector")
MIN_TOKENS: Final = 4
"""Of the shortest prompt: its beginning, one word, a full stop, its end."""


@dataclass(frozen=True, slots=True)
class DetectorSpec:
    """What the runtime must know of a Grounding DINO; everything else is inside the graphs."""

    name: str
    frame_hw: tuple[int, int]
    """Height and width in pixels of the frames that the graph takes."""
    channels: int = 256
    """Width of a token's features [d_model]."""
    queries: int = 900
    """Boxes that it returns for every frame [num_queries]."""
    max_tokens: int = 256
    """Tokens of a prompt at most [max_text_len]."""
    delimiters: tuple[int, ...] = (101, 102, 1012, 1029)
    """Tokens that end a phrase: the prompt's beginning and end, full stop, question mark."""
    box_threshold: float = 0.35
    """Least probability of a box's best token, where the user names none; this one is upstream's demonstration's."""


def detector_graph_specs(detector: DetectorSpec) -> dict[str, GraphSpec]:
    """Return the contract of both graphs; all their tensors between each other are float32."""
    text = TensorSpec("text", ("T", detector.channels), "float32")
    attends = TensorSpec("attends", ("T", "T"), "bool")
    position = TensorSpec("position", ("T",), "int32")
    specs = (
        GraphSpec("text_encoder", (TensorSpec("token", ("T",), "int32"), position, attends), (text,)),
        GraphSpec(
            "detector",
            (TensorSpec("frames", ("F", *detector.frame_hw, 3), "uint8"), text, position, attends),
            (
                TensorSpec("logits", ("F", detector.queries, "T"), "float32"),
                TensorSpec("boxes", ("F", detector.queries, 4), "float32"),
                TensorSpec("cell", ("F", detector.queries), "int32"),
            ),
        ),
    )
    return {spec.name: spec for spec in specs}
