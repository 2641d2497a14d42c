"""A bundle: one folder per model, size and precision that holds the manifest, the ONNX graphs and the engines built so far.

- `manifest.json`: see manifest.py
- `onnx/<graph>.onnx`
- `engines/<flavour>-<version>/<target>/engine.json`: see engine_record.py
- `engines/<flavour>-<version>/<target>/<graph>.engine`
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from trt_track.detector_specs import DetectorSpec
from trt_track.engines.file_record import FileRecord
from trt_track.engines.manifest import MANIFEST, Description, GraphRecord, Manifest, own_version, read_manifest
from trt_track.errors import BundleError
from trt_track.specs import GraphSpec, ModelSpec


class Draft:
    """A bundle that is being written: put the ONNX files where `onnx_path` says and `add` their contracts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records: dict[str, GraphRecord] = {}
        self.files: dict[str, FileRecord] = {}
        (folder / "onnx").mkdir(parents=True)

    def onnx_path(self, graph: str) -> Path:
        """Return where the ONNX file of `graph` belongs; weights outside it belong into `<graph>.onnx.data` beside it."""
        return self.folder / "onnx" / f"{graph}.onnx"

    def add_file(self, name: str, content: bytes) -> None:
        """Write and seal a file that the runtime needs beside the graphs."""
        path = self.folder / name
        path.write_bytes(content)
        self.files[name] = FileRecord.of(self.folder, path)

    def add(self, spec: GraphSpec) -> None:
        """Seal the files of one graph.

        Raises:
            BundleError: its ONNX file was not written.
        """
        path = self.onnx_path(spec.name)
        if not path.is_file():
            raise BundleError(f"graph {spec.name!r} has no file {path}: write it before adding the graph")
        external = tuple(FileRecord.of(self.folder, item) for item in sorted(path.parent.glob(f"{path.name}.*")))
        self.records[spec.name] = GraphRecord(spec, FileRecord.of(self.folder, path), external)


class Bundle:
    """An existing bundle. Every path that it hands out leads to a file whose SHA-256 was checked."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._sound: set[str] = set()

    @classmethod
    def open(cls, folder: Path | str) -> Self:
        """Read the manifest and look that every ONNX file is there; contents are checked by `onnx_path` and `verify`.

        Raises:
            BundleError: not a bundle, damaged, or written by a newer trt-track.
        """
        path = Path(folder)
        manifest = read_manifest(path)
        for file in (*(file for record in manifest.graphs.values() for file in record.files), *manifest.files.values()):
            if problem := file.presence_problem(path):
                raise BundleError(f"{problem}: {manifest.remedy}")
        return cls(path, manifest)

    @classmethod
    @contextmanager
    def create(cls, folder: Path | str, description: Description, *, overwrite: bool = False) -> Iterator[Draft]:
        """Write a bundle: all of it appears at once when the block ends, nothing when the block fails.

        Args:
            folder: where the bundle goes; its parents are made.
            description: what the manifest says of the model.
            overwrite: replace the bundle (with its engines) that is there already.

        Raises:
            BundleError: something is there already, the disk refused, or no graph was added.
        """
        target = Path(folder)
        _refuse_taken(target, overwrite=overwrite)
        work = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}"
        try:
            draft = Draft(work)
            yield draft
            _write_manifest(draft, description)
            _move_into_place(work, target)
        except OSError as error:
            raise BundleError(f"bundle {target} cannot be written: {error}") from error
        finally:
            shutil.rmtree(work, ignore_errors=True)

    @property
    def model(self) -> ModelSpec:
        """What the tracking loop must know of the model.

        Raises:
            BundleError: the bundle is a detector's.
        """
        model = self.manifest.description.model
        if isinstance(model, DetectorSpec):
            raise BundleError(f"{self.folder} holds the detector {model.name}, which cannot track: give it with --detector")
        return model

    @property
    def detector(self) -> DetectorSpec:
        """What the runtime must know of the detector.

        Raises:
            BundleError: the bundle is a tracker's.
        """
        model = self.manifest.description.model
        if isinstance(model, ModelSpec):
            raise BundleError(
                f"{self.folder} holds the tracker {model.name}, which cannot detect: trt-track export-detector makes detectors"
            )
        return model

    @property
    def specs(self) -> Mapping[str, GraphSpec]:
        """Contract of every graph, by name."""
        return {name: record.spec for name, record in self.manifest.graphs.items()}

    def record(self, graph: str) -> GraphRecord:
        """Return what the manifest says of one graph.

        Raises:
            BundleError: the bundle has no such graph.
        """
        try:
            return self.manifest.graphs[graph]
        except KeyError:
            raise BundleError(f"{self.folder} has no graph {graph!r}; it has {', '.join(self.manifest.graphs)}") from None

    def onnx_path(self, graph: str) -> Path:
        """Return the ONNX file of a graph after checking its SHA-256, once per opened bundle.

        Raises:
            BundleError: the bundle has no such graph, or a file of it is missing or was changed.
        """
        record = self.record(graph)
        if graph not in self._sound:
            for file in record.files:
                if problem := file.problem(self.folder):
                    raise BundleError(f"{problem}: {self.manifest.remedy}")
            self._sound.add(graph)
        return record.onnx.path(self.folder)

    def file_path(self, name: str) -> Path:
        """Return a file that lies beside the graphs after checking its SHA-256.

        Raises:
            BundleError: the bundle has no such file, or it is missing or was changed.
        """
        record = self.manifest.files.get(name)
        if record is None:
            raise BundleError(f"{self.folder} has no file {name!r}: {self.manifest.remedy}")
        if problem := record.problem(self.folder):
            raise BundleError(f"{problem}: {self.manifest.remedy}")
        return record.path(self.folder)

    def verify(self, on_progress: Callable[[int, int], None] | None = None) -> None:
        """Check the SHA-256 of every ONNX file now.

        Args:
            on_progress: called with the bytes checked so far and the bytes in all.

        Raises:
            BundleError: a file is missing or was changed.
        """
        sizes = {name: sum(file.bytes for file in record.files) for name, record in self.manifest.graphs.items()}
        done = 0
        for name, size in sizes.items():
            self.onnx_path(name)
            done += size
            if on_progress:
                on_progress(done, sum(sizes.values()))


def _refuse_taken(target: Path, *, overwrite: bool) -> None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not (target / MANIFEST).is_file():
        raise BundleError(f"{target} exists and is no bundle: choose another folder")
    if not overwrite:
        raise BundleError(f"{target} holds a bundle already: pass --overwrite to replace it with its engines")


def _write_manifest(draft: Draft, description: Description) -> None:
    if not draft.records:
        raise BundleError("a bundle needs at least one graph, none was added")
    manifest = Manifest(description, draft.records, own_version(), draft.files)
    text = json.dumps(manifest.to_json(), indent=2) + "\n"
    (draft.folder / MANIFEST).write_text(text, encoding="utf-8")


def _move_into_place(work: Path, target: Path) -> None:
    """Rename `work` to `target`; what was there is kept aside until the new one stands."""
    aside = work.with_name(f"{work.name}.old")
    if target.exists():
        target.rename(aside)
    try:
        work.rename(target)
    except OSError:
        if aside.exists():
            aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)
