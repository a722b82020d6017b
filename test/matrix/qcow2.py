# SPDX-License-Identifier: MIT OR Apache-2.0
"""
qcow2: just enough of the format to see what kinds of clusters an image holds, and to build
small images that qemu-img cannot make. Shares no code and no thought with the core.
"""
import collections
import struct
import zlib

COPIED, COMPRESSED, ZERO = 1 << 63, 1 << 62, 1
OFFSET_MASK = 0x00fffffffffffe00
HEADER_V3 = struct.Struct(">4sIQIIQIIQQIIQQQQII")
EXT_BACKING_FORMAT, EXT_DATA_FILE = 0xe2792aca, 0x44415441
EXT_FEATURE_NAMES, EXT_LUKS = 0x6803f857, 0x0537be77


def count_kinds(path):
    """How many L2 entries (subclusters where extended) of the active tree are of each kind."""
    kinds = collections.Counter()
    with open(path, "rb") as file:
        header = file.read(112).ljust(112, b"\0")
        cluster_bits, = struct.unpack_from(">I", header, 20)
        virtual_size, _, l1_size, l1_offset = struct.unpack_from(">QIIQ", header, 24)
        version, = struct.unpack_from(">I", header, 4)
        incompatible = struct.unpack_from(">Q", header, 72)[0] if version > 2 else 0
        words = 2 if incompatible & 16 else 1
        cluster_size = 1 << cluster_bits
        nb_clusters = -(-virtual_size // cluster_size)
        per_table = cluster_size // (8 * words)
        file.seek(l1_offset)
        l1 = struct.unpack(f">{l1_size}Q", file.read(8 * l1_size))
        for index, l1_entry in enumerate(l1):
            here = min(per_table, nb_clusters - index * per_table)
            if here <= 0:
                break
            if l1_entry & OFFSET_MASK == 0:
                kinds["hole"] += here
                continue
            file.seek(l1_entry & OFFSET_MASK)
            table = struct.unpack(f">{cluster_size // 8}Q", file.read(cluster_size))
            for entry in range(here):
                bitmap = table[entry * 2 + 1] if words == 2 else None
                count_entry(kinds, table[entry * words], bitmap)
    return kinds


def count_entry(kinds, entry, bitmap):
    host = entry & OFFSET_MASK
    # In an external data file, offset 0 with COPIED set is guest cluster 0.
    has_host = host != 0 or bool(entry & COPIED)
    if entry & COMPRESSED:
        kinds["compressed"] += 1
    elif bitmap is None:
        if entry & ZERO:
            kinds["zero-allocated" if has_host else "zero"] += 1
        else:
            kinds["data" if has_host else "hole"] += 1
    else:
        for sub in range(32):
            if bitmap >> (32 + sub) & 1:
                kinds["zero-allocated" if has_host else "zero"] += 1
            else:
                kinds["data" if bitmap >> sub & 1 else "hole"] += 1


class Builder:
    """
    Builds an image with 16-bit refcounts. Clusters are given out by host_cluster() from the
    end of the file; what points to a cluster counts itself with ref(). save() writes the
    refcounts, the L1 table and the header.
    """

    def __init__(self, virtual_size, cluster_bits=16, version=3):
        self.cluster_bits = cluster_bits
        self.cluster_size = 1 << cluster_bits
        self.virtual_size = virtual_size
        self.version = version
        self.chunks = {}       # host offset: bytes
        self.refcounts = collections.Counter()
        self.end = self.cluster_size
        self.file_size = None  # cut or extend the file to this in the end
        self.per_table = self.cluster_size // 8
        self.l1 = [0] * -(-virtual_size // (self.cluster_size * self.per_table))
        self.tables = {}       # index in L1: (host offset, entries)
        self.incompatible = self.compatible = self.autoclear = 0
        self.header_length = 104
        self.more_header = b""  # what follows the first 104 bytes, up to header_length
        self.extensions = []
        self.backing = None
        self.refcounts[0] = 1

    def host_cluster(self, count=1, at=None):
        if at is not None:
            self.end = at
        offset = self.end
        self.end += count * self.cluster_size
        return offset

    def ref(self, host_off, length=1):
        for cluster in range(host_off // self.cluster_size,
                             (host_off + length - 1) // self.cluster_size + 1):
            self.refcounts[cluster] += 1

    def table(self, index):
        if index not in self.tables:
            host = self.host_cluster()
            self.ref(host)
            self.tables[index] = (host, [0] * self.per_table)
            self.l1[index] = host | COPIED
        return self.tables[index][1]

    def set_entry(self, guest_cluster, entry):
        self.table(guest_cluster // self.per_table)[guest_cluster % self.per_table] = entry

    def add_data(self, guest_cluster, data, flags=COPIED, at=None):
        host = self.host_cluster(at=at)
        self.ref(host)
        self.chunks[host] = data
        self.set_entry(guest_cluster, host | flags)
        return host

    def add_zero(self, guest_cluster):
        self.set_entry(guest_cluster, ZERO)

    def compress(self, data):
        deflate = zlib.compressobj(9, zlib.DEFLATED, -12)
        return deflate.compress(data.ljust(self.cluster_size, b"\0")) + deflate.flush()

    def add_compressed(self, guest_cluster, packed, host_off, extra_sectors=0):
        """Points at `packed`, which the caller places at host_off (any byte)."""
        self.chunks[host_off] = packed
        sectors = (host_off + len(packed) - 1) // 512 - host_off // 512 + extra_sectors
        shift = 62 - (self.cluster_bits - 8)
        self.set_entry(guest_cluster, COMPRESSED | sectors << shift | host_off)
        self.ref(host_off, (host_off // 512 + sectors + 1) * 512 - host_off)

    def save(self, path):
        for index, (host, entries) in self.tables.items():
            self.chunks[host] = struct.pack(f">{self.per_table}Q", *entries)
        l1_clusters = max(1, -(-len(self.l1) * 8 // self.cluster_size))
        l1_host = self.host_cluster(l1_clusters)
        self.ref(l1_host, l1_clusters * self.cluster_size)
        self.chunks[l1_host] = struct.pack(f">{len(self.l1)}Q", *self.l1)
        table_host, table_clusters = self.save_refcounts()
        with open(path, "wb") as file:
            for host, data in self.chunks.items():
                file.seek(host)
                file.write(data)
            file.seek(0)
            file.write(self.header(l1_host, table_host, table_clusters))
            file.truncate(self.file_size or max(self.end, max(self.refcounts) + 1 << self.cluster_bits))
        return path

    def save_refcounts(self):
        per_block = self.cluster_size // 2
        # The blocks count themselves and the table, so allocate until nothing is added.
        blocks = {}
        table_host = None
        while True:
            needed = {cluster // per_block for cluster in self.refcounts} - blocks.keys()
            if not needed and table_host is not None:
                break
            for index in needed:
                blocks[index] = self.host_cluster()
                self.ref(blocks[index])
            if table_host is None:
                # Generous: one more block than any of these allocations can need.
                table_clusters = -(-(max(blocks) + 2) * 8 // self.cluster_size)
                table_host = self.host_cluster(table_clusters)
                self.ref(table_host, table_clusters * self.cluster_size)
        table = [0] * (table_clusters * self.cluster_size // 8)
        for index, host in blocks.items():
            table[index] = host
            counts = [self.refcounts.get(index * per_block + i, 0) for i in range(per_block)]
            self.chunks[host] = struct.pack(f">{per_block}H", *counts)
        self.chunks[table_host] = struct.pack(f">{len(table)}Q", *table)
        return table_host, table_clusters

    def header(self, l1_host, table_host, table_clusters):
        base = 72 if self.version == 2 else self.header_length
        tail = b""
        for kind, data in self.extensions:
            tail += struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)
        tail += struct.pack(">II", 0, 0)
        backing = self.backing.encode() if self.backing else b""
        packed = HEADER_V3.pack(b"QFI\xfb", self.version, base + len(tail) if backing else 0,
                                len(backing), self.cluster_bits, self.virtual_size, 0,
                                len(self.l1), l1_host, table_host, table_clusters, 0, 0,
                                self.incompatible, self.compatible, self.autoclear, 4,
                                self.header_length)
        if self.version == 3:
            packed += self.more_header.ljust(self.header_length - len(packed), b"\0")
        return packed[:base] + tail + backing
