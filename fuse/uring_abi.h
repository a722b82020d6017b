/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * uring_abi: what the kernel's headers from 6.14 on say about FUSE over io_uring, for
 * building with older ones. Names and layout are the kernel's (linux/fuse.h, 7.42).
 */
#ifndef QCOW2FS_FUSE_URING_ABI_H
#define QCOW2FS_FUSE_URING_ABI_H

#include <assert.h>
#include <linux/fuse.h>
#include <stddef.h>
#include <stdint.h>

#ifndef FUSE_OVER_IO_URING

#define FUSE_OVER_IO_URING (1ULL << 41)

#define FUSE_URING_IN_OUT_HEADER_SZ 128
#define FUSE_URING_OP_IN_OUT_SZ 128

/* Which request an entry holds, and how much of its payload is used. */
struct fuse_uring_ent_in_out {
	uint64_t flags;
	uint64_t commit_id; /* names the request when it is answered */
	uint32_t payload_sz;
	uint32_t padding;
	uint64_t reserved;
};

struct fuse_uring_req_header {
	char in_out[FUSE_URING_IN_OUT_HEADER_SZ]; /* fuse_in_header, then fuse_out_header */
	char op_in[FUSE_URING_OP_IN_OUT_SZ];      /* the operation's own structure */
	struct fuse_uring_ent_in_out ring_ent_in_out;
};

enum fuse_uring_cmd {
	FUSE_IO_URING_CMD_INVALID = 0,
	FUSE_IO_URING_CMD_REGISTER = 1,
	FUSE_IO_URING_CMD_COMMIT_AND_FETCH = 2,
};

/* What a submission carries. */
struct fuse_uring_cmd_req {
	uint64_t flags;
	uint64_t commit_id;
	uint16_t qid;
	uint8_t padding[6];
};

#endif

static_assert(sizeof(struct fuse_uring_ent_in_out) == 32, "as in the kernel");
static_assert(sizeof(struct fuse_uring_req_header) == 288, "as in the kernel");
static_assert(sizeof(struct fuse_uring_cmd_req) == 24, "as in the kernel");

#endif
