# SPDX-License-Identifier: MIT OR Apache-2.0
"""The table of jobs, and how trials of a job are run and measured.

Depth comes from libaio, because io_uring clients fall back to threads on FUSE files;
buffered and threaded jobs use psync. Read jobs run for a set time. Jobs that allocate do a
set number of operations instead, since a faster server would otherwise be given more work
of another kind: rewriting what it has allocated already.
"""

import json
import os
import subprocess
import time
from dataclasses import dataclass

from images import CLUSTER, GIB, KIB, MIB

# Within this, a trial of a set number of operations ends as well: slow subjects do fewer.
FIXED_TRIAL_S = 3
_TRIAL_LIMIT_S = 90


class JobError(Exception):
    """The client of a trial failed."""


@dataclass(frozen=True)
class Job:
    """
    `peer` and `bare` are the least ratios that are aimed at; 0 where none is. `ordered` will do
    instead, of what the raw file allows to who writes twice, with an fdatasync after each.
    """

    name: str
    title: str
    image: str
    fio: str = ""
    unit: str = "op/s"         # or "MB/s"
    writes: bool = False
    nb_ops: int = 0            # this many operations instead of a set time (scaled by the run)
    warm: bool = False         # what was read through the page cache before is there
    command: str = ""          # a client other than fio; {view} and {out} are filled in
    disk: bool = False
    quick: bool = False
    depth: int = 0             # a point of the plot
    peer: float = 0
    bare: float = 0
    ordered: float = 0

    def has_limit(self):
        """Whether the raw file says what could be reached: it holds nothing compressed."""
        return self.image not in ("zlib", "zstd")

    def has_backing(self):
        return self.image in ("overlay", "five_layers")

    def is_timed(self):
        """Whether a trial runs for a set time."""
        return not (self.nb_ops or self.command)

    def in_turns(self):
        """Whether a server that has served for a while is as good as one that was just started."""
        return self.is_timed() and not self.image.startswith("cold")

    def is_buffered(self):
        """Whether fio reads through the page cache, the memory of which is to be in use then."""
        return "--direct=0" in self.fio

    def block_bytes(self):
        return MIB if "--bs=1m" in self.fio else 4 * KIB

    def nb_ops_scaled(self, scale):
        return max(int(self.nb_ops * scale), 64)

    def taken_bytes(self, scale, virtual_size):
        """
        About how much memory a trial takes: where an image grows each small write takes a cluster;
        what is read goes into the page cache, and a copy of it to a file.
        """
        if self.writes:
            return self.nb_ops_scaled(scale) * max(self.block_bytes(), CLUSTER) if self.nb_ops else 0
        if self.command:
            return min(2 * virtual_size, 4 * GIB)
        return virtual_size if self.is_buffered() else 0


_AIO = "--ioengine=libaio --direct=1"
_SYNC = "--ioengine=psync --direct=1"
_BUFFERED = "--ioengine=psync --direct=0"
_RANDOM_4K = "--bs=4k --rw=randread"
_RANDOM_4K_WRITE = "--bs=4k --rw=randwrite"
_THREADS = "--ioengine=psync --direct=1 --thread --numjobs=16"


def _aio(depth, what):
    return f"{_AIO} --iodepth={depth} {what}"


def _compressed(kind, peers):
    what = f"{kind} clusters, "
    yield Job(f"{kind}-1m", what + "1 MiB sequential read, depth 8", kind,
              _aio(8, "--bs=1m --rw=read"), unit="MB/s", peer=peers[0])
    yield Job(f"{kind}-4k", what + "4 KiB random read, depth 32", kind,
              _aio(32, _RANDOM_4K), quick=True, peer=peers[1])
    yield Job(f"{kind}-4k-seq", what + "4 KiB sequential read, depth 32", kind,
              _aio(32, "--bs=4k --rw=read"), peer=peers[2])


def _reads():
    yield Job("read-4k-1", "4 KiB random read, depth 1", "allocated",
              _aio(1, _RANDOM_4K), quick=True, depth=1, peer=1.2, bare=1.0)
    yield Job("read-4k-32", "4 KiB random read, depth 32", "allocated",
              _aio(32, _RANDOM_4K), quick=True, depth=32, peer=1.3, bare=1.0)
    yield Job("read-4k-2x32", "4 KiB random read, 2 jobs of depth 32", "allocated",
              _aio(32, _RANDOM_4K + " --numjobs=2 --thread"), peer=1.5, bare=1.0)
    yield Job("read-4k-16t", "4 KiB random read, 16 synchronous threads", "allocated",
              f"{_THREADS} {_RANDOM_4K}", quick=True, peer=1.4, bare=1.0)
    yield Job("read-1m-direct", "1 MiB sequential read, direct, depth 8", "allocated",
              _aio(8, "--bs=1m --rw=read"), unit="MB/s", quick=True, peer=2.2, bare=0.85)
    yield Job("read-1m-buffered", "1 MiB sequential read, buffered", "allocated",
              f"{_BUFFERED} --bs=1m --rw=read --invalidate=1", unit="MB/s", nb_ops=1024,
              quick=True, peer=1.2, bare=0.85)
    yield Job("warm-1m", "1 MiB re-read from the page cache", "allocated",
              f"{_BUFFERED} --bs=1m --rw=read", unit="MB/s", warm=True, peer=2.8, bare=0.9)
    yield Job("warm-4k", "4 KiB random re-read from the page cache", "allocated",
              f"{_BUFFERED} {_RANDOM_4K}", warm=True, quick=True, peer=7, bare=0.9)
    yield Job("overlay-4k", "overlay and one base, 4 KiB random read, depth 32", "overlay",
              _aio(32, _RANDOM_4K), quick=True, peer=1.2)
    yield Job("five-layers-4k", "five layers, 4 KiB random read, depth 32", "five_layers",
              _aio(32, _RANDOM_4K), peer=1.2)
    yield Job("cold-4k-clusters", "cold metadata, 64 GiB in 4 KiB clusters, depth 32",
              "cold_4k", _aio(32, _RANDOM_4K), peer=2.8)
    yield Job("cold-1t", "cold metadata, 1 TiB sparse, depth 32", "cold_1t",
              _aio(32, _RANDOM_4K), quick=True, peer=2.8)
    yield from _compressed("zlib", (2.2, 2, 10))
    yield from _compressed("zstd", (1.3, 1.3, 8))
    yield Job("cp-sparse", "cp --sparse=always of the view", "allocated", unit="MB/s",
              command="cp --sparse=always {view} {out}", peer=1)
    yield Job("dd-holes", "dd over holes", "sparse", unit="MB/s",
              command="dd if={view} of=/dev/null bs=1M status=none", peer=1.7)
    yield Job("convert", "qemu-img convert from the view", "allocated", unit="MB/s",
              command="qemu-img convert -f raw -O qcow2 {view} {out}", peer=1.2)


def _writes():
    yield Job("write-4k-32", "4 KiB random write in place, depth 32", "allocated",
              _aio(32, _RANDOM_4K_WRITE), writes=True, quick=True, peer=1.2)
    yield Job("write-4k-16t", "4 KiB random write in place, 16 synchronous threads",
              "allocated", f"{_THREADS} {_RANDOM_4K_WRITE}", writes=True, peer=1.3)
    yield Job("write-4k-empty", "4 KiB random write into an empty image, depth 32", "empty",
              _aio(32, _RANDOM_4K_WRITE), writes=True, nb_ops=24576, quick=True, peer=2.5)
    yield Job("write-1m", "1 MiB sequential write in place, depth 8", "allocated",
              _aio(8, "--bs=1m --rw=write"), unit="MB/s", writes=True, peer=1.2)
    yield Job("write-1m-empty", "1 MiB sequential write, allocating, depth 8", "empty",
              _aio(8, "--bs=1m --rw=write"), unit="MB/s", writes=True, nb_ops=1536,
              quick=True, peer=1.1)
    yield Job("sync-4k", "4 KiB random write + fdatasync in place", "allocated",
              f"{_SYNC} {_RANDOM_4K_WRITE} --fdatasync=1", writes=True, peer=1.2)
    yield Job("sync-4k-empty", "4 KiB random write + fdatasync, allocating", "empty",
              f"{_SYNC} {_RANDOM_4K_WRITE} --fdatasync=1", writes=True, nb_ops=12288,
              quick=True, peer=2.2)


def _disk():
    def job(name, title, image, fio, **kwargs):
        return Job("disk-" + name, "disk: " + title, image, fio, disk=True, **kwargs)

    yield job("read-4k-1", "4 KiB random read, depth 1", "allocated", _aio(1, _RANDOM_4K))
    yield job("read-4k-32", "4 KiB random read, depth 32", "allocated", _aio(32, _RANDOM_4K),
              quick=True, peer=1.1, bare=1.0)
    yield job("read-1m-direct", "1 MiB sequential read, direct, depth 8", "allocated",
              _aio(8, "--bs=1m --rw=read"), unit="MB/s")
    yield job("write-4k-32", "4 KiB random write in place, depth 32", "allocated",
              _aio(32, _RANDOM_4K_WRITE), writes=True, bare=1.0)
    yield job("write-4k-empty", "4 KiB random write into an empty image, depth 32", "empty",
              _aio(32, _RANDOM_4K_WRITE), writes=True, nb_ops=12288, peer=2)
    yield job("write-1m-empty", "1 MiB sequential write, allocating, depth 8", "empty",
              _aio(8, "--bs=1m --rw=write"), unit="MB/s", writes=True, nb_ops=768)
    yield job("sync-4k", "4 KiB random write + fdatasync in place", "allocated",
              f"{_SYNC} {_RANDOM_4K_WRITE} --fdatasync=1", writes=True, peer=1.2,
              ordered=0.85)
    yield job("sync-4k-empty", "4 KiB random write + fdatasync, allocating", "empty",
              f"{_SYNC} {_RANDOM_4K_WRITE} --fdatasync=1", writes=True, nb_ops=3072, peer=1.8,
              ordered=0.85)
    yield job("cold-4k-clusters", "cold metadata, 64 GiB in 4 KiB clusters, depth 32",
              "cold_4k", _aio(32, _RANDOM_4K), peer=2.5)
    yield job("cold-1t", "cold metadata, 1 TiB sparse, depth 32", "cold_1t",
              _aio(32, _RANDOM_4K), peer=2.5)


def _depths():
    """The remaining points of the plot; depths 1 and 32 are in the table anyway."""
    for depth in (2, 4, 8, 16, 64, 128):
        yield Job(f"depth-{depth}", f"4 KiB random read, depth {depth}", "allocated",
                  _aio(depth, _RANDOM_4K), depth=depth)


JOBS = [*_reads(), *_writes(), *_disk(), *_depths()]


@dataclass
class Result:
    """What the client saw: `rate` is in the job's unit, `ops` and `nb_bytes` are totals."""

    rate: float
    ops: int
    nb_bytes: int
    latency_p50_us: float = 0.0
    latency_p99_us: float = 0.0


def trial_run(job, view, virtual_size, out, seconds, scale, seed):
    """One trial of `job` on the flat file `view`; `out` is a scratch file for commands."""
    if job.command:
        return _command_run(job, view, virtual_size, out)
    return _fio_run(job, [view], (0, virtual_size), _length(job, virtual_size, seconds, scale),
                    seed)[0]


def turn_run(job, views, virtual_size, seconds, turn):
    """
    A short trial of `job` on each of `views` in this order; a list of Results. Who reads on and
    on begins at another place in each turn.
    """
    half = virtual_size // 2
    start = turn * 37 % 64 * half // 64 // MIB * MIB
    return _fio_run(job, views, (start, half), _length(job, virtual_size, seconds, 1), turn)


def warm_up(view):
    """Fills the page cache of the view, unless it is served without one."""
    with open(view, "rb", buffering=0) as f:
        while f.read(MIB):
            pass


def _length(job, virtual_size, seconds, scale):
    """How fio is told when a trial ends."""
    if not job.nb_ops:
        return ["--time_based", "--norandommap=1", f"--runtime={int(seconds * 1000)}ms"]
    wanted = min(job.nb_ops_scaled(scale) * job.block_bytes(), virtual_size)
    return [f"--io_size={wanted}", f"--runtime={int(FIXED_TRIAL_S * scale * 1000)}ms"]


def _fio_argv(job, views, window, length, seed):
    argv = ["fio", "--output-format=json", "--eta=never", "--name=global",
            "--allow_file_create=0", "--fallocate=none", "--group_reporting",
            f"--randseed={seed}", f"--offset={window[0]}", f"--size={window[1]}",
            *job.fio.split(), *length]
    if window[1] > 4 * GIB:
        argv += ["--norandommap=1", "--random_generator=tausworthe64"]
    if job.warm:
        argv += ["--invalidate=0"]
    for number, view in enumerate(views):
        argv += [f"--name={number}", "--stonewall", f"--filename={view}"]
    return argv


def _fio_run(job, views, window, length, seed):
    argv = _fio_argv(job, views, window, length, seed)
    run = subprocess.run(argv, capture_output=True, text=True, timeout=_TRIAL_LIMIT_S)
    if run.returncode != 0:
        said = [line for line in (run.stdout + run.stderr).splitlines() if line.startswith("fio:")]
        raise JobError("; ".join(said)[:800] or f"fio ended with status {run.returncode}")
    reports = json.loads(run.stdout[run.stdout.index("{"):])["jobs"]
    if len(reports) != len(views):
        raise JobError(f"fio reports {len(reports)} results of {len(views)}")
    return [_fio_result(job, report) for report in reports]


def _fio_result(job, report):
    if report["error"]:
        raise JobError(f"fio ended with error {report['error']}")
    side = report["write" if job.writes else "read"]
    percentile = side["clat_ns"].get("percentile", {})
    seconds_taken = max(side["runtime"], 1) / 1000
    rate = side["total_ios"] if job.unit == "op/s" else side["io_bytes"] / 1e6
    return Result(rate / seconds_taken, side["total_ios"], side["io_bytes"],
                  percentile.get("50.000000", 0) / 1000, percentile.get("99.000000", 0) / 1000)


def _command_run(job, view, virtual_size, out):
    argv = job.command.format(view=view, out=out).split()
    start = time.monotonic()
    run = subprocess.run(argv, capture_output=True, text=True, timeout=_TRIAL_LIMIT_S)
    taken = time.monotonic() - start
    if os.path.exists(out):
        os.unlink(out)
    if run.returncode != 0:
        raise JobError(run.stderr.strip()[-800:])
    return Result(virtual_size / 1e6 / taken, virtual_size // MIB, virtual_size)
