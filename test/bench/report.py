# SPDX-License-Identifier: MIT OR Apache-2.0
"""Medians, ratios and the tables of a run, as Markdown and JSON.

A trial is a dictionary with `job`, `subject`, `round` and either `error` or the measured
values (see run_trial() in `run`). Every ratio is one of medians over the rounds of one run.
"""

import json
from statistics import median

from images import GIB
from plot import plot_svg

_PRODUCT = "qcow2fs"


class Summary:
    """Medians per job and subject, and who is the best peer in a job."""

    def __init__(self, jobs, subjects, trials):
        self.jobs = jobs
        self.subjects = subjects
        self._trials = trials
        self._by_key = {}
        for trial in trials:
            if "error" not in trial:
                self._by_key.setdefault((trial["job"], trial["subject"]), []).append(trial)

    def value(self, job, subject, what="rate"):
        trials = self._by_key.get((job.name, subject))
        return median(t[what] for t in trials) if trials else None

    def over_reads(self, subject, what, pick=median):
        """One figure per subject over all its trials of reading jobs."""
        reads = {j.name for j in self.jobs if not j.writes}
        values = [t[what] for (job, name), trials in self._by_key.items()
                  if name == subject and job in reads for t in trials]
        return pick(values) if values else None

    def best_peer(self, job):
        peers = [(self.value(job, s.name), s.name) for s in self.subjects if s.kind == "peer"]
        peers = [p for p in peers if p[0] is not None]
        return max(peers, default=(None, None))

    def cpu(self, job, subject):
        """Server CPU: microseconds per operation, or seconds per GiB for the large ones."""
        trials = self._by_key.get((job.name, subject))
        if not trials:
            return None
        if job.unit == "op/s":
            return median(t["cpu_s"] / max(t["ops"], 1) * 1e6 for t in trials)
        return median(t["cpu_s"] / max(t["bytes"], 1) * GIB for t in trials)

    def spread(self, job, subject):
        """Largest over smallest rate of the rounds: how quiet the machine was."""
        rates = [t["rate"] for t in self._by_key.get((job.name, subject), ())]
        return max(rates) / min(rates) if rates and min(rates) > 0 else None

    def errors(self):
        return [t for t in self._trials if "error" in t]

    def ordered(self, job):
        """
        What is aimed at of a loop over the raw file that makes each write of the job, and then one
        in place that must not come before it, both with fdatasync. None where it is no limit.
        """
        in_place = next((j for j in self.jobs if j.ordered and not j.nb_ops), None)
        if not job.ordered or not in_place:
            return None
        rates = [self.value(j, "raw") for j in (job, in_place)]
        return job.ordered / sum(1 / rate for rate in rates) if all(rates) else None

    def aim(self, job, subject):
        """Whether the aimed-at ratios hold: True, False, or None where there is nothing to say.

        A multiple of the peer that lies above the bare server counts as 0.9 of the latter; and
        where a loop of two ordered writes is a limit, a part of it will do.
        """
        ours, bare = self.value(job, subject), self.value(job, "bare")
        peer = self.best_peer(job)[0]
        if ours is None or not (job.peer or job.bare):
            return None
        needs = []
        if job.peer and peer:
            enough = [job.peer * peer, 0.9 * bare if bare else None, self.ordered(job)]
            needs.append(min(filter(None, enough)))
        if job.bare and bare:
            needs.append(job.bare * bare)
        return ours >= max(needs) if needs else None


def _rate(value, unit):
    if value is None:
        return "–"
    if unit == "MB/s":
        return f"{value:,.0f} MB/s"
    return f"{value / 1000:,.1f} k/s" if value >= 1000 else f"{value:,.0f} /s"


def _number(value, digits=1):
    return "–" if value is None else f"{value:,.{digits}f}"


def _ratio(value, other):
    return "–" if not value or not other else f"{value / other:.2f}"


def _table(head, rows):
    align = ["---"] + ["--:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, align, *rows]) + "\n"


def _result_row(summary, job, subject):
    ours = summary.value(job, subject)
    peer, peer_name = summary.best_peer(job)
    bare, raw = summary.value(job, "bare"), summary.value(job, "raw")
    cpu, peer_cpu = summary.cpu(job, subject), summary.cpu(job, peer_name)
    digits = 1 if job.unit == "op/s" else 3
    aim = {True: "yes", False: "no", None: "–"}[summary.aim(job, subject)]
    return [job.title, _rate(ours, job.unit),
            _rate(peer, job.unit) + (f" ({peer_name})" if peer_name else ""),
            _rate(bare, job.unit), _rate(raw, job.unit),
            _ratio(ours, peer), _ratio(ours, bare), _ratio(ours, raw),
            _number(cpu, digits), _number(peer_cpu, digits), _ratio(cpu, peer_cpu), aim]


def _result_table(summary, subject):
    head = ["job", subject, "best peer", "bare FUSE", "raw file", "× peer", "× bare", "× raw",
            "CPU", "CPU of peer", "× CPU", "aim"]
    return _table(head, [_result_row(summary, j, subject) for j in summary.jobs])


def _subject_table(summary):
    names = [s.name for s in summary.subjects]
    rows = [[job.title, job.unit] +
            [_number(summary.value(job, n), 0) for n in names] +
            [_number(max(filter(None, (summary.spread(job, n) for n in names)), default=None), 2)]
            for job in summary.jobs]
    return _table(["job", "unit", *names, "widest spread"], rows)


def _life_table(summary):
    def row(name):
        def ms(what, pick=median):
            seconds = summary.over_reads(name, what, pick)
            return _number(None if seconds is None else seconds * 1000, 1)

        rss = summary.over_reads(name, "rss_kib", max)
        return [name, ms("ready_s"), ms("stop_s"),
                _number(None if rss is None else rss / 1024, 0)]

    rows = [row(s.name) for s in summary.subjects if s.name != "raw"]
    return _table(["server", "start to readable, ms", "unmount, ms", "peak memory, MiB"], rows)


def _cpu_table(summary):
    names = [s.name for s in summary.subjects if s.name != "raw"]
    rows = [[j.title, "µs/op" if j.unit == "op/s" else "s/GiB"] +
            [_number(summary.cpu(j, n), 1 if j.unit == "op/s" else 3) for n in names]
            for j in summary.jobs]
    return _table(["job", "unit", *names], rows)


def report_markdown(summary, about):
    """The whole report; the first table is the one to look at."""
    first = next((s.name for s in summary.subjects if s.kind == "ours"), _PRODUCT)
    parts = ["# Throughput\n", *(f"- {line}" for line in about["lines"]), "",
             "Medians over the rounds; CPU is that of the server's processes, in microseconds "
             "per operation or seconds per GiB.\n", _result_table(summary, first)]
    parts += [f"{job.title}: {_rate(summary.ordered(job), job.unit)} are enough, "
              f"{job.ordered} of a loop of two ordered writes on the raw file.\n"
              for job in summary.jobs if summary.ordered(job)]
    for subject in summary.subjects:
        if subject.kind == "ours" and subject.name != first:
            parts += [f"\n## Variant {subject.name}\n", _result_table(summary, subject.name)]
    parts += ["\n## Every subject\n", _subject_table(summary),
              "\n## Server CPU\n", _cpu_table(summary),
              "\n## Start, unmount, memory\n", _life_table(summary)]
    if summary.errors():
        parts += ["\n## Failures\n"]
        parts += [f"- {t['job']}, {t['subject']}, round {t['round']}: {t['error']}"
                  for t in summary.errors()]
    return "\n".join(parts) + "\n"


def report_json(summary, about, trials):
    medians = {job.name: {s.name: {"rate": summary.value(job, s.name), "unit": job.unit,
                                   "cpu": summary.cpu(job, s.name)}
                          for s in summary.subjects
                          if summary.value(job, s.name) is not None}
               for job in summary.jobs}
    return json.dumps({"about": about, "medians": medians, "trials": trials}, indent=1) + "\n"


def report_svg(summary):
    """Throughput against depth, or None when fewer than two depths were measured."""
    points = [job for job in summary.jobs if job.depth]
    series = [(s.name, {j.depth: summary.value(j, s.name) / 1000 for j in points
                        if summary.value(j, s.name) is not None})
              for s in summary.subjects]
    series = [(name, values) for name, values in series if len(values) >= 2]
    if not series:
        return None
    return plot_svg("4 KiB random reads, direct, by requests in flight",
                    "thousand reads per second", series)
