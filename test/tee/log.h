/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * log: what a mounted server has written, and what its guest has asked for, in the order in
 * which it happened. A file of records, each followed by its bytes where it has any. The
 * number of a record is its logical time.
 */
#ifndef QCOW2FS_TEST_TEE_LOG_H
#define QCOW2FS_TEST_TEE_LOG_H

#include <stdint.h>

enum tee_kind {
	TEE_ISSUE,       /* a request that changes or flushes a file; bytes: of a write */
	TEE_DONE,        /* its end, with the result */
	TEE_GUEST_BEGIN, /* a guest's operation; bytes: of a write */
	TEE_GUEST_END,
};

enum tee_guest { TEE_GUEST_WRITE, TEE_GUEST_ZERO, TEE_GUEST_RESIZE, TEE_GUEST_FLUSH };

struct tee_record {
	uint8_t kind;    /* enum tee_kind */
	uint8_t op, tag; /* enum io_op and io_tag, or enum tee_guest */
	uint8_t unused;
	uint32_t id;    /* the same at begin and end */
	int64_t result; /* at the end */
	uint64_t off;   /* or the new size */
	uint64_t len;
	uint64_t nb_bytes; /* that follow */
};

/* Names the file that the server with the tee writes. */
#define TEE_LOG_VARIABLE "QF_TEE_LOG"

#endif
