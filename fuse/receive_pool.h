/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * receive_pool: the buffers that messages from the FUSE device are read into.
 *
 * A message is read to an address 80 bytes (the headers of a WRITE) below a page boundary, so
 * that a write's payload is page-aligned. The pool is bounded: when all buffers are held, whoever
 * wants one waits, and the kernel queues. Address space only: memory is used as messages arrive.
 * Any thread may call what is here.
 */
#ifndef QCOW2FS_FUSE_RECEIVE_POOL_H
#define QCOW2FS_FUSE_RECEIVE_POOL_H

#include <linux/fuse.h>
#include <pthread.h>
#include <stddef.h>

#define RECEIVE_WRITE_BYTES_MAX (1u << 20)
#define RECEIVE_WRITE_HEADER_BYTES (sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in))
/* The kernel wants room for up to one page of headers besides the payload. */
#define RECEIVE_MESSAGE_BYTES (RECEIVE_WRITE_HEADER_BYTES + RECEIVE_WRITE_BYTES_MAX + 4096u)

struct receive_buf {
	struct receive_buf *next;
	void *message; /* RECEIVE_MESSAGE_BYTES */
};

struct receive_pool {
	pthread_mutex_t mutex;
	pthread_cond_t filled;
	struct receive_buf *bufs; /* all of them */
	struct receive_buf *free_bufs;
	char *area; /* of all buffers */
	size_t area_bytes;
};

/* 0 or -errno; receive_pool_finish() is due in either case. */
int receive_pool_init(struct receive_pool *pool, unsigned nb_bufs);
void receive_pool_finish(struct receive_pool *pool);
struct receive_buf *receive_pool_get(struct receive_pool *pool);
void receive_pool_put(struct receive_pool *pool, struct receive_buf *buf);
/* Gives a buffer's memory back to the system, and what is in it; nobody reads into it. */
void receive_buf_give_back(const struct receive_buf *buf);
/* Gives the memory of the buffers that nobody holds back to the system. */
void receive_pool_give_back(struct receive_pool *pool);

#endif
