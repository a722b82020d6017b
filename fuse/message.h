/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * message: takes messages of the kernel's FUSE protocol apart, for a transport that
 * has no library doing it.
 */
#ifndef QCOW2FS_FUSE_MESSAGE_H
#define QCOW2FS_FUSE_MESSAGE_H

#include "fuse/request.h"

/* A message as the kernel laid it down. */
struct message {
	uint32_t opcode;
	uint64_t node_id;
	const void *head; /* the operation's structure */
	size_t head_bytes;
	const void *payload; /* a name, or a WRITE's data */
	size_t payload_bytes;
};

/*
 * Fills in what the kernel asked. A WRITE's request->payload points into the message.
 * Returns 0; 1 when there is nothing to ask anybody, and the answer is *ret_zero_bytes
 * zero bytes; or the -errno to answer with (-ENOSYS: the kernel need not ask again).
 */
int message_parse(const struct message *message, struct request *request, size_t *ret_zero_bytes);

#endif
