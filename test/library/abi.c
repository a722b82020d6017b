/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The layout that programs compiled against version 0.1 have built in (64-bit processors).
 * A structure may grow at its end where it begins with `size`; nothing here may change.
 */
#include <assert.h>
#include <qcow2fs.h>

#define SIZE(type, bytes) static_assert(sizeof(struct type) == (bytes), #type)
#define AT(type, member, bytes) \
	static_assert(offsetof(struct type, member) == (bytes), #type "." #member)
#define VALUE(name, value) static_assert((name) == (value), #name)

SIZE(qf_context_options, 16);
AT(qf_context_options, engine, 4);
AT(qf_context_options, nb_workers, 8);
AT(qf_context_options, nb_requests, 12);

SIZE(qf_open_options, 48);
AT(qf_open_options, flags, 4);
AT(qf_open_options, snapshot, 8);
AT(qf_open_options, backing_file, 16);
AT(qf_open_options, data_file, 24);
AT(qf_open_options, l2_cache_bytes, 32);
AT(qf_open_options, names, 40);

SIZE(qf_info, 64);
AT(qf_info, flags, 4);
AT(qf_info, virtual_size, 8);
AT(qf_info, cluster_size, 16);
AT(qf_info, block_size, 20);
AT(qf_info, version, 24);
AT(qf_info, refcount_bits, 28);
AT(qf_info, depth, 32);
AT(qf_info, nb_snapshots, 36);
AT(qf_info, backing_file, 40);
AT(qf_info, backing_format, 48);
AT(qf_info, data_file, 56);

SIZE(qf_snapshot, 56);
AT(qf_snapshot, date_nsec, 4);
AT(qf_snapshot, id, 8);
AT(qf_snapshot, name, 16);
AT(qf_snapshot, virtual_size, 24);
AT(qf_snapshot, date_sec, 32);
AT(qf_snapshot, vm_clock_nsec, 40);
AT(qf_snapshot, vm_state_bytes, 48);

SIZE(qf_extent, 56);
AT(qf_extent, guest_off, 0);
AT(qf_extent, len_bytes, 8);
AT(qf_extent, host_off, 16);
AT(qf_extent, kind, 24);
AT(qf_extent, flags, 28);
AT(qf_extent, depth, 32);

SIZE(qf_request, 128);
AT(qf_request, image, 0);
AT(qf_request, op, 8);
AT(qf_request, flags, 12);
AT(qf_request, guest_off, 16);
AT(qf_request, len_bytes, 24);
AT(qf_request, read_buf, 32);
AT(qf_request, write_buf, 32);
AT(qf_request, extent, 32);
AT(qf_request, done, 40);
AT(qf_request, queue, 48);
AT(qf_request, user, 56);
AT(qf_request, result, 64);

SIZE(qf_check_options, 32);
AT(qf_check_options, repair, 4);
AT(qf_check_options, flags, 8);
AT(qf_check_options, say, 16);
AT(qf_check_options, user, 24);

SIZE(qf_check_report, 88);
AT(qf_check_report, flags, 4);
AT(qf_check_report, leaks, 8);
AT(qf_check_report, corruptions, 16);
AT(qf_check_report, check_errors, 24);
AT(qf_check_report, leaks_fixed, 32);
AT(qf_check_report, corruptions_fixed, 40);
AT(qf_check_report, image_end_offset, 48);
AT(qf_check_report, total_clusters, 56);
AT(qf_check_report, allocated_clusters, 64);
AT(qf_check_report, fragmented_clusters, 72);
AT(qf_check_report, compressed_clusters, 80);

VALUE(QF_ENGINE_AUTO, 0);
VALUE(QF_ENGINE_URING, 1);
VALUE(QF_ENGINE_THREADS, 2);
VALUE(QF_ENGINE_SYNC, 3);
VALUE(QF_OPEN_WRITABLE, 1);
VALUE(QF_OPEN_FORCE_SHARE, 2);
VALUE(QF_OPEN_RAW, 4);
VALUE(QF_OPEN_NO_BACKING, 8);
VALUE(QF_OPEN_PAGE_CACHE, 16);
VALUE(QF_NAMES_AUTO, 0);
VALUE(QF_NAMES_ANY, 1);
VALUE(QF_NAMES_BENEATH, 2);
VALUE(QF_NAMES_NONE, 3);
VALUE(QF_INFO_WRITABLE, 1);
VALUE(QF_INFO_EXTENDED_L2, 2);
VALUE(QF_INFO_ZSTD, 4);
VALUE(QF_INFO_LAZY_REFCOUNTS, 8);
VALUE(QF_INFO_RAW, 16);
VALUE(QF_EXTENT_HOLE, 0);
VALUE(QF_EXTENT_ZERO, 1);
VALUE(QF_EXTENT_DATA, 2);
VALUE(QF_EXTENT_COMPRESSED, 3);
VALUE(QF_EXTENT_HAS_HOST_OFF, 1);
VALUE(QF_EXTENT_HOST_HOLE, 2);
VALUE(QF_OP_READ, 0);
VALUE(QF_OP_WRITE, 1);
VALUE(QF_OP_ZERO, 2);
VALUE(QF_OP_DISCARD, 3);
VALUE(QF_OP_FLUSH, 4);
VALUE(QF_OP_MAP, 5);
VALUE(QF_REPAIR_NOTHING, 0);
VALUE(QF_REPAIR_LEAKS, 1);
VALUE(QF_REPAIR_ALL, 2);
VALUE(QF_CHECK_DIRTY, 1);
VALUE(QF_CHECK_CORRUPT, 2);
