# SPDX-License-Identifier: MIT OR Apache-2.0
"""
fsx_runs: fsx on a mounted image, and what must hold afterwards: the image is clean under
qemu-img check, without a leak, and holds what the model holds.
"""
import contextlib
import os

import qf

FSX = os.path.join(qf.BUILD, "test", "it", "fsx")


def memory_folder(box):
    """On disk where there is none."""
    with contextlib.suppress(qf.Skip):
        return box.memory_folder()
    return box.mkdir("images")


def work_on(box, image, seed, nb_ops, grow_bytes=0, options=()):
    model = image + ".model"
    more = ["-g", grow_bytes] if grow_bytes else []
    with box.mount(image, writable=True, options=options) as mount:
        qf.run(FSX, "-s", seed, "-n", nb_ops, *more, "-m", model, mount.path(), timeout=600)
        extents = qf.seek_map(mount.path())
    # A second server sees the same: SEEK's answers are the image's, not the first one's memory.
    with box.mount(image) as mount:
        assert qf.seek_map(mount.path()) == extents, "SEEK_DATA differs after mounting again"
        qf.check_seek(mount.path(), qf.qemu_map(image))
    qf.qemu_check(image)
    qf.qemu_compare(model, image)
    os.unlink(model)
