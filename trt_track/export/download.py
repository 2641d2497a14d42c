"""Official checkpoints from the net into the user's cache: resumable, and trusted only for their SHA-256."""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final, TypeAlias
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import platformdirs

from trt_track.errors import ModelError
from trt_track.export.catalogue import CatalogueModel

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the bytes that are there and the bytes that there will be (0 where the server does not say)."""

CACHE_VARIABLE: Final = "TRT_TRACK_CACHE"
_TIMEOUT_S: Final = 30.0
_CHUNK_BYTES: Final = 1 << 20


def cache_folder() -> Path:
    """Return the folder for checkpoints: below `TRT_TRACK_CACHE` where that is set, else below the user's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return (Path(chosen) if chosen else Path(platformdirs.user_cache_dir("trt-track"))) / "checkpoints"


def pull(model: CatalogueModel, *, sha256: str | None = None, on_progress: Progress | None = None) -> Path:
    """Return the path of a model's checkpoint, downloaded unless the cache has it already.

    Args:
        model: which one, from the catalogue.
        sha256: the hash to trust where the catalogue states none; where it does, both must agree.
        on_progress: called with bytes done and in total, once per MiB.

    Raises:
        ModelError: the hash is unknown, the download failed, or something else than the checkpoint came.
    """
    expected = _trusted_hash(model, sha256)
    target = cache_folder() / model.file_name
    if target.is_file() and _sha256(target) == expected:
        return target
    download(model.url, target, sha256=expected, on_progress=on_progress)
    return target


def download(url: str, target: Path, *, sha256: str, on_progress: Progress | None = None) -> None:
    """Download a file; it appears under its name only when its SHA-256 is right.

    What arrives is kept in `<target>.part`, and a later call goes on where an earlier one stopped. If a resumed file turns out wrong,
    the .part was another file's: it is thrown away and the download starts again, once.

    Raises:
        ModelError: the server cannot be reached, refuses, stops early or sends another file; or the disk is full.
    """
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        resumed = _fetch(url, part, on_progress=on_progress)
        got = _sha256(part)
        if got != sha256.lower() and resumed:
            part.unlink()
            _fetch(url, part, on_progress=on_progress)
            got = _sha256(part)
        if got != sha256.lower():
            part.unlink()
            raise ModelError(f"{url} sent another file: expected SHA-256 {sha256.lower()}, got {got}; it was deleted, do not use it")
        part.replace(target)
    except (OSError, http.client.HTTPException) as error:
        raise ModelError(_explain(error, url, part)) from error


def _trusted_hash(model: CatalogueModel, given: str | None) -> str:
    """Return the hash that a checkpoint must have."""
    if given is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", given):
        raise ModelError(f"{given!r} is no SHA-256: expected 64 hexadecimal digits")
    known = model.sha256
    if known is None and given is None:
        raise ModelError(f"the SHA-256 of {model.file_name} is not known, so a download cannot be trusted: state it with --sha256 HEX")
    if known is not None and given is not None and known != given.lower():
        raise ModelError(f"{model.file_name} has the SHA-256 {known}, not {given.lower()}: leave --sha256 out")
    return known or str(given).lower()


def _fetch(url: str, part: Path, *, on_progress: Progress | None) -> bool:
    """Download into `part`, going on after what it has already.

    Returns:
        Whether earlier bytes were kept.
    """
    start = part.stat().st_size if part.exists() else 0
    request = Request(url, headers={"User-Agent": "trt-track", **({"Range": f"bytes={start}-"} if start else {})})  # noqa: S310 the hash decides what is trusted
    try:
        response = urlopen(request, timeout=_TIMEOUT_S)  # noqa: S310
    except HTTPError as error:
        error.close()
        if start and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return True  # nothing is left to fetch: complete, or of another file
        raise
    with response:
        kept = start if response.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        length = int(response.headers.get("Content-Length") or 0)
        total = kept + length if length else 0
        _require_space(part.parent, length)
        with part.open("ab" if kept else "wb") as file:
            done = _copy(response, file, progress=(kept, total, on_progress))
    if done < total:
        raise ModelError(f"{url} stopped after {done} of {total} bytes: run the same command again, it goes on from there")
    return bool(kept)


def _copy(response: IO[bytes], file: IO[bytes], *, progress: tuple[int, int, Progress | None]) -> int:
    """Copy a response into a file and return how many bytes that file has now."""
    done, total, on_progress = progress
    while True:
        try:
            chunk = response.read(_CHUNK_BYTES)
        except http.client.IncompleteRead as short:
            file.write(short.partial)  # the next call goes on after it
            raise
        if not chunk:
            return done
        file.write(chunk)
        done += len(chunk)
        if on_progress is not None:
            on_progress(done, total)


def _require_space(folder: Path, need: int) -> None:
    free = shutil.disk_usage(folder).free
    if need > free:
        raise OSError(errno.ENOSPC, f"{need} bytes are needed, {free} are free")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _explain(error: OSError | http.client.HTTPException, url: str, part: Path) -> str:
    """Say in one line what went wrong and what to do."""
    again = "run the same command again, it goes on where it stopped"
    if isinstance(error, HTTPError):
        return f"{url} cannot be downloaded: the server answered {error.code} {error.reason}"
    if isinstance(error, URLError | http.client.HTTPException | TimeoutError | ConnectionError):
        reason = error.reason if isinstance(error, URLError) else str(error) or type(error).__name__
        return f"cannot reach {urlsplit(url).netloc} ({reason}): check the network, then {again}; or put the file at {part.with_suffix('')}"
    if error.errno == errno.ENOSPC:
        return f"the disk is full ({error.strerror}): make room in {part.parent} or set {CACHE_VARIABLE}, then {again}"
    return f"cannot write to {part.parent} ({error.strerror or error}): set {CACHE_VARIABLE} to a folder that you may write to"
