"""ONNX -> TensorRT engines: one per graph and GPU family, kept in the bundle, built again only when an input changed."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

from trt_track.engines.bundle import Bundle
from trt_track.engines.engine_record import ALL, EngineFolder, EngineRecord, target_name
from trt_track.engines.file_record import FileRecord, file_sha256, write_atomically
from trt_track.engines.profiles import graph_profile
from trt_track.engines.tensorrt_door import GraphCompiler
from trt_track.engines.turing_form import rewrite_for_turing
from trt_track.errors import EngineBuildError
from trt_track.specs import Limits

log = logging.getLogger(__name__)

LOCAL: Final = "local"
"""Target: the GPU that is present."""


@dataclass(frozen=True, slots=True)
class _Order:
    """One engine to build."""

    bundle: Bundle
    graph: str
    limits: Limits
    compiler: GraphCompiler


def build_engines(
    bundle: Bundle,
    *,
    flavour: str = "tensorrt-rtx",
    targets: Sequence[str] = (LOCAL,),
    limits: Limits | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[EngineRecord]:
    """Compile every graph of a bundle for every target.

    Args:
        bundle: the opened bundle; the engines go into it.
        flavour: "tensorrt-rtx" compiles ahead of time for any target, without a GPU; "tensorrt" only for "local".
        targets: "sm75", "sm80", "sm86", "sm89", "sm120", "sm121", "all" (one engine for all of these) or "local".
        limits: the largest sizes to build for; the defaults when None.
        on_progress: called with the engines done so far and the engines in all.

    Returns:
        One record per graph and target, those that were up to date included.

    Raises:
        BundleError: an ONNX file is missing or was changed.
        BackendError: the flavour is not installed, or "local" finds no GPU.
        EngineBuildError: TensorRT refused a graph or a target.
    """
    compiler = GraphCompiler(flavour)
    names = [_resolve_target(target, compiler) for target in dict.fromkeys(targets)]
    refuse_bfloat16(bundle, names)
    jobs = [(target, graph) for target in dict.fromkeys(names) for graph in bundle.manifest.graphs]
    records = []
    for done, (target, graph) in enumerate(jobs, start=1):
        folder = EngineFolder.at(bundle, flavour, compiler.version, target)
        records.append(_ensure_engine(_Order(bundle, graph, limits or Limits(), compiler), folder))
        if on_progress:
            on_progress(done, len(jobs))
    return records


def _resolve_target(target: str, compiler: GraphCompiler) -> str:
    """Return the name of the folder that a target's engines go into.

    Raises:
        EngineBuildError: the flavour cannot build for it.
    """
    if target == LOCAL:
        from trt_track.engines.cuda_door import find_gpu

        return f"sm{find_gpu().sm}"
    if compiler.flavour != "tensorrt-rtx":
        raise EngineBuildError(f"{compiler.flavour} builds for the GPU that is present alone: pass --target local instead of {target}")
    if target != ALL and target not in compiler.targets:
        known = ", ".join((*compiler.targets, ALL, LOCAL))
        raise EngineBuildError(f"{compiler.flavour} {compiler.version} has no target {target!r}: choose one of {known}")
    return target


def refuse_bfloat16(bundle: Bundle, targets: Sequence[str]) -> None:
    """Refuse to build bfloat16 for GPUs that have none.

    Raises:
        EngineBuildError: Turing is among the targets.
    """
    low = [module for module, dtype in bundle.manifest.description.dtypes.items() if dtype == "bfloat16"]
    turing = [target for target in targets if target in ("sm75", ALL)]
    if low and turing:
        raise EngineBuildError(
            f"SM 7.5 (RTX 20, T4) has no bfloat16, in which {low[0]} computes: export with --precision fp16 for it, "
            f"or leave {turing[0]} out of --target"
        )


def _ensure_engine(order: _Order, folder: EngineFolder) -> EngineRecord:
    """Return the record of an engine, building it first unless it is there and was built from the same inputs."""
    onnx_path = order.bundle.onnx_path(order.graph)
    spec = order.bundle.record(order.graph).spec
    wanted = EngineRecord(
        graph=order.graph,
        engine=FileRecord(f"{order.graph}.engine", "", 0),
        onnx_sha256=order.bundle.record(order.graph).onnx.sha256,
        profile=graph_profile(spec, order.bundle.manifest.description.model, order.limits),
        limits=order.limits,
        build_s=0.0,
        log=f"{order.graph}.log",
    )
    known = folder.records.get(order.graph)
    if known and known.matches(wanted) and known.engine.problem(folder.folder) is None:
        log.info("%s for %s is up to date", order.graph, target_name(folder.target))
        return known
    return _build_engine(order, folder, wanted, onnx_path)


def _build_engine(order: _Order, folder: EngineFolder, wanted: EngineRecord, onnx_path: Path) -> EngineRecord:
    """Compile, write the engine and its build log, and record it."""
    try:
        folder.folder.mkdir(parents=True, exist_ok=True)
        start_s = time.perf_counter()
        with (folder.folder / wanted.log).open("w", encoding="utf-8") as stream:
            plan = _compile(order, wanted, onnx_path, folder.target, stream)
        build_s = round(time.perf_counter() - start_s, 3)
        path = folder.folder / wanted.engine.file
        write_atomically(path, plan)
        record = EngineRecord(
            graph=wanted.graph,
            engine=FileRecord(wanted.engine.file, file_sha256(path), plan.nbytes),
            onnx_sha256=wanted.onnx_sha256,
            profile=wanted.profile,
            limits=wanted.limits,
            build_s=build_s,
            log=wanted.log,
            **_told_memory((folder.folder / wanted.log).read_text(encoding="utf-8", errors="replace")),
        )
        folder.with_record(record)
    except OSError as error:
        raise EngineBuildError(f"graph {order.graph!r}: its engine cannot be written: {error}") from error
    log.info("%s for %s: %.1f s, %.1f MB", order.graph, target_name(folder.target), build_s, plan.nbytes / 1e6)
    return record


def _told_memory(log_text: str) -> dict[str, int]:
    """Return the bytes of GPU memory that a build log tells, as fields of the record."""
    found = {kind: re.search(rf"Total {kind} Memory: (\d+) bytes", log_text) for kind in ("Weights", "Activation")}
    return {f"{kind.lower()}_bytes": int(match[1]) for kind, match in found.items() if match}


def _compile(order: _Order, wanted: EngineRecord, onnx_path: Path, target: str, stream: TextIO) -> memoryview:
    spec = order.bundle.record(order.graph).spec
    stream.write(f"{order.compiler.flavour} {order.compiler.version}, {target}, {onnx_path.name}\n{wanted.profile.to_json()}\n")
    turing = order.compiler.flavour == "tensorrt-rtx" and target in ("sm75", ALL)
    model = rewrite_for_turing(onnx_path) if turing else onnx_path
    return order.compiler.compile(model, spec, wanted.profile, target=target, stream=stream)
