/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * message: takes messages of the kernel's FUSE protocol apart and puts answers together, for
 * a transport that has no library doing it.
 */
#ifndef QCOW2FS_FUSE_MESSAGE_H
#define QCOW2FS_FUSE_MESSAGE_H

#include "fuse/request.h"

/* A message as the kernel laid it down. */
struct message {
	uint64_t unique;
	uint32_t opcode;
	uint64_t node_id;
	uint32_t uid;     /* of who asks */
	const void *head; /* the operation's structure */
	size_t head_bytes;
	const void *payload; /* a name, or a WRITE's data */
	size_t payload_bytes;
};

/* The longest answer to what nobody needs to be asked. */
#define MESSAGE_ZERO_BYTES_MAX 16u

/*
 * Finds the parts of a message from the device, where they lie behind one another. The message
 * points into `bytes`. 0, or -EINVAL: not even a header.
 */
int message_open(const void *bytes, size_t len_bytes, struct message *ret_message);

/*
 * With allow_root the kernel lets everybody in, and the server keeps out all but root and
 * `owner`. What an open file allows stays allowed, whoever holds it.
 */
bool message_is_kept_out(const struct message *message, uid_t owner);

/* A line for --debug. */
void message_print(const struct message *message, const char *origin);

/*
 * Fills in what the kernel asked. A WRITE's request->payload points into the message.
 * Returns 0; 1 when there is nothing to ask anybody, and the answer is *ret_zero_bytes
 * zero bytes; or the -errno to answer with (-ENOSYS: the kernel need not ask again).
 */
int message_parse(const struct message *message, struct request *request, size_t *ret_zero_bytes);

/*
 * Writes an answer to the device: error 0 and a payload of at most REQUEST_IOV_MAX pieces, or
 * -errno without one. An answer that is refused is followed by a bare EIO, so that nobody
 * waits for ever. Returns 0, or the -errno of the refusal.
 */
int message_answer(int fd, uint64_t unique, int error, const struct iovec *iov, int nb_iov);

#endif
