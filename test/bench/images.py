# SPDX-License-Identifier: MIT OR Apache-2.0
"""The sample images: made once per run and medium, only those that the chosen jobs need.

Ordinary images come from qemu-img and qemu-io. The two huge ones, whose point is a lot of
metadata beside little data, are written here table by table, which takes seconds where
qemu-img takes a minute.
"""

import array
import os
import random
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
CLUSTER = 64 * KIB
_BLOCK = 4 * KIB


@dataclass
class Image:
    """`layers` is the chain from the top to the base; `raw` the same content as a flat file."""

    name: str
    layers: list
    raw: Path
    virtual_size: int
    on_disk: bool
    probes: Sequence = ()   # where to compare content that is too big to compare all of it

    def copy(self, directory, is_raw):
        """A writable copy of the flat file or of the top layer, for one kind of subject."""
        directory.mkdir(parents=True, exist_ok=True)
        if is_raw:
            raw, layers = _copy(self.raw, directory), self.layers
        else:
            raw, layers = self.raw, [_copy(self.layers[0], directory), *self.layers[1:]]
        return Image(self.name, layers, raw, self.virtual_size, self.on_disk)


def _run(*argv, **kwargs):
    subprocess.run([str(a) for a in argv], check=True, stdout=subprocess.DEVNULL, **kwargs)


def _copy(source, directory):
    target = directory / source.name
    _run("cp", "--reflink=auto", "--sparse=auto", source, target)
    with open(target, "rb") as f:
        os.fsync(f.fileno())  # a trial on a disk must not pay for writing the copy back
    return target


def _put_in_order(path):
    """Writes the file anew from its beginning to its end.

    On tmpfs its pages then lie in memory as those of the flat file do. Written in any other
    order it is read on and on at half the speed, whoever does it.
    """
    other = path.with_suffix(".new")
    _run("cp", "--reflink=never", "--sparse=auto", path, other)
    other.rename(path)


def memory_warm_up(directory, nb_bytes):
    """Makes the memory that a trial is about to fill on tmpfs memory that has been in use.

    A virtual machine pays many times the usual price for the first touch of a page; that
    must not fall to whichever subject comes first. Pages freed last are handed out first.
    """
    path = directory / "ballast"
    chunk = bytes(16 * MIB)
    with open(path, "wb", buffering=0) as f:
        for _ in range(0, nb_bytes, len(chunk)):
            f.write(chunk)
    path.unlink()


class Images:
    """Builds images in `directory` on first use."""

    def __init__(self, directory, on_disk, size, compressed_size, empty_size):
        self._dir = directory
        self._on_disk = on_disk
        self._size = size
        self._compressed_size = compressed_size
        self._empty_size = empty_size
        self._made = {}

    def get(self, name):
        if name not in self._made:
            self._made[name] = getattr(self, "_make_" + name)()
        return self._made[name]

    def _image(self, name, layers, raw, virtual_size, **kwargs):
        return Image(name, layers, raw, virtual_size, self._on_disk, **kwargs)

    def _path(self, name):
        return self._dir / name

    def _flat(self):
        """The flat file that most images are made from."""
        path = self._path("flat.raw")
        if not path.exists():
            write_content(path, self._size)
        return path

    def _make_allocated(self):
        path = self._path("allocated.qcow2")
        _run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-S", "0", self._flat(), path)
        _put_in_order(path)
        return self._image("allocated", [path], self._flat(), self._size)

    def _compressed(self, kind):
        path = self._path(f"{kind}.qcow2")
        source = f"driver=raw,size={self._compressed_size},file.filename={self._flat()}"
        _run("qemu-img", "convert", "--image-opts", source, "-c", "-W", "-m", "4",
             "-O", "qcow2", "-o", f"compression_type={kind}", path)
        return self._image(kind, [path], self._flat(), self._compressed_size)

    def _make_zlib(self):
        return self._compressed("zlib")

    def _make_zstd(self):
        return self._compressed("zstd")

    def _chain(self, name, nb_overlays, nb_parts):
        """Overlay i holds every cluster c with c mod nb_parts == i; the base holds all."""
        layers = self.get("allocated").layers
        for i in range(nb_overlays):
            path = self._path(f"{name}-{i + 1}.qcow2")
            _run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", layers[0], path)
            script = "".join(f"write -q -P {(c * 7 + i) % 255 + 1} {c * CLUSTER} {CLUSTER}\n"
                             for c in range(i, self._size // CLUSTER, nb_parts))
            _run("qemu-io", "-f", "qcow2", "-t", "unsafe", path, input=script.encode())
            _put_in_order(path)
            layers = [path, *layers]
        flat = self._path(f"{name}.raw")
        _run("qemu-img", "convert", "-O", "raw", "-S", "0", layers[0], flat)
        _put_in_order(flat)
        return self._image(name, layers, flat, self._size)

    def _make_overlay(self):
        return self._chain("overlay", nb_overlays=1, nb_parts=2)

    def _make_five_layers(self):
        return self._chain("five_layers", nb_overlays=4, nb_parts=5)

    def _make_empty(self):
        path, raw = self._path("empty.qcow2"), self._path("empty.raw")
        _run("qemu-img", "create", "-q", "-f", "qcow2", path, self._empty_size)
        _run("truncate", "-s", self._empty_size, raw)
        return self._image("empty", [path], raw, self._empty_size,
                           probes=range(0, self._empty_size, 256 * MIB))

    def _make_sparse(self):
        """Runs of 1 MiB of data, each followed by 15 MiB of nothing."""
        size = 4 * self._size
        stride = 16 * MIB // CLUSTER
        guests = [g for start in range(0, size // CLUSTER, stride)
                  for g in range(start, start + MIB // CLUSTER)]
        return self._synthetic("sparse", size, 16, guests, guests)

    def _make_cold_4k(self):
        """64 GiB, all of it allocated in 4 KiB clusters: 128 MiB of L2 tables."""
        probes = sorted(random.Random(1).sample(range(64 * GIB // _BLOCK), 512))
        return self._synthetic("cold_4k", 64 * GIB, 12, None, probes)

    def _make_cold_1t(self):
        """1 TiB with four clusters of data at random places in the range of each L2 table."""
        rng = random.Random(2)
        per_table = CLUSTER // 8
        guests = [table * per_table + g for table in range(TIB // CLUSTER // per_table)
                  for g in sorted(rng.sample(range(per_table), 4))]
        return self._synthetic("cold_1t", TIB, 16, guests, guests)

    def _synthetic(self, name, size, cluster_bits, guests, filled):
        path, raw = self._path(f"{name}.qcow2"), self._path(f"{name}.raw")
        writer = SyntheticQcow2(path, size, cluster_bits)
        where = writer.write(guests)
        with open(path, "r+b") as image, open(raw, "wb") as flat:
            flat.truncate(size)
            for guest in filled:
                data = _stamped(guest, 1 << cluster_bits)
                image.seek(where(guest))
                image.write(data)
                flat.seek(guest << cluster_bits)
                flat.write(data)
        probes = [g << cluster_bits for g in random.Random(3).sample(filled, 64)]
        probes += [random.Random(4).randrange(size // MIB) * MIB for _ in range(64)]
        return self._image(name, [path], raw, size, probes=sorted(probes))


class SyntheticQcow2:
    """Writes a version 3 image with 16-bit refcounts whose clusters follow one another.

    Order in the file: header, refcount table, refcount blocks, L1 table, L2 tables, data.
    """

    def __init__(self, path, virtual_size, cluster_bits):
        self._path = path
        self._size = virtual_size
        self._bits = cluster_bits
        self._cluster = 1 << cluster_bits
        self._per_table = self._cluster // 8

    def write(self, guests):
        """`guests` are the allocated clusters in order, or None for all of them.

        Returns the function that gives the host offset of an allocated guest cluster.
        """
        nb_tables = -(-self._size // self._cluster // self._per_table)
        nb_data = len(guests) if guests is not None else self._size // self._cluster
        nb_l1 = -(-nb_tables * 8 // self._cluster)
        nb_other = 1 + nb_l1 + nb_tables + nb_data
        nb_blocks, nb_reftable = self._refcount_clusters(nb_other)
        nb_total = nb_other + nb_blocks + nb_reftable
        self._l1_off = (1 + nb_reftable + nb_blocks) * self._cluster
        self._l2_off = self._l1_off + nb_l1 * self._cluster
        self._data_off = self._l2_off + nb_tables * self._cluster
        with open(self._path, "wb") as f:
            f.truncate(nb_total * self._cluster)
            f.write(self._header(nb_tables, nb_reftable))
            self._write_refcounts(f, nb_total, nb_blocks, nb_reftable)
            f.seek(self._l1_off)
            f.write(self._entries(self._l2_off, nb_tables))
            self._write_l2(f, guests, nb_tables)
        if guests is None:
            return lambda guest: self._data_off + guest * self._cluster
        index = {guest: i for i, guest in enumerate(guests)}
        return lambda guest: self._data_off + index[guest] * self._cluster

    def _refcount_clusters(self, nb_other):
        per_block = self._cluster // 2
        nb_blocks = nb_reftable = 1
        while True:
            total = nb_other + nb_blocks + nb_reftable
            blocks = -(-total // per_block)
            reftable = -(-blocks * 8 // self._cluster)
            if (blocks, reftable) == (nb_blocks, nb_reftable):
                return blocks, reftable
            nb_blocks, nb_reftable = blocks, reftable

    def _header(self, nb_l1_entries, nb_reftable):
        return struct.pack(">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, 0, 0, self._bits, self._size,
                           0, nb_l1_entries, self._l1_off, self._cluster, nb_reftable, 0, 0,
                           0, 0, 0, 4, 104)

    def _entries(self, host_off, nb, copied=1 << 63):
        """`nb` big-endian table entries that point to consecutive clusters."""
        table = array.array("Q", range(host_off | copied,
                                       (host_off | copied) + nb * self._cluster, self._cluster))
        if sys.byteorder == "little":
            table.byteswap()
        return table.tobytes()

    def _write_refcounts(self, f, nb_total, nb_blocks, nb_reftable):
        f.seek(self._cluster)
        f.write(self._entries((1 + nb_reftable) * self._cluster, nb_blocks, copied=0))
        f.seek((1 + nb_reftable) * self._cluster)
        f.write(b"\x00\x01" * nb_total)

    def _write_l2(self, f, guests, nb_tables):
        f.seek(self._l2_off)
        if guests is None:
            for table in range(nb_tables):
                host_off = self._data_off + table * self._per_table * self._cluster
                f.write(self._entries(host_off, self._per_table))
            return
        host_off = self._data_off
        for guest in guests:
            f.seek(self._l2_off + guest * 8)
            f.write(struct.pack(">Q", host_off | 1 << 63))
            host_off += self._cluster


def _stamped(number, nb_bytes):
    """A cluster's content, different for each number."""
    word = (number * 2 + 1) * 0x9E3779B97F4A7C15 & (1 << 64) - 1
    return struct.pack("<Q", word) * (nb_bytes // 8)


def _content_pool():
    """Blocks that deflate to about 40 %, as programs and documents do."""
    rng = random.Random(42)
    words = [bytes(rng.choices(b"etaoinshrdlucmfw", k=rng.randint(2, 9))) for _ in range(1024)]
    weights = [1 / (rank + 1) for rank in range(len(words))]
    pool = []
    for _ in range(64):
        text = b" ".join(rng.choices(words, weights, k=14000))[:CLUSTER * 7 // 8]
        pool.append(text + rng.randbytes(CLUSTER - len(text)))
    return pool


def write_content(path, size):
    """Pseudo-random content in which every 4 KiB block carries its own number."""
    pool = _content_pool()
    rng = random.Random(43)
    with open(path, "wb") as f:
        for start in range(0, size, MIB):
            chunk = bytearray().join(rng.choices(pool, k=MIB // CLUSTER))
            for off in range(0, MIB, _BLOCK):
                struct.pack_into("<Q", chunk, off, start + off | 1)
            f.write(chunk)
