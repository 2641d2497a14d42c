"""`engine.json`: what the engines of one TensorRT version and one GPU family say about themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

from trt_track.engines.bundle import Bundle
from trt_track.engines.file_record import FileRecord, write_atomically
from trt_track.engines.manifest import read_json
from trt_track.engines.profiles import Profile
from trt_track.errors import BundleError, EngineMismatchError
from trt_track.specs import Limits

FORMAT: Final = 1
RECORD: Final = "engine.json"
RECIPE: Final = 2
"""Raised when the builder compiles the same graph to another engine: other flags, another rewriting for SM 7.5."""
ALL: Final = "all"
"""Target of an engine that runs on every GPU which TensorRT for RTX supports."""
FAMILIES: Final = {75: "RTX 20, T4", 80: "A100", 86: "RTX 30", 89: "RTX 40", 90: "H100", 100: "B200", 120: "RTX 50", 121: "GB10"}


def sm_name(sm: int) -> str:
    """Return how users know a compute capability: 89 -> "SM 8.9 (RTX 40)"."""
    family = f" ({FAMILIES[sm]})" if sm in FAMILIES else ""
    return f"SM {sm // 10}.{sm % 10}{family}"


def target_name(target: str) -> str:
    """Return how users know a build target: "sm89" -> "SM 8.9 (RTX 40)"."""
    return "every RTX GPU" if target == ALL else sm_name(int(target.removeprefix("sm")))


@dataclass(frozen=True, slots=True)
class EngineRecord:
    """One engine: its file and everything that it was built from."""

    graph: str
    engine: FileRecord
    onnx_sha256: str
    profile: Profile
    limits: Limits
    build_s: float
    log: str
    """Name of the build log beside the engine."""
    recipe: int = RECIPE
    """How it was compiled, as a number: engines of another recipe are built again."""
    weights_bytes: int | None = None
    """GPU memory that its weights take, None where the record is older than this field or the build log does not say."""
    activation_bytes: int | None = None
    """Work space at the largest sizes that it was built for, None as above."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote; raises KeyError, TypeError or ValueError for anything else."""
        limits: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in data["limits"].items()}
        parsed = {"engine": FileRecord.from_json(data["engine"]), "profile": Profile.from_json(data["profile"]), "limits": Limits(**limits)}
        return cls(**{**data, **parsed})

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        parts = {"engine": self.engine.to_json(), "profile": self.profile.to_json(), "limits": asdict(self.limits)}
        plain = {"graph": self.graph, "onnx_sha256": self.onnx_sha256, "build_s": self.build_s, "log": self.log, "recipe": self.recipe}
        told = {"weights_bytes": self.weights_bytes, "activation_bytes": self.activation_bytes}
        return {**plain, **parts, **{name: nbytes for name, nbytes in told.items() if nbytes is not None}}

    def matches(self, other: Self) -> bool:
        """Tell whether both were built from the same inputs."""
        mine, theirs = (self.onnx_sha256, self.profile, self.recipe), (other.onnx_sha256, other.profile, other.recipe)
        return mine == theirs and self.limits == other.limits


@dataclass(frozen=True, slots=True)
class EngineFolder:
    """The engines of one bundle for one TensorRT flavour, version and target."""

    folder: Path
    flavour: str
    version: str
    target: str
    """`sm89` and the like, or `all`."""
    records: Mapping[str, EngineRecord]

    @classmethod
    def at(cls, bundle: Bundle, flavour: str, version: str, target: str) -> Self:
        """Return the engines that a bundle has for these; no records when nothing was built.

        Raises:
            BundleError: `engine.json` is damaged.
        """
        folder = bundle.folder / "engines" / f"{flavour}-{version}" / target
        return cls(folder, flavour, version, target, _read_records(folder, flavour, version, target))

    def with_record(self, record: EngineRecord) -> Self:
        """Return the folder with one engine more (or replaced) and write `engine.json`."""
        changed = type(self)(self.folder, self.flavour, self.version, self.target, {**self.records, record.graph: record})
        records = {name: item.to_json() for name, item in changed.records.items()}
        head = {"format": FORMAT, "flavour": self.flavour, "version": self.version, "target": self.target}
        write_atomically(self.folder / RECORD, (json.dumps({**head, "engines": records}, indent=2) + "\n").encode())
        return changed

    def read_plan(self, bundle: Bundle, graph: str) -> bytes:
        """Return a serialised engine after checking that it is the one that was built, from the bundle's graph.

        Raises:
            EngineMismatchError: not built, changed since, or built from another ONNX file.
        """
        self.check_presence(bundle, graph)
        engine = self.records[graph].engine
        if problem := engine.problem(self.folder):
            raise EngineMismatchError(f"{problem}: {build_advice(bundle, self.flavour)}")
        return engine.path(self.folder).read_bytes()

    def check_presence(self, bundle: Bundle, graph: str) -> None:
        """Check an engine without reading it.

        Raises:
            EngineMismatchError: not built, built from another ONNX file, missing or of another size.
        """
        record = self.records.get(graph)
        if record is None:
            problem: str | None = f"{self.folder} lacks {graph}"
        elif record.onnx_sha256 != bundle.record(graph).onnx.sha256:
            problem = f"engine {graph!r} was built from another ONNX file than the bundle's"
        else:
            problem = record.engine.presence_problem(self.folder)
        if problem:
            raise EngineMismatchError(f"{problem}: {build_advice(bundle, self.flavour)}")


def build_advice(bundle: Bundle, flavour: str) -> str:
    """Return what to do when a bundle has no engines that fit."""
    backend = "" if flavour == "tensorrt-rtx" else f" --backend {flavour}"
    return f"run trt-track build {bundle.folder} --target local{backend}"


def find_engines(bundle: Bundle, *, flavour: str, version: str, sm: int) -> EngineFolder:
    """Return the engines of a bundle that run on a GPU, those built for exactly it first.

    Args:
        bundle: the opened bundle.
        flavour: "tensorrt-rtx" or "tensorrt".
        version: the TensorRT version installed here.
        sm: the GPU's compute capability times ten, 89 for 8.9.

    Raises:
        EngineMismatchError: there is none, or one of their files is missing; the message says what there is instead.
        BundleError: `engine.json` is damaged.
    """
    for target in (f"sm{sm}", ALL):
        found = EngineFolder.at(bundle, flavour, version, target)
        if found.records:
            for graph in bundle.manifest.graphs:
                found.check_presence(bundle, graph)
            return found
    raise EngineMismatchError(_explain_absence(bundle, flavour, version, sm))


def _explain_absence(bundle: Bundle, flavour: str, version: str, sm: int) -> str:
    remedy = build_advice(bundle, flavour)
    built = [path.parent for path in sorted((bundle.folder / "engines").glob(f"*/*/{RECORD}"))]
    same = [target_name(path.name) for path in built if path.parent.name == f"{flavour}-{version}"]
    if same:
        return f"engine was built for {' and '.join(same)}, this GPU is {sm_name(sm)}: {remedy}"
    if built:
        others = ", ".join(sorted({path.parent.name for path in built}))
        return f"engine was built with {others}, this machine has {flavour}-{version}: {remedy}"
    return f"{bundle.folder} has no engines yet: {remedy}"


def _read_records(folder: Path, flavour: str, version: str, target: str) -> dict[str, EngineRecord]:
    path = folder / RECORD
    if not path.exists():
        return {}
    remedy = f"delete {folder} and run trt-track build again, with --backend {flavour}"
    data = read_json(path, otherwise=remedy)
    try:
        records = {name: EngineRecord.from_json(item) for name, item in data["engines"].items()}
        same = (data["flavour"], data["version"], data["target"]) == (flavour, version, target)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"{path} is malformed ({type(error).__name__}: {error}): {remedy}") from error
    if not same:
        raise EngineMismatchError(f"{path} speaks of {data['flavour']}-{data['version']} {data['target']}: {remedy}")
    return records
