"""What Linux says of memory, of this process and of drawn ones."""

import subprocess
import sys

import pytest

from trt_track.engines.host_memory import MemoryState, host_memory

KIB, GIB = 1 << 10, 1 << 30


@pytest.fixture
def system(tmp_path):
    """Files as the kernel has them: 3 GiB held, 4 GiB at most, 20 GiB free; `group` adds a control group's."""
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "status").write_text(f"Name:\tpython\nVmHWM:\t{4 << 20} kB\nVmRSS:\t {3 << 20} kB\nThreads:\t3\n")
    (proc / "meminfo").write_text(f"MemTotal: {32 << 20} kB\nMemAvailable:   {20 << 20} kB\nHugePages_Total: 0\n")
    (proc / "self" / "cgroup").write_text("0::/\n")

    def group(path, limit, use, droppable, *, names=("memory.max", "memory.current", "inactive_file")):
        folder = groups / path
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in zip(names[:2], (limit, use), strict=True):
            (folder / name).write_text(f"{value}\n")
        (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {droppable}\n")

    return proc, groups, group


def test_of_this_process():
    """In a process of its own: a large one that ran many tests may give as much back as it takes."""
    if sys.platform != "linux":
        pytest.skip("other systems do not say")
    code = """
from trt_track.engines.host_memory import host_memory
before = host_memory()
ballast = b"x" * (200 << 20)
after = host_memory()
print(before.held, before.peak, before.available, after.held, after.peak)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    held, peak, available, held_after, peak_after = map(int, done.stdout.split())
    assert 5_000_000 < held <= peak
    assert available > 0
    assert held_after - held > 150 << 20
    assert peak_after >= held_after


def test_of_a_machine_without_limits(system):
    proc, groups, _ = system
    assert host_memory(proc, groups) == MemoryState(held=3 * GIB, peak=4 * GIB, available=20 * GIB)


@pytest.mark.parametrize(
    ("cgroup", "path", "names"),
    [
        ("0::/", ".", ()),
        ("0::/work/job", "work", ()),
        ("0::/outside/the/container", ".", ()),
        ("5:cpu:/x\n4:memory:/job\n0::/", "memory/job", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")),
    ],
)
def test_limits_of_control_groups_count(system, cgroup, path, names):
    proc, groups, group = system
    (proc / "self" / "cgroup").write_text(f"{cgroup}\n")
    group(path, 8 * GIB, 5 * GIB, GIB, **({"names": names} if names else {}))
    assert host_memory(proc, groups).available == 4 * GIB
    group(path, 4 * GIB, 5 * GIB, 0, **({"names": names} if names else {}))
    assert host_memory(proc, groups).available == 0


def test_a_group_without_a_limit_has_none(system):
    proc, groups, group = system
    group(".", "max", 5 * GIB, 0)
    assert host_memory(proc, groups).available == 20 * GIB


def test_where_nothing_is_said_nothing_is_known(tmp_path):
    assert host_memory(tmp_path, tmp_path) is None
