"""Downloads from a server on this machine that behaves well, badly, and like another one."""

import dataclasses
import errno
import hashlib
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from trt_track.errors import ModelError
from trt_track.export import download as module
from trt_track.export.catalogue import find_model
from trt_track.export.download import cache_folder, download, pull

CONTENT = bytes(range(256)) * 12000  # about 3 MB: several chunks
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """What it sends, and whether it knows ranges; every request's Range header is noted."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.ranges, self.stops_after, self.chunked, self.asked = CONTENT, True, None, False, []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/model.pt"

    def handle_error(self, request, client_address):
        """Clients that hang up are part of the tests."""


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append(wanted)
        if self.path != "/model.pt":
            return self.send_error(404)
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and server.ranges else 0
        if start and start >= len(server.content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if server.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(server.content) - start))
        self.end_headers()
        body = server.content[start : server.stops_after]
        if server.chunked:  # the last, empty chunk never comes
            self.wfile.write(b"%x\r\n%b\r\n" % (len(body), body))
        else:
            self.wfile.write(body)
        self.close_connection = True
        return None

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "cache" / "model.pt"


def part_of(target):
    return target.with_name("model.pt.part")


def test_a_download_arrives_and_reports_progress(server, target):
    seen = []
    download(server.url, target, sha256=SHA256.upper(), on_progress=lambda done, total: seen.append((done, total)))
    assert target.read_bytes() == CONTENT
    assert not part_of(target).exists()
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert len(seen) > 1


def test_a_download_goes_on_where_it_stopped(server, target):
    server.stops_after = 1_000_000
    with pytest.raises(ModelError, match=f"stopped after 1000000 of {len(CONTENT)} bytes: run the same command again"):
        download(server.url, target, sha256=SHA256)
    assert not target.exists()
    server.stops_after, seen = None, []
    download(server.url, target, sha256=SHA256, on_progress=lambda done, total: seen.append((done, total)))
    assert server.asked == [None, "bytes=1000000-"]
    assert target.read_bytes() == CONTENT
    assert all(done > 1_000_000 and total == len(CONTENT) for done, total in seen)


def test_a_broken_chunked_answer_is_kept_and_goes_on(server, target):
    server.chunked, server.stops_after = True, 1_000_000
    with pytest.raises(ModelError, match=r"cannot reach 127\.0\.0\.1"):
        download(server.url, target, sha256=SHA256)
    assert 0 < part_of(target).stat().st_size <= 1_000_000
    server.chunked, server.stops_after = False, None
    download(server.url, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT


def test_a_server_without_ranges_starts_again(server, target):
    server.ranges = False
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT[:500])
    download(server.url, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert len(server.asked) == 1


@pytest.mark.parametrize("stale", [b"another file", b"x" * (len(CONTENT) + 5)], ids=["shorter", "longer"])
def test_the_rest_of_another_file_is_thrown_away_once(server, target, stale):
    target.parent.mkdir()
    part_of(target).write_bytes(stale)
    download(server.url, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert server.asked == [f"bytes={len(stale)}-", None]


def test_a_complete_part_is_used_without_another_byte(server, target):
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT)
    download(server.url, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert len(server.asked) == 1


@pytest.mark.parametrize("stale", [b"", b"another file"], ids=["fresh", "resumed"])
def test_another_content_is_refused_and_deleted(server, target, stale):
    server.content = b"an error page"
    target.parent.mkdir()
    part_of(target).write_bytes(stale)
    got = hashlib.sha256(server.content).hexdigest()
    with pytest.raises(ModelError, match=f"expected SHA-256 {SHA256}, got {got}"):
        download(server.url, target, sha256=SHA256)
    assert list(target.parent.iterdir()) == []


def test_a_missing_file_says_so(server, target):
    with pytest.raises(ModelError, match="the server answered 404"):
        download(server.url + "x", target, sha256=SHA256)


def test_no_server_says_so(target):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ModelError, match=rf"cannot reach 127.0.0.1:{port} .*put the file at .*model.pt$"):
        download(f"http://127.0.0.1:{port}/model.pt", target, sha256=SHA256)


def test_a_silent_server_is_given_up(target, monkeypatch):
    monkeypatch.setattr(module, "_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ModelError, match=r"cannot reach .*timed out"):
        download(f"http://127.0.0.1:{silent.getsockname()[1]}/model.pt", target, sha256=SHA256)


def test_a_full_disk_is_seen_before_anything_is_written(server, target, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10}))
    with pytest.raises(ModelError, match=f"disk is full .{len(CONTENT)} bytes are needed, 10 are free.*TRT_TRACK_CACHE"):
        download(server.url, target, sha256=SHA256)
    assert not part_of(target).exists()


def test_a_disk_that_fills_up_on_the_way(server, target, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_copy", fail)
    with pytest.raises(ModelError, match="disk is full"):
        download(server.url, target, sha256=SHA256)


def test_a_folder_that_is_a_file_is_refused(server, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(ModelError, match="cannot write to"):
        download(server.url, tmp_path / "taken" / "model.pt", sha256=SHA256)


@pytest.fixture
def model(server, tmp_path, monkeypatch):
    monkeypatch.setenv("TRT_TRACK_CACHE", str(tmp_path))
    return dataclasses.replace(find_model("sam2.1-hiera-tiny"), url=server.url, sha256=SHA256)


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("TRT_TRACK_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path / "checkpoints"
    monkeypatch.delenv("TRT_TRACK_CACHE")
    assert cache_folder().parts[-2:] == ("trt-track", "checkpoints")


def test_pull_downloads_once(model, server, tmp_path):
    path = pull(model)
    assert path == tmp_path / "checkpoints" / "model.pt"
    assert pull(model, sha256=SHA256) == path
    assert len(server.asked) == 1
    path.write_bytes(b"changed")
    assert pull(model).read_bytes() == CONTENT


def test_an_unknown_hash_must_be_given(model):
    unknown = dataclasses.replace(model, sha256=None)
    with pytest.raises(ModelError, match="not known, so a download cannot be trusted: state it with --sha256 HEX"):
        pull(unknown)
    assert pull(unknown, sha256=SHA256.upper()).read_bytes() == CONTENT


@pytest.mark.parametrize(("sha256", "says"), [("12", "no SHA-256"), ("g" * 64, "no SHA-256"), ("0" * 64, "leave --sha256 out")])
def test_a_given_hash_must_make_sense(model, sha256, says):
    with pytest.raises(ModelError, match=says):
        pull(model, sha256=sha256)
