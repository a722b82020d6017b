# SPDX-License-Identifier: MIT OR Apache-2.0
"""
pairwise: which images the matrix consists of.

A cell gives every parameter a value. legal() knows what the format (and qemu-img) allows.
cells() chooses: first greedily, until every legal pair of values of two parameters occurs
in some cell; then on, up to a wanted number, those that bring most new triples. The result
is the same on every machine.
"""
import itertools
import random

PARAMETERS = {
    "cluster_bits": list(range(9, 22)),
    "refcount_bits": [1, 2, 4, 8, 16, 32, 64],
    "version": [2, 3],
    "l2": ["standard", "extended"],
    "compression": ["zlib", "zstd"],
    # "other": another cluster size, and shorter than the overlay.
    "backing": ["none", "raw", "qcow2", "other", "chain3", "chain5"],
    "data": ["inside", "external", "external-raw"],
    "snapshots": ["no", "yes"],
}


def legal(cell):
    if cell["version"] == 2 and (cell["refcount_bits"] != 16 or cell["l2"] != "standard" or
                                 cell["compression"] != "zlib" or cell["data"] != "inside"):
        return False
    if cell["l2"] == "extended" and cell["cluster_bits"] < 14:
        return False
    if cell["data"] != "inside" and (cell["compression"] != "zlib" or cell["snapshots"] != "no"):
        return False  # an external data file holds neither compressed nor shared clusters
    if cell["data"] == "external-raw" and cell["backing"] != "none":
        return False
    # A snapshot needs a second reference to each cluster.
    return not (cell["refcount_bits"] == 1 and cell["snapshots"] == "yes")


def tuples_of(cell, size):
    return itertools.combinations(cell.items(), size)


def all_legal_cells():
    for values in itertools.product(*PARAMETERS.values()):
        cell = dict(zip(PARAMETERS, values))
        if legal(cell):
            yield cell


def choose(legal_cells, chosen, size, rng, wanted):
    """Adds cells to `chosen` until all legal tuples of this size, or `wanted` cells, are there."""
    missing = set()
    holders = {}
    for cell in legal_cells:
        for key in tuples_of(cell, size):
            if key not in missing:
                missing.add(key)
                holders[key] = []
            holders[key].append(cell)
    for cell in chosen:
        missing.difference_update(tuples_of(cell, size))
    # Sorted once, so that the order of a set (which differs from run to run) decides nothing.
    for target in sorted(missing, key=repr):
        if target not in missing:
            continue
        if wanted is not None and len(chosen) >= wanted:
            return
        candidates = [rng.choice(holders[target]) for _ in range(40)]
        best = max(candidates, key=lambda c: sum(k in missing for k in tuples_of(c, size)))
        chosen.append(best)
        missing.difference_update(tuples_of(best, size))


def cells(wanted=170):
    rng = random.Random("qcow2fs")
    legal_cells = list(all_legal_cells())
    chosen = []
    choose(legal_cells, chosen, 2, rng, None)
    if len(chosen) < wanted:
        choose(legal_cells, chosen, 3, rng, wanted)
    check_coverage(legal_cells, chosen)
    return chosen


def check_coverage(legal_cells, chosen):
    pairs = {key for cell in legal_cells for key in tuples_of(cell, 2)}
    covered = {key for cell in chosen for key in tuples_of(cell, 2)}
    assert pairs == covered, f"pairs without an image: {pairs - covered}"
    assert len(chosen) >= 150, f"only {len(chosen)} images"
    assert all(legal(cell) for cell in chosen)


def pairs(all_cells):
    """The first cells that together cover all pairs: where the greedy choice of pairs ended."""
    missing = {key for cell in all_cells for key in tuples_of(cell, 2)}
    picked = []
    for cell in all_cells:
        if missing.intersection(tuples_of(cell, 2)):
            picked.append(cell)
            missing.difference_update(tuples_of(cell, 2))
    return picked


def subset(all_cells, size):
    """Fewer cells, spread such that each value of each parameter still occurs."""
    missing = {item for cell in all_cells for item in cell.items()}
    picked = []
    for cell in all_cells:
        if missing.intersection(cell.items()) and len(picked) < size:
            picked.append(cell)
            missing.difference_update(cell.items())
    assert not missing, f"{size} cells are too few"
    for cell in all_cells:
        if len(picked) < size and cell not in picked:
            picked.append(cell)
    return picked


def name_of(number, cell):
    return "-".join([f"{number:03}", f"c{cell['cluster_bits']}", f"r{cell['refcount_bits']}",
                     f"v{cell['version']}", cell["l2"][:3], cell["compression"], cell["backing"],
                     cell["data"].replace("-", "_")] + ["snap"] * (cell["snapshots"] == "yes"))
