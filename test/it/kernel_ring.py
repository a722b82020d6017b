# SPDX-License-Identifier: MIT OR Apache-2.0
"""
kernel_ring: the kernel's switch for FUSE over io_uring, which holds for all mounts to come.
"""
import contextlib
import fcntl
import os

PARAMETER = "/sys/module/fuse/parameters/enable_uring"
# In the environment of what runs while somebody above it has switched.
HELD = "QF_RING_SWITCHED"


def can_be_switched():
    return os.access(PARAMETER, os.W_OK)


def is_on():
    try:
        with open(PARAMETER) as file:
            return file.read().strip() == "Y"
    except OSError:
        return False


@contextlib.contextmanager
def switched(value):
    """
    It is `value`, Y or N, meanwhile; unchanged where that is not permitted. Whoever else wants that waits,
    so that each leaves what it has found; but for the programs below, which do so in turn.
    """
    if not can_be_switched():
        yield
        return
    outermost = HELD not in os.environ
    with open(PARAMETER) as file:
        if outermost:
            fcntl.flock(file, fcntl.LOCK_EX)
            os.environ[HELD] = "1"
        before = file.read()
        try:
            write(value)
            yield
        finally:
            write(before)
            if outermost:
                del os.environ[HELD]


def write(value):
    with open(PARAMETER, "w") as file:
        file.write(value)
