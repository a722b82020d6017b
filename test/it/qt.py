# SPDX-License-Identifier: MIT OR Apache-2.0
"""
qt: what the tests of qcow2tool have in common, on top of qf.
"""
import json
import os

import qf

TOOL = os.path.join(qf.BUILD, "qcow2tool")
MATRIX = os.path.join(qf.SRC, "build", "matrix")


def tool(*words, status=0, **kwargs):
    """Runs qcow2tool, which must exit with `status`."""
    return qf.run(TOOL, *words, status=status, **kwargs)


def tool_json(*words):
    return json.loads(tool(*words).stdout)


def refuse(*words, status, saying=()):
    """qcow2tool must fail with this status and one line that holds the texts `saying`."""
    done = tool(*words, status=status)
    line = done.stderr.splitlines()[0]
    assert line.startswith("qcow2tool: "), line
    for text in [saying] if isinstance(saying, str) else saying:
        assert text in line, f"no word of '{text}': {line}"


def matrix_images():
    """The images of test/matrix, with absolute names."""
    index = qf.run(os.path.join(qf.SRC, "test", "matrix", "generate"), MATRIX, timeout=800)
    with open(index.stdout.strip()) as file:
        images = json.load(file)["images"]
    for image in images:
        image["path"] = os.path.join(MATRIX, image["path"])
        image["expected"] = os.path.join(MATRIX, image["expected"])
    return images


def same(image, flat):
    """The image shows the bytes of the flat file, says qemu-img."""
    qf.run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, flat)


def sound(image):
    """Neither qemu-img nor qcow2tool finds anything wrong."""
    qf.qemu_check(image)
    tool("check", "-q", image)
