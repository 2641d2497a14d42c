"""`manifest.json`: what a bundle says about itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Self

from trt_track.detector_specs import DetectorSpec
from trt_track.engines.file_record import FileRecord
from trt_track.errors import BundleError
from trt_track.specs import GraphSpec, ModelSpec, from_json, to_json

FORMAT: Final = 2
"""Version of what a bundle holds; raised when an older trt-track could no longer use it, or this one an older bundle (2: `mask_decoder`
tells which mask it chose)."""
MANIFEST: Final = "manifest.json"


def own_version() -> str:
    """Return the version of the installed trt-track."""
    try:
        return metadata.version("trt-track")
    except metadata.PackageNotFoundError:
        return "unknown"


@dataclass(frozen=True, slots=True)
class Description:
    """What the exporter knows of a model and cannot be read from its ONNX files."""

    model: ModelSpec | DetectorSpec
    precision: str
    """Name of the recipe: one of `specs.PRECISIONS`, or a user's own."""
    dtypes: Mapping[str, str]
    """Dtype that each module computes in, by name: `{"image_encoder": "float16", "mask_decoder": "float32"}`; "int8" where its products are
    quantised."""
    opset: int
    source: str
    """Name of the checkpoint, or "random weights, seed N"."""
    source_sha256: str | None
    """SHA-256 of the checkpoint; None for random weights."""
    tools: Mapping[str, str]
    """Versions of what exported it: torch, onnx, sam2."""
    fill_hole_area: int = 0
    """Holes up to this many cells of the low-resolution mask are filled; 0 for none."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """The whole recipe, exceptions and their reasons included, in the form of its file."""
    calibration: str = ""
    """How the ranges of quantised values were found; empty where there are none."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote; raises KeyError, TypeError or ValueError for anything else."""
        model: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in data["model"].items()}
        kind = DetectorSpec if "queries" in model else ModelSpec
        return cls(**{**data, "model": kind(**model)})

    def to_json(self) -> dict[str, Any]:
        """Return the description as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class GraphRecord:
    """One graph of a bundle: its contract and its files."""

    spec: GraphSpec
    onnx: FileRecord
    external: tuple[FileRecord, ...] = ()
    """Weights that lie beside the ONNX file because they are too large for it."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote; raises KeyError, TypeError or ValueError for anything else."""
        external = tuple(FileRecord.from_json(item) for item in data["external"])
        return cls(from_json(data["spec"]), FileRecord.from_json(data["onnx"]), external)

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        files = {"onnx": self.onnx.to_json(), "external": [item.to_json() for item in self.external]}
        return {"spec": to_json(self.spec), **files}

    @property
    def files(self) -> tuple[FileRecord, ...]:
        """All files of the graph."""
        return (self.onnx, *self.external)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The whole of `manifest.json`."""

    description: Description
    graphs: Mapping[str, GraphRecord]
    written_by: str
    """Version of the trt-track that wrote it."""
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    """What the runtime needs beside the graphs, by name: a detector's tokenizer."""

    @property
    def remedy(self) -> str:
        """What to do when the bundle is damaged."""
        command = "export-detector" if isinstance(self.description.model, DetectorSpec) else "export"
        return f"run trt-track {command} {self.description.model.name} --precision {self.description.precision} again"

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as JSON values."""
        graphs = {name: record.to_json() for name, record in self.graphs.items()}
        files = {"files": {name: record.to_json() for name, record in self.files.items()}} if self.files else {}
        return {"format": FORMAT, "trt_track": self.written_by, **self.description.to_json(), "graphs": graphs, **files}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote; raises KeyError, TypeError or ValueError for anything else."""
        rest = {key: value for key, value in data.items() if key not in ("format", "trt_track", "graphs", "files")}
        graphs = {name: GraphRecord.from_json(record) for name, record in data["graphs"].items()}
        for name, record in graphs.items():
            if record.spec.name != name:
                raise ValueError(f"graph {name!r} calls itself {record.spec.name!r}")
        files = {name: FileRecord.from_json(record) for name, record in data.get("files", {}).items()}
        return cls(Description.from_json(rest), graphs, str(data["trt_track"]), files)


def read_manifest(folder: Path) -> Manifest:
    """Read and check `manifest.json` of a bundle.

    Raises:
        BundleError: not a folder, no manifest, not the JSON that is expected, or written by a newer trt-track.
    """
    path = folder / MANIFEST
    data = read_json(path, otherwise=f"{folder} is not a bundle: write one with trt-track export")
    try:
        if int(data["format"]) > FORMAT:
            written_by, own = data.get("trt_track", "?"), own_version()
            raise BundleError(f"{folder} was written by trt-track {written_by}, newer than this one ({own}): upgrade trt-track")
        if int(data["format"]) < FORMAT:
            raise BundleError(f"{folder} was written by an older trt-track, whose graphs this one cannot use: run trt-track export again")
        return Manifest.from_json(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"{path} is malformed ({type(error).__name__}: {error}): run trt-track export again") from error


def read_json(path: Path, *, otherwise: str) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: the file.
        otherwise: what the error says when there is no such file.

    Raises:
        BundleError: the file is missing, unreadable or no JSON object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(otherwise) from None
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} cannot be read ({error}): {otherwise}") from error
    if not isinstance(data, dict):
        raise BundleError(f"{path} holds no JSON object: {otherwise}")
    return data
