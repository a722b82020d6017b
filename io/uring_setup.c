/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * uring_setup: see uring_setup.h.
 */
#include "io/uring_setup.h"

#include <errno.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NB_SQ_ENTRIES 256

/* Not in every liburing this builds with; it is passed through to the kernel. */
#ifndef IORING_SETUP_TASKRUN_FLAG
#define IORING_SETUP_TASKRUN_FLAG (1U << 9)
#endif

/* From the best set up down to what every kernel knows: each line drops one thing. */
static const unsigned setup_flags[] = {
	IORING_SETUP_CQSIZE | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER |
		IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
	IORING_SETUP_CQSIZE | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER |
		IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
	IORING_SETUP_CQSIZE | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN |
		IORING_SETUP_TASKRUN_FLAG,
	IORING_SETUP_CQSIZE | IORING_SETUP_SUBMIT_ALL,
	IORING_SETUP_CQSIZE,
	0,
};

int uring_setup(struct io_uring *ring, unsigned nb_cq_entries, bool sqe128, bool to_be_confined)
{
	unsigned more =
		(sqe128 ? IORING_SETUP_SQE128 : 0) | (to_be_confined ? IORING_SETUP_R_DISABLED : 0);
	int ret = -EINVAL;

	for (size_t i = 0; ret == -EINVAL && i < sizeof(setup_flags) / sizeof(setup_flags[0]);
	     i++) {
		struct io_uring_params params = {
			.flags = setup_flags[i] | more,
			.cq_entries = nb_cq_entries,
		};

		ret = io_uring_queue_init_params(NB_SQ_ENTRIES, ring, &params);
	}
	return ret;
}

/*
 * Without EXT_ARG (Linux 5.11), liburing waits with a timeout by a submission of its own, which
 * names no registered file.
 */
bool uring_can_be_confined(const struct io_uring *ring)
{
	return ring->features & IORING_FEAT_EXT_ARG;
}

/* All that an engine submits. */
static const unsigned char operations[] = {
	IORING_OP_READ,  IORING_OP_WRITE,     IORING_OP_READV,    IORING_OP_WRITEV,
	IORING_OP_FSYNC, IORING_OP_FALLOCATE, IORING_OP_POLL_ADD, IORING_OP_URING_CMD, /* last */
};

#define NB_OPERATIONS (sizeof(operations) / sizeof(operations[0]))

/* liburing 2.3 declares functions for these two and does not export them. */
static int register_with(const struct io_uring *ring, unsigned op, const void *arg, unsigned nb)
{
	return syscall(SYS_io_uring_register, ring->ring_fd, op, arg, nb) < 0 ? -errno : 0;
}

int uring_confine(struct io_uring *ring, bool with_cmds)
{
	struct io_uring_restriction list[NB_OPERATIONS + 3] = {
		/* Another file may take the place of one. */
		{.opcode = IORING_RESTRICTION_REGISTER_OP,
		 .register_op = IORING_REGISTER_FILES_UPDATE},
		{.opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED,
		 .sqe_flags = IOSQE_FIXED_FILE | IOSQE_ASYNC},
		{.opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED, .sqe_flags = IOSQE_FIXED_FILE},
	};
	unsigned nb = 3;
	int ret;

	for (size_t i = 0; i < NB_OPERATIONS - !with_cmds; i++) {
		list[nb].opcode = IORING_RESTRICTION_SQE_OP;
		list[nb++].sqe_op = operations[i];
	}
	ret = register_with(ring, IORING_REGISTER_RESTRICTIONS, list, nb);
	return ret < 0 ? ret : register_with(ring, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}
