# SPDX-License-Identifier: MIT OR Apache-2.0
"""
processes: those that a test has started, found by the QF_TEST that they inherit, and where each
of them stands when it does not get on.
"""
import os


def text(*path):
    try:
        with open(os.path.join("/proc", *path), errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def of_test(test):
    """Ids of the living processes that a test has started, without the caller."""
    found = []
    for pid in os.listdir("/proc"):
        if not pid.isdigit() or int(pid) == os.getpid():
            continue
        held = "QF_TEST=" + test in text(pid, "environ").split("\0")
        if held and text(pid, "stat").rpartition(")")[2].split()[:1] not in ([], ["Z"], ["X"]):
            found.append(int(pid))
    return found


def command(pid):
    return text(str(pid), "cmdline").replace("\0", " ").strip() or "?"


def describe(test):
    """Each of its processes with the state and the kernel's stack of every thread."""
    lines = []
    for pid in of_test(test):
        lines.append(f"process {pid}: {command(pid)[:300]}")
        try:
            threads = sorted(os.listdir(f"/proc/{pid}/task"), key=int)
        except OSError:
            continue
        for thread in threads:
            task = (str(pid), "task", thread)
            state = text(*task, "stat").rpartition(")")[2].split()[:1]
            calls = [line.split()[-1].partition("+")[0] for line in text(*task, "stack").splitlines()]
            lines.append(f"  {text(*task, 'comm').strip():16} {''.join(state)} {' '.join(calls[:12])}")
    return "\n".join(lines)
