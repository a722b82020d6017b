# SPDX-License-Identifier: MIT OR Apache-2.0
"""
ring_rerun: FUSE over io_uring serves what the device serves: other tests again, through it
(QF_TRANSPORT).
"""
import os
import subprocess

import kernel_ring
import qf


def main(*names):
    @qf.cases_for(names)
    def served_the_same(box, name):
        qf.need_ring()
        done = subprocess.run([os.path.join(qf.SRC, "test", "it", name)],
                              env={**os.environ, "QF_TRANSPORT": "uring",
                                   "QF_TMP": box.mkdir(name)},
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              check=False)
        assert done.returncode == 0, done.stdout[-2000:]

    with kernel_ring.switched("Y"):
        qf.main()
