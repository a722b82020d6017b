# SPDX-License-Identifier: MIT OR Apache-2.0
"""The subjects of the benchmark: what turns an image into a flat file, and how to run it.

QEMU's take no locks: all look at one image side by side, and each writes into one of its own.

A subject is started for one trial, or for all turns of a round, and stopped after it: caches
of its own are cold at the beginning, and the start and the unmount are measured as well.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
_START_TIMEOUT_S = 60
_STOP_TIMEOUT_S = 60


class SubjectError(Exception):
    """A subject that did not start, died, or did not stop."""


class Usage:
    """Resources of the server's processes; for the raw file, which has none, all zero."""

    def __init__(self, pids):
        self.cpu_s = 0.0
        self.rss_kib = 0
        for pid in pids:
            stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            self.cpu_s += (int(stat[11]) + int(stat[12])) / _CLOCK_TICKS
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    self.rss_kib += int(line.split()[1])


class Mount:
    """One running subject: `view` is the flat file, valid until stop()."""

    def __init__(self, view, mountpoint=None, stop_signal=None):
        self.view = view
        self.ready_s = 0.0
        self.stop_s = 0.0
        self._mountpoint = mountpoint
        self._stop_signal = stop_signal
        self._processes = []

    def spawn(self, argv):
        log = open(self._log_path(), "ab")
        process = subprocess.Popen([str(a) for a in argv], stdin=subprocess.DEVNULL,
                                   stdout=log, stderr=log)
        log.close()
        self._processes.append(process)

    def usage(self):
        return Usage([p.pid for p in self._processes])

    def wait_until(self, condition):
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not condition():
            if any(p.poll() is not None for p in self._processes):
                raise SubjectError("ended early: " + self._log_text())
            if time.monotonic() > deadline:
                raise SubjectError("is not ready after %d s: %s" %
                                   (_START_TIMEOUT_S, self._log_text()))
            time.sleep(0.0005)

    def wait_readable(self, virtual_size):
        self.wait_until(lambda: _readable(self.view, virtual_size))

    def stop(self):
        """Unmounts and waits for every process; the time until the image is released counts."""
        start = time.monotonic()
        try:
            if self._stop_signal:
                self._processes[0].send_signal(self._stop_signal)
            elif self._processes:
                self._unmount()
            for process in self._processes:
                process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise SubjectError("does not stop: " + self._log_text()) from None
        self.stop_s = time.monotonic() - start
        codes = [p.returncode for p in self._processes]
        self._remove_log()
        if any(codes):
            raise SubjectError(f"ended with status {codes}")

    def kill(self):
        """Ends what is left of a failed trial; never raises."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
        if self._mountpoint:
            _libc.umount2(os.fsencode(self._mountpoint), 2)  # MNT_DETACH
        for process in self._processes:
            process.wait()
        self._remove_log()

    def _unmount(self):
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        while not _unmount_once(self._mountpoint):
            if time.monotonic() > deadline:
                raise SubjectError("is busy and cannot be unmounted")
            time.sleep(0.001)

    def _log_path(self):
        return Path(str(self._mountpoint) + ".log")

    def _log_text(self):
        try:
            return self._log_path().read_text(errors="replace").strip()[-800:]
        except OSError:
            return ""

    def _remove_log(self):
        if self._mountpoint:
            self._log_path().unlink(missing_ok=True)


def _unmount_once(mountpoint):
    if os.geteuid() != 0:
        return subprocess.run(["fusermount3", "-q", "-u", str(mountpoint)]).returncode == 0
    return _libc.umount2(os.fsencode(mountpoint), 0) == 0


def _readable(path, virtual_size):
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return os.fstat(fd).st_size == virtual_size and len(os.pread(fd, 4096, 0)) == 4096
    except OSError:
        return False
    finally:
        os.close(fd)


def _qemu_aio(image):
    """QEMU's fastest way to do I/O; on tmpfs its io_uring and its threads both hand over."""
    return "io_uring" if image.on_disk else "native"


class Subject:
    """`kind` is "ours", "peer" or "limit"; limits read the flat raw file, not the image."""

    def __init__(self, name, kind):
        self.name = name
        self.kind = kind

    def serves(self, job):
        return job.has_limit() or self.kind != "limit"

    def missing(self):
        """What is not installed, as a message with the remedy, or None."""
        return None

    def describe(self):
        return self.name

    def start(self, image, run_dir, writable):
        """Mounts `image` below `run_dir`; returns a Mount whose view is readable."""
        start = time.monotonic()
        mount = self._launch(image, run_dir, writable)
        try:
            mount.wait_readable(image.virtual_size)
        except BaseException:
            mount.kill()
            raise
        mount.ready_s = time.monotonic() - start
        return mount


class RawFile(Subject):
    """The raw file itself: what the storage below can do."""

    def __init__(self):
        super().__init__("raw", "limit")

    def describe(self):
        return "raw: the raw file itself, without a server"

    def _launch(self, image, run_dir, writable):
        return Mount(image.raw)


class BareFuse(Subject):
    """A minimal FUSE server over the raw file: what FUSE can do."""

    def __init__(self, binary):
        super().__init__("bare", "limit")
        self._binary = binary

    def describe(self):
        return "bare: a FUSE server with eight blocking threads over the raw file"

    def _launch(self, image, run_dir, writable):
        mount = Mount(run_dir / "disk.raw", mountpoint=run_dir)
        mount.spawn([self._binary, "--read-ahead-kb=4096",
                     *(["--direct"] if image.on_disk else []), image.raw, run_dir])
        return mount


class Qcow2fs(Subject):
    """The product, with default options or with those of a named variant."""

    def __init__(self, binary, name="qcow2fs", options="", read=""):
        super().__init__(name, "ours")
        self._binary = binary
        self._options = options
        self._read = read

    def missing(self):
        if not os.access(self._binary, os.X_OK):
            return f"{self._binary} is missing: make"
        return None

    def describe(self):
        return f"{self.name}: " + (f"-o {self._options}" if self._options else "default options")

    def _launch(self, image, run_dir, writable):
        mount = Mount(run_dir / "disk.raw", mountpoint=run_dir)
        options = ",".join(filter(None, ["rw" if writable else self._read, self._options]))
        mount.spawn([self._binary, "-f", *(["-o", options] if options else []),
                     image.layers[0], run_dir])
        return mount


class StorageDaemon(Subject):
    """qemu-storage-daemon with a FUSE export, direct I/O, and one or more threads.

    Newer ones serve one request at a time unless the export may grow, and an export may
    grow only when it is writable, so a growable one is writable in reading jobs as well.
    """

    def __init__(self, binary, name, nb_iothreads=0, growable=True):
        super().__init__(name, "peer")
        self._binary = binary
        self._nb_iothreads = nb_iothreads
        self._growable = growable

    def missing(self):
        if shutil.which(self._binary) is None:
            return f"{self._binary} is missing: apt-get install qemu-system-common"
        return None

    def describe(self):
        version = subprocess.run([self._binary, "--version"], capture_output=True, text=True)
        first = (version.stdout or "?").splitlines()[0].split(" (")[0]
        return (f"{self.name}: {first}, growable={'on' if self._growable else 'off'}"
                + (f", {self._nb_iothreads} iothreads" if self._nb_iothreads else ""))

    def _launch(self, image, run_dir, writable):
        mountpoint = run_dir / "disk.raw"
        mountpoint.touch()
        writable = writable or self._growable
        mount = Mount(mountpoint, mountpoint=mountpoint, stop_signal=signal.SIGTERM)
        mount.spawn([self._binary, *self._objects(), *self._blockdevs(image, writable),
                     "--export", self._export(mountpoint, writable)])
        return mount

    def _objects(self):
        for i in range(self._nb_iothreads):
            yield from ("--object", f"iothread,id=io{i}")

    def _blockdevs(self, image, writable):
        """One pair of nodes per layer, the base first, so that each gets the same settings."""
        backing = None
        for i, path in reversed(list(enumerate(image.layers))):
            read_only = "off" if writable and i == 0 else "on"
            common = f"cache.direct=on,read-only={read_only}"
            yield from ("--blockdev", f"driver=file,node-name=file{i},filename={path},locking=off,"
                                      f"aio={_qemu_aio(image)},discard=unmap,{common}")
            yield from ("--blockdev", f"driver=qcow2,node-name=image{i},file=file{i},"
                                      f"discard=unmap,{common}"
                        + (f",backing={backing}" if backing else ""))
            backing = f"image{i}"

    def _export(self, mountpoint, writable):
        on = {True: "true", False: "false"}
        threads = ", ".join(f'"io{i}"' for i in range(self._nb_iothreads))
        return (f'{{"type": "fuse", "id": "export", "node-name": "image0", '
                f'"mountpoint": "{mountpoint}", "writable": {on[writable]}, '
                f'"growable": {on[self._growable]}, "allow-other": "off"'
                + (f', "iothread": [{threads}]' if threads else "") + "}")


class Nbdfuse(Subject):
    """nbdfuse in front of qemu-nbd, over as many connections as both agree on."""

    def __init__(self):
        super().__init__("nbdfuse", "peer")

    def missing(self):
        for binary, package in (("nbdfuse", "libnbd-bin"), ("qemu-nbd", "qemu-utils")):
            if shutil.which(binary) is None:
                return f"{binary} is missing: apt-get install {package}"
        return None

    def describe(self):
        versions = [subprocess.run([b, "--version"], capture_output=True, text=True)
                    .stdout.splitlines()[0].split(" (")[0] for b in ("nbdfuse", "qemu-nbd")]
        return f"nbdfuse: {' + '.join(versions)}, four connections"

    def _launch(self, image, run_dir, writable):
        socket = Path(str(run_dir) + ".sock")
        socket.unlink(missing_ok=True)
        mount = Mount(run_dir / "disk.raw", mountpoint=run_dir)
        access = [] if writable else ["-r"]
        try:
            mount.spawn(["qemu-nbd", "--cache=none", "--discard=unmap",
                         f"--aio={_qemu_aio(image)}", "--shared=4", "-k", socket, *access,
                         "--image-opts", "driver=qcow2,file.driver=file,file.locking=off,"
                                         f"file.filename={image.layers[0]}"])
            mount.wait_until(socket.exists)
            mount.spawn(["nbdfuse", "-C", "4", *access, run_dir / "disk.raw",
                         "--unix", socket])
        except BaseException:
            mount.kill()
            raise
        return mount


class Qcowmount(Subject):
    """qcowmount of libqcow: an optional read-only peer."""

    def __init__(self):
        super().__init__("qcowmount", "peer")

    def serves(self, job):
        return not job.has_backing() and not job.writes

    def missing(self):
        if shutil.which("qcowmount") is None:
            return "qcowmount is missing: apt-get install libqcow-utils"
        return None

    def describe(self):
        return "qcowmount (libqcow-utils), read-only"

    def _launch(self, image, run_dir, writable):
        mount = Mount(run_dir / "qcow1", mountpoint=run_dir)
        mount.spawn(["qcowmount", "-v", image.layers[0], run_dir])
        return mount


def subjects_make(names, bare_binary, qcow2fs_binary, variants, newer_qsd):
    """The subjects for `names`, the product and its variants first."""
    known = {
        "raw": RawFile,
        "bare": lambda: BareFuse(bare_binary),
        "qsd": lambda: StorageDaemon("qemu-storage-daemon", "qsd"),
        "qsd-fixed": lambda: StorageDaemon("qemu-storage-daemon", "qsd-fixed", growable=False),
        "nbdfuse": Nbdfuse,
        "qcowmount": Qcowmount,
    }
    if newer_qsd:
        known["newer-qsd"] = lambda: StorageDaemon(newer_qsd, "newer-qsd")
        known["newer-qsd-2t"] = lambda: StorageDaemon(newer_qsd, "newer-qsd-2t", nb_iothreads=2)
    unknown = [n for n in names if n not in known and n != "qcow2fs"]
    if unknown:
        raise SubjectError(f"unknown peer {unknown[0]}; known: {', '.join(known)}")
    read = "ro" if variants else ""  # several of them look at one image at a time
    ours = [Qcow2fs(qcow2fs_binary, read=read)] if "qcow2fs" in names else []
    ours += [Qcow2fs(qcow2fs_binary, name, options, read) for name, options in variants]
    return ours + [known[n]() for n in names if n != "qcow2fs"]
