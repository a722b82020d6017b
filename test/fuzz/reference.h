/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * reference: a second reader of qcow2 images, written from the specification as straight
 * code over bytes in memory: no cache, no plan, no coroutine, nothing shared with core/.
 * The fuzzer compares what both say of each range.
 */
#ifndef QCOW2FS_TEST_FUZZ_REFERENCE_H
#define QCOW2FS_TEST_FUZZ_REFERENCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum verdict {
	VERDICT_GOOD,   /* the specification says what is there */
	VERDICT_BAD,    /* it forbids that: a reader that gives data is wrong */
	VERDICT_UNSURE, /* readers may differ */
};

struct reference_bytes {
	const uint8_t *data;
	uint64_t size;
};

struct reference {
	struct reference_bytes image;
	/* What the names base.raw and data.raw stand for. */
	struct reference_bytes backing_file, data_file;

	unsigned version, cluster_bits, compression;
	uint64_t size, l1_off;
	uint32_t nb_l1;
	bool extended, external, backed;
};

/* Reads the header of ref->image; VERDICT_GOOD: the other fields are set. */
enum verdict reference_open(struct reference *ref);
/*
 * The bytes [guest_off, guest_off + len_bytes), which lie inside one subcluster: one 32nd of a
 * cluster with extended L2 entries, a whole cluster without.
 */
enum verdict reference_read(const struct reference *ref, uint64_t guest_off, uint8_t *buf,
			    size_t len_bytes);
/* How many bytes from guest_off on reference_read() takes at once. */
uint64_t reference_unit(const struct reference *ref, uint64_t guest_off);
/* Inflates exactly out_bytes from the start of what may be more input. */
enum verdict reference_inflate(bool zstd, const uint8_t *in, size_t in_bytes, uint8_t *out,
			       size_t out_bytes);

#endif
