# SPDX-License-Identifier: MIT OR Apache-2.0
"""
specials: images that no option of qemu-img creates, or only with a trick, all of them legal
and read without complaint by QEMU. make_all() works in the current folder and returns
(name, path, snapshots) tuples.
"""
import os
import random
import struct

from qcow2 import (COPIED, EXT_BACKING_FORMAT, EXT_FEATURE_NAMES, OFFSET_MASK, ZERO, Builder)

MADE = []


def special(function):
    MADE.append(function)
    return function


def text(seed, nb_bytes):
    """Compresses to about half, differs everywhere."""
    return random.Random(seed).randbytes(nb_bytes // 2).hex().encode()


def compressed(cluster_bits):
    """Packed at odd bytes, over cluster boundaries, up to a boundary, with a tail too long."""
    builder = Builder(40 << cluster_bits, cluster_bits)
    cluster = builder.cluster_size
    # Clusters in a row for the packed data; the first starts in the middle of a sector.
    start = builder.host_cluster(40) + 333
    for guest in range(0, 24, 2):
        packed = builder.compress(text(guest, cluster))
        builder.add_compressed(guest, packed, start)
        start += len(packed)
    # Ends exactly on a cluster boundary.
    packed = builder.compress(text(100, cluster))
    boundary = (start // cluster + 2) * cluster
    builder.add_compressed(25, packed, boundary - len(packed))
    # Starts on a boundary; its descriptor claims two sectors more than the stream needs.
    packed = builder.compress(text(101, cluster))
    builder.add_compressed(27, packed, boundary, extra_sectors=1)
    # Highly compressible: dozens in one host cluster.
    start = boundary + 2 * cluster
    for guest in range(29, 38):
        packed = builder.compress(bytes([guest]) * cluster)
        builder.add_compressed(guest, packed, start)
        start += len(packed)
    return builder


@special
def compressed_512(run):
    return compressed(9).save("special-compressed-512.qcow2")


@special
def compressed_4k(run):
    return compressed(12).save("special-compressed-4k.qcow2")


@special
def compressed_64k(run):
    return compressed(16).save("special-compressed-64k.qcow2")


@special
def compressed_2m(run):
    return compressed(21).save("special-compressed-2m.qcow2")


@special
def compressed_at_the_end(run):
    """The file ends inside the last sector of the compressed data."""
    builder = Builder(1 << 20)
    builder.add_data(1, text(1, 65536))
    # Metadata first, the packed bytes last.
    host = builder.host_cluster(at=32 << 16)
    packed = builder.compress(text(2, 65536))
    builder.add_compressed(3, packed, host + 511)
    builder.end = 8 << 16
    builder.file_size = host + 511 + len(packed)
    return builder.save("special-compressed-at-the-end.qcow2")


@special
def short_last_cluster(run):
    """A data cluster that the end of the file cuts: zeros follow."""
    builder = Builder(1 << 20)
    builder.add_data(5, text(5, 65536))
    host = builder.add_data(2, text(2, 65536)[:10001], at=32 << 16)
    builder.end = 8 << 16
    builder.file_size = host + 10001
    return builder.save("special-short-last-cluster.qcow2")


@special
def shared_table(run):
    """Two L1 entries share an L2 table, two L2 entries a cluster; COPIED is clear."""
    builder = Builder(8 << 20, 12)
    host = builder.add_data(3, text(3, 4096), flags=0)
    builder.ref(host)
    builder.set_entry(9, host)
    table_host = builder.tables[0][0]
    builder.ref(table_host)
    builder.l1[0] = builder.l1[2] = table_host
    # Everything below a shared table counts once for each way that leads to it.
    builder.ref(host)
    builder.ref(host)
    return builder.save("special-shared-table.qcow2")


@special
def zero_over_data(run):
    """Zero clusters that keep host clusters full of something else."""
    builder = Builder(1 << 20, 14)
    for guest in range(0, 60, 3):
        builder.add_data(guest, text(guest, 16384), flags=COPIED | (ZERO if guest % 2 else 0))
        builder.add_zero(guest + 1)
    return builder.save("special-zero-over-data.qcow2")


@special
def far_away(run):
    """Data beyond 4 GiB of the host file, and a host file that is mostly hole."""
    builder = Builder(4 << 20)
    builder.add_data(0, text(0, 65536))
    builder.add_data(7, text(7, 65536), at=(5 << 30) + (3 << 16))
    builder.add_data(8, text(8, 65536), at=(70 << 30))
    builder.add_data(9, text(9, 65536), at=1 << 20)
    return builder.save("special-far-away.qcow2")


@special
def version_2_with_extension(run):
    """Version 2 knows header extensions, too: they follow byte 72."""
    os.makedirs("special-sub/deep", exist_ok=True)
    base = Builder(1 << 20, 16, version=2)
    base.add_data(4, text(4, 65536))
    base.save("special-sub/base-v2.qcow2")
    builder = Builder(3 << 19, 12, version=2)
    builder.extensions.append((EXT_BACKING_FORMAT, b"qcow2"))
    builder.backing = "special-sub/base-v2.qcow2"
    builder.add_data(66, text(66, 4096))
    return builder.save("special-version-2.qcow2")


@special
def unknown_bits(run):
    """Compatible and autoclear bits that nobody knows, unknown extensions, a feature table."""
    builder = Builder(1 << 20)
    builder.compatible = 1 << 5 | 1 << 63
    builder.autoclear = 1 << 7 | 1 << 40
    builder.extensions.append((0x12345678, b"what is this"))
    builder.extensions.append((EXT_FEATURE_NAMES, struct.pack("BB46s", 1, 5, b"five")))
    builder.extensions.append((0xdeadbeef, b""))
    builder.add_data(1, text(1, 65536))
    return builder.save("special-unknown-bits.qcow2")


@special
def long_header(run):
    """header_length beyond what is defined; the fields there are kept and ignored."""
    builder = Builder(1 << 20)
    builder.header_length = 256
    builder.more_header = bytes(8) + b"\xa5" * 144
    builder.add_data(15, text(15, 65536))
    return builder.save("special-long-header.qcow2")


@special
def relative_names(run):
    """Each backing name is taken from the folder of the image that holds it."""
    os.makedirs("special-sub/deep/down", exist_ok=True)
    run("qemu-img", "create", "-q", "-f", "qcow2", "special-sub/c.qcow2", "1M")
    run("qemu-io", "-f", "qcow2", "-c", "write -q -P 3 300k 100k", "special-sub/c.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "../../c.qcow2", "-F", "qcow2",
        "special-sub/deep/down/b.qcow2")
    run("qemu-io", "-f", "qcow2", "-c", "write -q -P 2 200k 100k", "special-sub/deep/down/b.qcow2")
    name = "special-relative-names.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "special-sub/deep/down/b.qcow2",
        "-F", "qcow2", name)
    run("qemu-io", "-f", "qcow2", "-c", "write -q -P 1 100k 100k", name)
    return name


@special
def preallocated(run):
    name = "special-preallocated.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", name, "5M")
    run("qemu-io", "-f", "qcow2", "-c", "write -q -P 7 1M 1M", name)
    return name


@special
def bitmaps(run):
    name = "special-bitmaps.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", name, "5M")
    run("qemu-img", "bitmap", "--add", name, "b0")
    run("qemu-io", "-f", "qcow2", "-c", "write -q -P 7 1M 1M", name)
    return name


@special
def empty(run):
    name = "special-empty.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", name, "0")
    return name


@special
def many_snapshots(run):
    """States that share tables and clusters with each other in every way."""
    name = "special-many-snapshots.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", name, "6M")
    for number in range(8):
        run("qemu-io", "-t", "unsafe", "-f", "qcow2", "-c",
            f"write -q -P {number + 1} {number * 300}k {500 + number * 100}k", "-c",
            f"write -q -z -u {number * 520}k 30k", name)
        run("qemu-img", "snapshot", "-c", f"state{number}", name)
    run("qemu-img", "snapshot", "-d", "state3", name)
    return name, [f"state{number}" for number in range(8) if number != 3]


def make_all(run):
    made = []
    for function in MADE:
        result = function(run)
        path, snapshots = result if isinstance(result, tuple) else (result, [])
        made.append((path[:-len(".qcow2")], path, snapshots))
    return made
