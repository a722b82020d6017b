# SPDX-License-Identifier: MIT OR Apache-2.0
"""
qf: what the tests on real mounts have in common.

A test file defines cases and hands over to main():

    @qf.case
    def reads_back(box):
        image = box.create("a.qcow2", "1M")
        with box.mount(image) as mount:
            assert mount.read() == bytes(1 << 20)

    qf.main()

Each case gets a Box: a folder of its own, and functions whose effects (mounts, loop
devices, processes) are undone when the case ends, whichever way it ends. main() prints
one result line for each case, as test/run wants it.
"""
import contextlib
import errno
import json
import mmap
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

import kernel_ring
import processes

SRC = os.environ.get("QF_SRC") or os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.realpath(__file__))))
BUILD = os.environ.get("QF_BUILD") or os.path.join(SRC, "build")
TMP = os.environ.get("QF_TMP") or os.path.join(BUILD, "tmp", f"by-hand.{os.getpid()}")
SAN = os.environ.get("QF_SAN", "")
# What -o transport= says in every mount that says nothing else.
TRANSPORT = os.environ.get("QF_TRANSPORT", "")
QCOW2FS = os.path.join(BUILD, "qcow2fs")
# Everything takes longer under a sanitizer; nothing may take for ever.
SLOWER = {"": 1, "address": 4, "thread": 10}[SAN]

# Limits of time are counted in turns, each of which waits for so long, so that whatever makes the
# whole machine slow, or stand still, counts as one.
POLL_SEC = 0.01

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

# Exit statuses of qcow2fs.
USAGE, SYSTEM, MOUNT, OPEN, UNSUPPORTED, LOCKED, CORRUPT, BACKING = 1, 2, 32, 33, 34, 35, 36, 37
WRITE_BACK, BUSY = 38, 39


class Skip(Exception):
    """The case cannot run here; the argument says why."""


_cases = []


def case(function):
    _cases.append(function)
    return function


def case_with_preload(function):
    """One that uses Box.preload(): not with a sanitizer, which wants to be the first library."""
    return function if SAN else case(function)


def cases_for(values, name=str):
    """Decorator: one case for each value, which becomes the second argument."""
    def decorate(function):
        for value in values:
            def bound(box, value=value):
                return function(box, value)
            bound.__name__ = f"{function.__name__}[{name(value)}]"
            _cases.append(bound)
        return function
    return decorate


def main():
    """Runs the cases (those named on the command line, if any) and exits."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped by SIGTERM"))
    wanted = sys.argv[1:]
    failed = passed = 0
    os.makedirs(TMP, exist_ok=True)
    for number, function in enumerate(_cases):
        name = function.__name__
        if wanted and not any(w == name or name.startswith(w + "[") for w in wanted):
            continue
        try:
            with Box(os.path.join(TMP, str(number))) as box:
                function(box)
            print(f"ok {name}")
            passed += 1
        except Skip as why:
            print(f"skip {name}: {why}")
        except Exception as error:
            traceback.print_exc(file=sys.stdout)
            reason = str(error).strip().splitlines()
            print(f"not ok {name}: {reason[0] if reason else type(error).__name__}")
            failed += 1
        sys.stdout.flush()
    if "QF_TMP" not in os.environ:
        shutil.rmtree(TMP, ignore_errors=True)
    sys.exit(1 if failed else 0 if passed else 77)


def need_root():
    if os.geteuid() != 0:
        raise Skip("needs root")


def need_ring():
    need_root()
    if not kernel_ring.can_be_switched():
        raise Skip("this kernel has no FUSE over io_uring")


def need_filesystem(kind):
    with open("/proc/filesystems") as filesystems:
        if kind in filesystems.read().split():
            return
    # Asking for a file system may load its module.
    subprocess.run(["modprobe", kind], stderr=subprocess.DEVNULL, check=False)
    with open("/proc/filesystems") as filesystems:
        if kind not in filesystems.read().split():
            raise Skip(f"this kernel has no {kind}")


def where_all_stand():
    return processes.describe(os.environ.get("QF_TEST", "?"))


def run(*command, status=0, timeout=60, **kwargs):
    """Runs a command that must exit with `status` (None: any); returns its CompletedProcess."""
    command = [str(c) for c in command]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, **kwargs) as process:
        for _ in range(timeout * SLOWER):
            with contextlib.suppress(subprocess.TimeoutExpired):
                output = process.communicate(timeout=1)
                break
        else:
            standing = where_all_stand()
            process.kill()
            raise AssertionError(f"no end after {timeout * SLOWER} s of {' '.join(command)}"
                                 f"\n{standing}")
        done = subprocess.CompletedProcess(command, process.returncode, *output)
    if status is not None and done.returncode != status:
        raise AssertionError(f"exit status {done.returncode}, not {status}, of "
                             f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done


# QEMU takes the name of an external data file from the working directory, not from the image's
# folder; so its tools run there.

def qemu_io(image, *commands, options=()):
    """Runs qemu-io commands on a qcow2 image, in one process, without syncs."""
    words = ["qemu-io", "-t", "unsafe", "-f", "qcow2", *options]
    for command in commands:
        words += ["-c", command]
    done = run(*words, image, cwd=os.path.dirname(image))
    # Some qemu-io commands report failure in words alone.
    for word in ("failed", "error", "Invalid", "invalid", "not a"):
        assert word not in done.stdout + done.stderr, done.stdout + done.stderr


def qemu_map(image, *options):
    """`qemu-img map` as a list of dictionaries."""
    return json.loads(run("qemu-img", "map", "--output=json", *options, image,
                          cwd=os.path.dirname(image)).stdout)


def qemu_check(image):
    """The image has neither an error nor a leak."""
    run("qemu-img", "check", "-q", image, cwd=os.path.dirname(image))


def qemu_compare(flat, image):
    """The image shows what the raw file `flat` holds."""
    run("qemu-img", "compare", "-q", "-f", "raw", flat, "-F", "qcow2", image,
        cwd=os.path.dirname(image))


def mount_points():
    with open("/proc/self/mountinfo") as mountinfo:
        return [line.split()[4] for line in mountinfo]


def backing_file(device):
    """What a loop device shows, or None."""
    try:
        with open(f"/sys/block/{os.path.basename(device)}/loop/backing_file") as file:
            return file.read().rstrip("\n")
    except OSError:
        return None


def fallocate(fd, mode, offset, length):
    """fallocate(2), for which Python has no name."""
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    if libc.fallocate(fd, mode, offset, length) < 0:
        raise OSError(ctypes.get_errno(), "fallocate")


def wait_until(condition, timeout=10, what="something"):
    for _ in range(int(timeout * SLOWER / POLL_SEC)):
        if condition():
            return
        time.sleep(POLL_SEC)
    raise AssertionError(f"waited {timeout * SLOWER} s in vain for {what}\n{where_all_stand()}")


def start_server(*words, **kwargs):
    """
    qcow2fs in the foreground, which has said that it is ready: from then on nobody but the caller
    has anything open in its mount. The process.
    """
    readable, writable = os.pipe()
    try:
        process = subprocess.Popen([QCOW2FS, f"--ready-fd={writable}", *words],
                                   stdin=subprocess.DEVNULL, pass_fds=[writable], **kwargs)
    finally:
        os.close(writable)
    with open(readable, "rb", buffering=0) as file:
        if not select.select([file], [], [], 20 * SLOWER)[0] or file.read(1) != b"\n":
            process.kill()
            raise AssertionError(f"never ready: {' '.join(words)}")
    return process


def noise(seed, nb_bytes):
    """Bytes that differ everywhere and do not compress."""
    return random.Random(seed).randbytes(nb_bytes)


class Mount:
    """A mounted qcow2fs. Leaving the `with` block unmounts it and expects success."""

    def __init__(self, box, images, mountpoint, options, args, wrapper):
        self.box = box
        self.images = images
        self.point = mountpoint
        self.log_path = mountpoint + ".log"
        self.pidfile = mountpoint + ".pid"
        self.mounted = False
        self.may_be_refused = False  # system calls, by the sandbox
        command = [*wrapper, QCOW2FS, "--pidfile=" + self.pidfile, "--log-file=" + self.log_path]
        if TRANSPORT and not any(o.startswith("transport=") or o == "io=threads" for o in options):
            options = [*options, f"transport={TRANSPORT}"]
        if options:
            command += ["-o", ",".join(options)]
        done = run(*command, *args, *images, mountpoint)
        self.mounted = True
        self.messages = done.stderr + done.stdout
        with open(self.pidfile) as pidfile:
            self.pid = int(pidfile.read())

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind is None:
            self.unmount()
        return False

    def path(self, name="disk.raw"):
        return os.path.join(self.point, name)

    def log(self):
        with contextlib.suppress(OSError), open(self.log_path) as log:
            return log.read()
        return ""

    def read(self, name="disk.raw"):
        with open(self.path(name), "rb") as file:
            return file.read()

    def stats(self, name="disk.raw"):
        return json.loads(os.getxattr(self.path(name), "user.qcow2fs.stats"))

    def unmount(self, status=0, timeout=30):
        """`qcow2fs --unmount`; after it the server is gone."""
        if not self.mounted:
            return
        run(QCOW2FS, "--unmount", self.point, status=status, timeout=timeout)
        if status == 0:
            self.mounted = False
            wait_until(lambda: not os.path.exists(f"/proc/{self.pid}") or is_zombie(self.pid), 5,
                       "the server to end")
            assert self.may_be_refused or "the sandbox refused" not in self.log(), self.log()

    def kill(self):
        """SIGKILL, then the dead mount is taken away."""
        os.kill(self.pid, signal.SIGKILL)
        wait_until(lambda: not os.path.exists(f"/proc/{self.pid}") or is_zombie(self.pid), 10,
                   "the killed server to end")
        self.abandon()
        # The kernel gives the files of a dead process's ring back a little later, and only
        # then the locks.
        wait_until(lambda: all(run("qemu-img", "info", i, status=None).returncode == 0
                               for i in self.images), 20, "the killed server's locks")

    def abandon(self):
        """Whatever the state, no mount and no server remain."""
        if not self.mounted:
            return
        self.mounted = False
        with contextlib.suppress(OSError):
            os.kill(self.pid, signal.SIGCONT)
        lazily = ("umount", "-l") if os.geteuid() == 0 else ("fusermount3", "-u", "-z")
        run(*lazily, self.point, status=None)
        with contextlib.suppress(OSError, AttributeError):
            os.kill(self.pid, signal.SIGKILL)


def is_zombie(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def of_threads(pid, *names):
    """What these files of /proc/PID/task/TID hold, a list for each thread that does not end meanwhile."""
    for tid in os.listdir(f"/proc/{pid}/task"):
        try:
            texts = []
            for name in names:
                with open(f"/proc/{pid}/task/{tid}/{name}") as file:
                    texts.append(file.read())
        except (FileNotFoundError, ProcessLookupError):
            continue
        yield texts


def threads_named(pid, name):
    """How many threads of a process bear this name."""
    return sum(comm.strip() == name for comm, in of_threads(pid, "comm"))


def abort_connection(number):
    """Makes the kernel end a FUSE connection, which has the minor number of its mount's device."""
    folder = "/sys/fs/fuse/connections"
    if not os.path.exists(f"{folder}/{number}"):
        run("mount", "-t", "fusectl", "fusectl", folder)
    with open(f"{folder}/{number}/abort", "w") as abort:
        abort.write("1")


def stop_process(pid):
    """
    SIGSTOP, which one thread takes and hands on to the others: until each of them has stopped, those
    that run still answer.
    """
    def all_stopped():
        return all(stat.rpartition(")")[2].split()[0] == "T" for stat, in of_threads(pid, "stat"))

    os.kill(pid, signal.SIGSTOP)
    wait_until(all_stopped, what="all threads to stop")


def peak_rss_bytes(pid):
    with open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * KIB
    raise AssertionError("no VmHWM")


class Box:
    """A folder and everything that was set up in it."""

    def __init__(self, folder):
        self.folder = folder
        self.undo = []
        self.loops = {}  # device: file
        self.nb_mounts = 0

    def __enter__(self):
        os.makedirs(self.folder)
        return self

    def __exit__(self, kind, error, trace):
        first = None
        while self.undo:
            function, args = self.undo.pop()
            try:
                function(*args)
            except Exception as undo_error:
                first = first or undo_error
        if kind is None:
            shutil.rmtree(self.folder, ignore_errors=True)
            if first:
                raise first
        return False

    def defer(self, function, *args):
        """Calls this when the case ends, the latest first."""
        self.undo.append((function, args))

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def mkdir(self, *names):
        path = self.path(*names)
        os.makedirs(path, exist_ok=True)
        return path

    def write(self, name, data):
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
        return path

    def create(self, name, size=None, *args, backing=None, backing_format="qcow2", **options):
        """qemu-img create -f qcow2; cluster_size="4k" and the like become -o words."""
        words = ["qemu-img", "create", "-q", "-f", "qcow2"]
        for key, value in options.items():
            words += ["-o", f"{key}={value}"]
        if backing:
            words += ["-b", backing, "-F", backing_format]
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        run(*words, *args, path, *([str(size)] if size else []))
        return path

    def convert(self, source, name="flat.raw", *args):
        """The guest's view according to qemu-img, as a raw file."""
        target = self.path(name)
        run("qemu-img", "convert", "-O", "raw", *args, source, target)
        return target

    def from_raw(self, raw, name, *args):
        target = self.path(name)
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *args, raw, target)
        return target

    def mount(self, *images, options=(), args=(), writable=False, wrapper=()):
        """Mounts read-only unless told otherwise."""
        self.nb_mounts += 1
        point = self.mkdir(f"mnt{self.nb_mounts}")
        mount = Mount(self, images, point, options, [*args, "-w" if writable else "-r"], wrapper)
        self.defer(mount.abandon)
        return mount

    def mount_ring(self, image, **kwargs):
        """Serves it through FUSE over io_uring, which is switched on."""
        need_ring()
        return self.mount(image, options=["transport=uring"], **kwargs)

    def memory_folder(self):
        """A folder in memory, where a sync costs nothing and a read waits for nothing."""
        shm = "/dev/shm"
        if not os.access(shm, os.W_OK) or shutil.disk_usage(shm).free < GIB or \
                run("stat", "-f", "-c", "%T", shm).stdout != "tmpfs\n":
            raise Skip("no memory file system")
        folder = tempfile.mkdtemp(prefix="qcow2fs-test.", dir=shm)
        self.defer(shutil.rmtree, folder)
        return folder

    def preload(self, code):
        """The wrapper of a server whose library calls go to the C functions in `code` first."""
        library = self.path("preloaded.so")
        run("cc", "-shared", "-fPIC", "-o", library, self.write("preloaded.c", code.encode()))
        return ["env", f"LD_PRELOAD={library}"]

    def refuse(self, *words, status, saying=(), cwd=None):
        """
        Runs qcow2fs on the given words and a mount point; it must fail with this status, one
        line that holds the texts `saying`, and no mount. Returns the line.
        """
        point = self.mkdir("refused")
        done = run(QCOW2FS, *words, point, status=None, cwd=cwd)
        try:
            assert done.returncode == status, \
                f"status {done.returncode}, not {status}: {done.stderr}"
            assert point not in mount_points(), "a mount was left behind"
        finally:
            if point in mount_points():
                run("umount", "-l", point, status=None)
        lines = done.stderr.splitlines()
        if status == USAGE and lines[1:] == ["Try 'qcow2fs --help'."]:
            lines.pop()
        assert done.stdout == "", f"on standard output: {done.stdout}"
        assert len(lines) == 1, f"not one line: {done.stderr}"
        assert lines[0].startswith("qcow2fs: "), lines[0]
        for text in [saying] if isinstance(saying, str) else saying:
            assert text in lines[0], f"no word of '{text}': {lines[0]}"
        return lines[0]

    def loop(self, path, *args):
        """Attaches a loop device; returns its name."""
        need_root()
        done = run("losetup", "--find", "--show", *args, path, status=None)
        if done.returncode != 0:
            if "cannot find an unused loop device" in done.stderr or not os.path.exists("/dev/loop-control"):
                raise Skip("no loop devices here")
            raise AssertionError(done.stderr)
        device = done.stdout.strip()
        self.loops[device] = os.path.realpath(path)
        self.defer(self.unloop, device)
        return device

    def unloop(self, device):
        """Detaches it, once: afterwards another test's file may be behind that name."""
        path = self.loops.pop(device, None)
        if not path:
            return
        run("losetup", "-d", device, status=None)
        # With a mount or a partition gone a moment ago, the kernel detaches a bit later.
        wait_until(lambda: backing_file(device) != path, 10, f"{device} to detach")

    def mount_device(self, device, *args):
        """mount(8); returns the mount point."""
        need_root()
        self.nb_mounts += 1
        point = self.mkdir(f"mnt{self.nb_mounts}")
        run("mount", *args, device, point)
        self.defer(lambda: run("umount", "-l", point, status=None) if point in mount_points() else None)
        return point


# ---- comparing a raw view with a flat file ----

def check_whole(path, expected, flags=0):
    """Every byte, by consecutive reads of 1 MiB; O_DIRECT in flags is welcome."""
    fd = os.open(path, os.O_RDONLY | flags)
    try:
        buffer = mmap.mmap(-1, MIB)
        offset = 0
        while True:
            got = os.preadv(fd, [buffer], offset)
            if got == 0:
                break
            if buffer[:got] != expected[offset:offset + got]:
                raise AssertionError(f"{path}: differs at {first_difference(buffer[:got], expected[offset:offset + got], offset)}")
            offset += got
        assert offset == len(expected), f"{path}: {offset} bytes, not {len(expected)}"
    finally:
        os.close(fd)


def first_difference(left, right, offset):
    for index, (a, b) in enumerate(zip(left, right)):
        if a != b:
            return f"offset {offset + index}: {a:#x}, not {b:#x}"
    return f"offset {offset + min(len(left), len(right))}: lengths {len(left)} and {len(right)}"


def check_odd_reads(path, expected, seed, count=60, flags=0):
    """pread at random offsets and lengths, most of them odd, and across the end."""
    rng = random.Random(seed)
    fd = os.open(path, os.O_RDONLY | flags)
    try:
        for _ in range(count):
            length = rng.choice([1, 511, 513, 4095, 4097, 65537, rng.randrange(1, 300000)])
            offset = rng.randrange(0, len(expected))
            got = os.pread(fd, length, offset)
            want = expected[offset:offset + length]
            if got != want:
                raise AssertionError(f"{path}: pread of {length} at {offset} differs at "
                                     f"{first_difference(got, want, offset)}")
        assert os.pread(fd, 10, len(expected)) == b"", "a read at the end returns data"
        assert os.pread(fd, 10, len(expected) + 12345) == b"", "a read past the end returns data"
    finally:
        os.close(fd)


def check_names_are_fixed(folder, number):
    """Nothing can be made, renamed or removed there: each attempt fails with this errno."""
    def at(name):
        return os.path.join(folder, name)
    for function, *args in [(os.open, at("x"), os.O_CREAT | os.O_WRONLY), (os.mkdir, at("x")),
                            (os.mknod, at("x")), (os.mkfifo, at("x")),
                            (os.symlink, "disk.raw", at("x")),
                            (os.link, at("disk.raw"), at("x")), (os.unlink, at("disk.raw")),
                            (os.rename, at("disk.raw"), at("x"))]:
        try:
            function(*args)
        except OSError as error:
            assert error.errno == number, \
                f"{function.__name__}: {error} instead of {errno.errorcode[number]}"
            continue
        raise AssertionError(f"{function.__name__} succeeded")
    # What is there may be opened as if it were to be created.
    os.close(os.open(at("disk.raw"), os.O_CREAT | os.O_RDONLY))


def check_mmap(path, expected):
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        # From the end to the beginning, so that read-ahead does not do the work.
        for offset in reversed(range(0, len(expected), 256 * KIB)):
            if view[offset:offset + 256 * KIB] != expected[offset:offset + 256 * KIB]:
                raise AssertionError(f"{path}: mmap differs near {offset}")


def seek_map(path):
    """The data ranges of a file according to SEEK_DATA and SEEK_HOLE, as (start, end) pairs."""
    fd = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        ranges, offset = [], 0
        while offset < size:
            try:
                start = os.lseek(fd, offset, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                break
            offset = os.lseek(fd, start, os.SEEK_HOLE)
            assert start < offset <= size, f"{path}: data from {start} to {offset}"
            ranges.append((start, offset))
        return ranges
    finally:
        os.close(fd)


def check_seek(path, extents):
    """
    SEEK_DATA and SEEK_HOLE agree with `qemu-img map`. Extents that qemu-img calls both data
    and zero (reserved, never written) may be either.
    """
    got = seek_map(path)

    def covered(start, end):
        return sum(max(0, min(end, e) - max(start, s)) for s, e in got)

    for extent in extents:
        start, length = extent["start"], extent["length"]
        found = covered(start, start + length)
        if extent["data"] and not extent["zero"]:
            assert found == length, f"{path}: data at {start}+{length} has a hole in it: {got}"
        elif not extent["data"]:
            assert found == 0, f"{path}: hole at {start}+{length} has data in it: {got}"
