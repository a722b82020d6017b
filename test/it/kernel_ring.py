# SPDX-License-Identifier: MIT OR Apache-2.0
"""
kernel_ring: the kernel's switch for FUSE over io_uring, which holds for all mounts to come.
"""
import contextlib
import os

PARAMETER = "/sys/module/fuse/parameters/enable_uring"


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
    """It is `value`, Y or N, meanwhile; unchanged where that is not permitted."""
    if not can_be_switched():
        yield
        return
    with open(PARAMETER) as file:
        before = file.read()
    try:
        with open(PARAMETER, "w") as file:
            file.write(value)
        yield
    finally:
        with open(PARAMETER, "w") as file:
            file.write(before)
