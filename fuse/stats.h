/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * stats: how many requests a file had, how many bytes, and how long they took.
 *
 * Latencies are counted in buckets, four to each power of two of nanoseconds, from
 * which percentiles are read with an error below 25 %. [any thread]
 */
#ifndef QCOW2FS_FUSE_STATS_H
#define QCOW2FS_FUSE_STATS_H

#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>

enum stats_class {
	STATS_READ,
	STATS_WRITE,
	STATS_FLUSH,
	STATS_SPACE, /* fallocate, truncate */
	STATS_OTHER,
	STATS_CLASS_COUNT
};

#define STATS_BUCKETS 160u

struct stats {
	struct stats_counter {
		_Atomic uint64_t nb, nb_errors, bytes, max_ns;
		_Atomic uint64_t buckets[STATS_BUCKETS];
	} counters[STATS_CLASS_COUNT];
};

uint64_t stats_now_ns(void);
void stats_note(struct stats *stats, enum stats_class class, int error, uint64_t bytes,
		uint64_t latency_ns);
/* The bucket of a latency, and the lowest latency beyond a bucket. */
unsigned stats_bucket(uint64_t latency_ns);
uint64_t stats_bucket_end_ns(unsigned bucket);
/* The latency that `percent` of the requests did not exceed; 0 without requests. */
uint64_t stats_percentile_ns(const struct stats_counter *counter, unsigned percent);
/* {"read": {...}, "write": {...}, ...}; NULL: all zero. */
void stats_print_json(const struct stats *stats, FILE *out);

#endif
