"""The contract between export, engines and runtime: which graphs exist and what their tensors look like.

A dimension is a number, or the name of a size that changes between calls:

    F frames in one encoder call      B objects in one batch       N memories of each object
    P object pointers of each object  K clicks of each object      pages, pointers: capacity of the banks
    H, W the video's height and width
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from trt_track.errors import TensorMismatchError

Dim: TypeAlias = int | str

PRECISIONS: Final = ("fp32", "fp16", "bf16", "int8")
"""Names of the shipped recipes."""
GRAPHS: Final = ("image_encoder", "memory_attention", "mask_decoder", "memory_encoder", "mask_prompt", "mask_upscale")
DTYPE_BYTES: Final = {"uint8": 1, "bool": 1, "float16": 2, "bfloat16": 2, "int32": 4, "float32": 4, "int64": 8}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One named tensor of a graph: its shape (numbers and named sizes) and its numpy dtype."""

    name: str
    shape: tuple[Dim, ...]
    dtype: str

    def concrete(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Return the shape with every named size replaced by its number.

        Raises:
            TensorMismatchError: a named size is missing from `sizes`.
        """
        try:
            return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in self.shape)
        except KeyError as missing:
            raise TensorMismatchError(f"tensor {self.name!r} needs a number for its size {missing}") from None

    def check(self, shape: Sequence[int], dtype: str, sizes: dict[str, int]) -> None:
        """Compare a tensor with this spec; named sizes met for the first time are added to `sizes`.

        Raises:
            TensorMismatchError: rank, dtype or a size is another one.
        """
        if dtype != self.dtype or len(shape) != len(self.shape):
            raise TensorMismatchError(f"tensor {self.name!r}: expected {self}, got {dtype}{list(shape)}")
        for dim, got in zip(self.shape, shape, strict=True):
            expected = sizes.setdefault(dim, got) if isinstance(dim, str) else dim
            if got != expected:
                raise TensorMismatchError(f"tensor {self.name!r}: expected {self} with {sizes}, got {dtype}{list(shape)}")

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class GraphSpec:
    """One ONNX graph: its name, inputs and outputs, in the order of the ONNX file."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def tensor(self, name: str) -> TensorSpec:
        """Return the input or output called `name`.

        Raises:
            TensorMismatchError: the graph has no such tensor.
        """
        for spec in (*self.inputs, *self.outputs):
            if spec.name == name:
                return spec
        known = ", ".join(spec.name for spec in (*self.inputs, *self.outputs))
        raise TensorMismatchError(f"graph {self.name!r} has no tensor {name!r}; it has {known}")


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What the tracking loop must know of a SAM 2 model; everything else is inside the graphs.

    The names in brackets are upstream's configuration keys.
    """

    name: str
    image_size: int
    """Side S of the square that the model sees, in pixels [image_size]."""
    stride: int = 16
    """Pixels per cell of the embedding [backbone_stride]; the grid is G = S / stride."""
    embed_channels: int = 256
    """Channels C of the image embedding and of an object pointer [d_model]."""
    memory_channels: int = 64
    """Channels M of a memory [memory_encoder.out_dim]."""
    memory_frames: int = 7
    """Memories that a frame may attend to: the conditioning frame and the 6 last ones [num_maskmem]."""
    pointer_frames: int = 16
    """Frames whose object pointers a frame may attend to [max_obj_ptrs_in_encoder]."""
    signed_pointer_age: bool = True
    """Whether a pointer's age keeps its sign [use_signed_tpos_enc_to_obj_ptrs]."""
    past_pointers_only: bool = True
    """Whether pointers of conditioning frames still ahead are left out [only_obj_ptrs_in_the_past_for_eval]."""
    max_conditioning: int = -1
    """Conditioning frames attended to at once, -1 for all [max_cond_frames_in_attn]."""
    corrections_condition: bool = False
    """Whether a corrected frame becomes a conditioning frame [add_all_frames_to_correct_as_cond]."""
    multimask_clicks: tuple[int, int] = (0, 1)
    """Fewest and most clicks for which the best of three masks is taken [multimask_min_pt_num, multimask_max_pt_num]."""
    multimask_tracking: bool = True
    """Whether the best of three masks is taken while tracking too [multimask_output_for_tracking]."""

    @property
    def grid(self) -> int:
        """Side G of the embedding, in cells."""
        return self.image_size // self.stride

    @property
    def mask_size(self) -> int:
        """Side of the low-resolution mask logits, 4 G."""
        return 4 * self.grid


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest sizes that engines are built for and that the runtime may ask for."""

    objects: int = 16
    """Objects in one batch (B)."""
    memories: int = 10
    """Memories of one object (N): 6 recent frames and up to 4 conditioning frames."""
    clicks: int = 16
    """Clicks of one object on one frame (K)."""
    frames: int = 1
    """Frames in one encoder call (F)."""
    video_wh: tuple[int, int] = (3840, 2160)
    """Largest video (W, H) that `mask_upscale` is built for."""

    @property
    def pages(self) -> int:
        """Capacity of the memory bank: per object all memories and the frame that is being written."""
        return self.objects * (self.memories + 1)

    @property
    def pointers(self) -> int:
        """Capacity of the pointer bank: per object 15 past frames, the frame that is being written and 4 conditioning frames."""
        return self.objects * 20

    @property
    def pointers_attended(self) -> int:
        """Most object pointers of one object that a frame attends to (P): 15 past frames and 4 conditioning frames."""
        return 19


def graph_specs(model: ModelSpec, real: str, memory: str | None = None) -> dict[str, GraphSpec]:
    """Return the contract of all graphs of one model.

    Clicks are in model pixels (0 to S), labels are upstream's (-1 none, 0 negative, 1 positive, 2 and 3 the corners of a box).

    Args:
        model: its sizes.
        real: dtype of the features that pass from one network to the next; prompts, logits and scores are always float32.
        memory: dtype of memories, by default that of features.
    """
    memory = memory or real
    s, c, m, g, q = model.image_size, model.embed_channels, model.memory_channels, model.grid, model.mask_size
    embed, high_0, high_1 = (c, g, g), (c // 8, q, q), (c // 4, q // 2, q // 2)
    logits = TensorSpec("mask_logits", ("B", 1, q, q), "float32")
    score = TensorSpec("object_score", ("B",), "float32")
    specs = (
        GraphSpec(
            "image_encoder",
            (TensorSpec("frames", ("F", s, s, 3), "uint8"),),
            (
                TensorSpec("embed", ("F", *embed), real),
                TensorSpec("embed_no_memory", ("F", *embed), real),
                TensorSpec("high_res_0", ("F", *high_0), real),
                TensorSpec("high_res_1", ("F", *high_1), real),
            ),
        ),
        GraphSpec(
            "memory_attention",
            (
                TensorSpec("embed", (1, *embed), real),
                TensorSpec("bank", ("pages", m, g, g), memory),
                TensorSpec("page", ("B", "N"), "int32"),
                TensorSpec("age", ("B", "N"), "int32"),
                TensorSpec("pointer_bank", ("pointers", c), "float32"),
                TensorSpec("pointer", ("B", "P"), "int32"),
                TensorSpec("pointer_age", ("B", "P"), "int32"),
                TensorSpec("pointer_span", (1,), "int32"),
            ),
            (TensorSpec("conditioned", ("B", *embed), real),),
        ),
        GraphSpec(
            "mask_decoder",
            (
                TensorSpec("conditioned", ("B", *embed), real),
                TensorSpec("high_res_0", (1, *high_0), real),
                TensorSpec("high_res_1", (1, *high_1), real),
                TensorSpec("points", ("B", "K", 2), "float32"),
                TensorSpec("labels", ("B", "K"), "int32"),
                TensorSpec("mask_prompt", ("B", 1, q, q), "float32"),
                TensorSpec("has_mask", ("B",), "bool"),
                TensorSpec("multimask", ("B",), "bool"),
            ),
            (
                logits,
                TensorSpec("iou", ("B",), "float32"),
                TensorSpec("pointer", ("B", c), "float32"),
                score,
                TensorSpec("chosen", ("B",), "int32"),
            ),
        ),
        GraphSpec(
            "memory_encoder",
            (TensorSpec("embed", (1, *embed), real), logits, score, TensorSpec("from_prompt", ("B",), "bool")),
            (TensorSpec("memory", ("B", m, g, g), memory),),
        ),
        GraphSpec(
            "mask_prompt",
            (TensorSpec("mask", ("B", s, s), "uint8"),),
            (TensorSpec("mask_prompt", ("B", 1, q, q), "float32"), logits, score),
        ),
        GraphSpec(
            "mask_upscale",
            (logits, TensorSpec("video_height", (1,), "int64"), TensorSpec("video_width", (1,), "int64")),
            (
                TensorSpec("filled_logits", ("B", 1, q, q), "float32"),
                TensorSpec("prompt_logits", ("B", 1, q, q), "float32"),
                TensorSpec("mask", ("B", "H", "W"), "uint8"),
            ),
        ),
    )
    return {spec.name: spec for spec in specs}


def to_json(spec: GraphSpec) -> dict[str, Any]:
    """Return a graph's contract as JSON values, for the manifest."""
    tensors = {side: [[t.name, list(t.shape), t.dtype] for t in getattr(spec, side)] for side in ("inputs", "outputs")}
    return {"name": spec.name, **tensors}


def from_json(data: Mapping[str, Any]) -> GraphSpec:
    """Read what `to_json` wrote."""
    sides = {side: tuple(TensorSpec(n, tuple(s), d) for n, s, d in data[side]) for side in ("inputs", "outputs")}
    return GraphSpec(name=data["name"], **sides)
