"""A session without a model: it fills the `Session` protocol, records every call and computes numbers that tell inputs apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from trt_track.engines.host_arrays import HostArrays
from trt_track.specs import ModelSpec, graph_specs

MODEL = ModelSpec("fake", 64, embed_channels=16, memory_channels=8)


@dataclass
class Call:
    """One run of a graph: the sizes that it was called with, and copies of its small inputs."""

    graph: str
    sizes: dict[str, int]
    inputs: dict[str, np.ndarray]


@dataclass
class FakeSession(HostArrays):
    max_batch: int = 4
    max_objects: int | None = None
    max_frames: int | None = None
    max_video_side: int | None = None
    backend: str = "fake"
    version: str = "0"
    device: str = "nothing"
    model: ModelSpec = MODEL
    calls: list[Call] = field(default_factory=list)
    allocations: int = 0
    closed: bool = False

    def __post_init__(self) -> None:
        self.specs = graph_specs(self.model, "float32")

    def empty(self, shape: Sequence[int], dtype: str) -> np.ndarray:
        self.allocations += 1
        return super().empty(shape, dtype)

    def upload(self, target: np.ndarray, source: np.ndarray) -> None:
        assert target.shape == source.shape
        super().upload(target, source)

    def copy(self, target: np.ndarray, source: np.ndarray) -> None:
        assert target.shape == source.shape
        super().copy(target, source)

    def run(self, graph: str, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        spec, sizes = self.specs[graph], {}
        assert set(inputs) == {tensor.name for tensor in spec.inputs}
        assert set(outputs) == {tensor.name for tensor in spec.outputs}
        for tensor in (*spec.inputs, *spec.outputs):
            array = (inputs | outputs)[tensor.name]
            assert array.flags.c_contiguous
            tensor.check(array.shape, array.dtype.name, sizes)
        self.calls.append(Call(graph, sizes, {name: array.copy() for name, array in inputs.items() if array.size < 200}))
        getattr(self, f"_{graph}")(inputs, outputs)

    def _image_encoder(self, inputs, outputs):
        value = inputs["frames"].astype(np.float64).mean()
        for position, array in enumerate(outputs.values()):
            array[...] = value + position

    def _memory_attention(self, inputs, outputs):
        for row, conditioned in enumerate(outputs["conditioned"]):
            pages = [inputs["bank"][page].mean() * (3 + age) for page, age in zip(inputs["page"][row], inputs["age"][row], strict=True)]
            told = zip(inputs["pointer"][row], inputs["pointer_age"][row], strict=True)
            pointers = [inputs["pointer_bank"][pointer].mean() / (3 + abs(int(age))) for pointer, age in told]
            conditioned[...] = np.sin(inputs["embed"].mean() + np.mean(pages) + np.mean(pointers))

    def _mask_decoder(self, inputs, outputs):
        points = (inputs["points"] * (inputs["labels"] + 2)[..., None]).mean(axis=(1, 2)) / 100
        asked = inputs["mask_prompt"].mean(axis=(1, 2, 3)) * inputs["has_mask"]
        value = np.sin(inputs["conditioned"].mean(axis=(1, 2, 3)) + points + asked)
        outputs["mask_logits"][...] = value[:, None, None, None] + np.linspace(-1, 1, outputs["mask_logits"].shape[-1])
        outputs["iou"][...] = abs(value)
        outputs["pointer"][...] = value[:, None]
        outputs["object_score"][...] = value * 5
        outputs["chosen"][...] = inputs["multimask"] * (1 + (value > 0))

    def _memory_encoder(self, inputs, outputs):
        outputs["memory"][...] = (inputs["mask_logits"].mean(axis=(1, 2, 3)) + inputs["from_prompt"])[:, None, None, None]

    def _mask_prompt(self, inputs, outputs):
        outputs["mask_prompt"][...] = outputs["mask_logits"][...] = inputs["mask"].mean() * 20 - 10
        outputs["object_score"][...] = 10

    def _mask_upscale(self, inputs, outputs):
        outputs["filled_logits"][...] = outputs["prompt_logits"][...] = inputs["mask_logits"]
        height, width = outputs["mask"].shape[1:]
        assert (int(inputs["video_height"][0]), int(inputs["video_width"][0])) == (height, width)
        rows = np.arange(height) * inputs["mask_logits"].shape[2] // height
        columns = np.arange(width) * inputs["mask_logits"].shape[3] // width
        outputs["mask"][...] = inputs["mask_logits"][:, 0][:, rows][:, :, columns] > 0

    def memory(self) -> None:
        return None

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
