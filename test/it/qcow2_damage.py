# SPDX-License-Identifier: MIT OR Apache-2.0
"""
qcow2_damage: small images, taken apart so that a test can damage one field at a time, and
a plain reader of what the guest sees, to tell afterwards what a repair has changed.

The reader is written from the specification alone, without any shortcut, and knows nothing
of the programs that it judges.
"""
import struct
import zlib

COPIED, COMPRESSED = 1 << 63, 1 << 62
OFFSET = 0x00fffffffffffe00
RESERVED_L1 = 0x7f000000000001ff
RESERVED_L2 = 0x3f000000000001fe


def up(number, unit):
    return (number + unit - 1) // unit * unit


class Image:
    """The bytes of an image file, with its tables found where the header says."""

    def __init__(self, data):
        self.data = bytearray(data)
        self.version = self.be32(4)
        self.cluster_bits = self.be32(20)
        self.cluster = 1 << self.cluster_bits
        self.size = self.be64(24)
        self.nb_l1, self.l1 = self.be32(36), self.be64(40)
        self.reftable, self.reftable_clusters = self.be64(48), self.be32(56)
        self.nb_snapshots, self.snapshots = self.be32(60), self.be64(64)
        self.incompatible = self.be64(72) if self.version == 3 else 0
        self.order = self.be32(96) if self.version == 3 else 4
        self.extended = bool(self.incompatible & 16)
        self.external = bool(self.incompatible & 4)
        self.entry_bytes = 16 if self.extended else 8
        self.per_l2 = self.cluster // self.entry_bytes
        self.per_block = self.cluster * 8 >> self.order

    # ---- numbers; beyond the end of the file everything is zero ----

    def read(self, offset, length):
        return bytes(self.data[offset:offset + length]).ljust(length, b"\0")

    def be16(self, offset):
        return struct.unpack(">H", self.read(offset, 2))[0]

    def be32(self, offset):
        return struct.unpack(">I", self.read(offset, 4))[0]

    def be64(self, offset):
        return struct.unpack(">Q", self.read(offset, 8))[0]

    def put32(self, offset, value):
        self.data[offset:offset + 4] = struct.pack(">I", value)

    def put64(self, offset, value):
        self.data[offset:offset + 8] = struct.pack(">Q", value)

    # ---- tables ----

    def l1_entries(self, l1=None, nb=None):
        """(place, entry) of all that are not zero."""
        l1, nb = (self.l1, self.nb_l1) if l1 is None else (l1, nb)
        places = range(l1, min(l1 + nb * 8, len(self.data) - 7), 8)
        return [(p, self.be64(p)) for p in places if self.be64(p)]

    def l2_entries(self, kind=None):
        """(place, entry) of the active L2 tables' entries: 'data', 'compressed', 'zero', 'free'."""
        found = []
        for _, l1_entry in self.l1_entries():
            table = l1_entry & OFFSET
            for place in range(table, table + self.cluster, self.entry_bytes):
                entry = self.be64(place)
                if kind is None or self.kind(entry) == kind:
                    found.append((place, entry))
        return found

    def kind(self, entry):
        if entry & COMPRESSED:
            return "compressed"
        if entry & 1 and not self.extended:
            return "zero"
        if entry & OFFSET or self.external and entry & COPIED:
            return "data"
        return "free"

    def blocks(self):
        """(place, offset) of the refcount table's entries that are not zero."""
        places = range(self.reftable, self.reftable + self.reftable_clusters * self.cluster, 8)
        return [(p, self.be64(p)) for p in places if self.be64(p)]

    def snapshot_entries(self):
        place, found = self.snapshots, []
        for _ in range(self.nb_snapshots):
            place = up(place, 8)
            found.append(place)
            place += 40 + self.be32(place + 36) + self.be16(place + 12) + self.be16(place + 14)
        return found

    # ---- refcounts ----

    def _refcount_place(self, cluster):
        block = self.be64(self.reftable + cluster // self.per_block * 8) & ~511
        bit = (cluster % self.per_block) << self.order
        return block, bit

    def refcount(self, cluster):
        block, bit = self._refcount_place(cluster)
        width = 1 << self.order
        if not block:
            return 0
        if width >= 8:
            return int.from_bytes(self.read(block + bit // 8, width // 8), "big")
        return self.data[block + bit // 8] >> bit % 8 & (1 << width) - 1

    def put_refcount(self, cluster, value):
        block, bit = self._refcount_place(cluster)
        width = 1 << self.order
        assert block and 0 <= value < 1 << width
        if width >= 8:
            self.data[block + bit // 8:block + bit // 8 + width // 8] = \
                value.to_bytes(width // 8, "big")
        else:
            mask = (1 << width) - 1 << bit % 8
            self.data[block + bit // 8] = self.data[block + bit // 8] & ~mask | value << bit % 8

    @property
    def refcount_max(self):
        return (1 << (1 << self.order)) - 1

    # ---- what the guest sees ----

    def states(self):
        """One (L1 offset, L1 entries) for the active state and for each snapshot."""
        yield self.l1, self.nb_l1
        for place in self.snapshot_entries():
            yield self.be64(place), self.be32(place + 8)

    def guest(self, external=b""):
        """
        {(state, L1 place, L2 index, subcluster): bytes}; None where a reader must refuse.
        Where no cluster is, nothing is listed: that may as well become a zero cluster.
        """
        seen = {}
        for number, (l1, nb) in enumerate(self.states()):
            if l1 % self.cluster or nb > 1 << 22:
                continue
            for place, l1_entry in self.l1_entries(l1, nb):
                table = l1_entry & OFFSET
                if not table or table % self.cluster:
                    continue
                for index in range(self.per_l2):
                    for sub, data in self._cluster(table + index * self.entry_bytes, external):
                        seen[number, place - l1, index, sub] = data
        return seen

    def _cluster(self, place, external):
        entry = self.be64(place)
        bitmap = self.be64(place + 8) if self.extended else 0
        kind, offset = self.kind(entry), entry & OFFSET
        source = external if self.external else self.data
        if kind == "compressed":
            yield 0, self._inflate(entry)
        elif kind == "zero":
            yield 0, bytes(self.cluster)
        elif not self.extended and kind == "data":
            whole = None if offset % self.cluster else \
                bytes(source[offset:offset + self.cluster]).ljust(self.cluster, b"\0")
            yield 0, whole
        elif self.extended:
            step = self.cluster // 32
            for sub in range(32):
                data, zero = bitmap >> sub & 1, bitmap >> sub + 32 & 1
                if data and (zero or kind == "free" or offset % self.cluster):
                    yield sub, None
                elif data:
                    at = offset + sub * step
                    yield sub, bytes(source[at:at + step]).ljust(step, b"\0")
                elif zero:
                    yield sub, bytes(step)

    def _inflate(self, entry):
        shift = 62 - (self.cluster_bits - 8)
        offset = entry & (1 << shift) - 1
        sectors = (entry >> shift & (1 << self.cluster_bits - 8) - 1) + 1
        try:
            data = zlib.decompressobj(-12).decompress(
                self.read(offset, sectors * 512 - offset % 512), self.cluster)
        except zlib.error:
            return None
        return data if len(data) == self.cluster else None
