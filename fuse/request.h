/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * request: one request of the kernel, on its way through the server, independent
 * of the transport that brought it.
 *
 * Life: a transport takes one from the pool (request_get()), fills in what the
 * kernel asked and hands it to ops_dispatch(). From then on it belongs to ops,
 * which calls request_reply() exactly once, on whatever thread; that sends
 * the answer and puts the request back. Payloads of answers are structures of
 * the kernel's protocol (linux/fuse.h), so that a transport only adds the header.
 */
#ifndef QCOW2FS_FUSE_REQUEST_H
#define QCOW2FS_FUSE_REQUEST_H

#include "io/reactor.h"
#include "io/worker.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/uio.h>

struct node;
struct ops;
struct request;

enum request_op {
	REQUEST_LOOKUP,
	REQUEST_GETATTR,
	REQUEST_SETATTR,
	REQUEST_OPEN,
	REQUEST_READ,
	REQUEST_WRITE,
	REQUEST_FLUSH,
	REQUEST_RELEASE,
	REQUEST_FSYNC,
	REQUEST_FSYNCDIR,
	REQUEST_READDIR,
	REQUEST_READDIRPLUS,
	REQUEST_STATFS,
	REQUEST_GETXATTR,
	REQUEST_LISTXATTR,
	REQUEST_FALLOCATE,
	REQUEST_LSEEK,
	REQUEST_COPY_FILE_RANGE,
	REQUEST_COUNT
};

/* What carries requests and answers. */
struct transport {
	const char *name;
	size_t reply_inline_bytes; /* longer answers are sent by a worker, unless alone */
	/*
	 * Sends the answer: error is 0 or -errno (then there is no payload). nb_iov is at
	 * most REQUEST_IOV_MAX. Returns 0, or -errno when the kernel did not take it.
	 */
	int (*reply)(struct request *request, int error, const struct iovec *iov, int nb_iov);
	/*
	 * Makes the kernel forget cached pages of [off, off + len_bytes) (len_bytes 0: to the
	 * end). May wait for reads under way: never called from a thread that serves them.
	 */
	int (*invalidate)(struct transport *transport, uint64_t ino, uint64_t off,
			  uint64_t len_bytes);
	/* Gives memory back that no message is in. NULL: there is none. [reactor] */
	void (*give_back)(struct transport *transport);
};

#define REQUEST_IOV_MAX 128
#define REQUEST_NAME_MAX 255

struct request {
	struct task task;      /* the reactor's while posted */
	struct worker_job job; /* a helper's */
	struct request *next;  /* the pool's, or the invalidator's queue */
	struct ops *ops;
	struct node *node;

	/* the transport's */
	struct transport *transport;
	void *token;         /* what the transport answers to: */
	uint64_t unique;     /* one of the two */
	void *payload_owner; /* the buffer that `payload` lies in, given back with the request */
	void *area;          /* of the transport, page-aligned: an answer built there from its */
	size_t area_bytes;   /* beginning on is not copied again. NULL: none */
	bool counted;        /* among those that it has not answered yet */

	/* what the kernel asked */
	enum request_op op;
	uint64_t ino;
	uint64_t fh;
	uint64_t offset;    /* in the file (READ, WRITE, FALLOCATE, LSEEK) or directory */
	uint64_t len_bytes; /* of the range; of the answer at most (READDIR, GETXATTR) */
	uint32_t flags;     /* open(2)'s flags; FALLOCATE: mode; LSEEK: whence */
	uint32_t pid;
	const void *payload;             /* WRITE: len_bytes of data */
	bool from_cache;                 /* WRITE: of cached pages, by whatever handle there is */
	bool past_cache;                 /* READ, WRITE: direct, by whatever handle there is */
	char name[REQUEST_NAME_MAX + 1]; /* LOOKUP, GETXATTR */
	uint32_t setattr_valid;          /* SETATTR: FATTR_* of the protocol */
	bool setattr_by_handle;          /* SETATTR: an open file, not a name, was changed */
	struct stat attr;                /* SETATTR */
	uint64_t ino_out, offset_out;    /* COPY_FILE_RANGE: the destination */

	/* what was done: for the other readers of these bytes, before the answer */
	struct node *changed; /* NULL: nothing */
	uint64_t changed_off, changed_bytes;
	int error; /* of the answer */

	/* LSEEK: where the kernel has written back what it held */
	uint64_t washed_off, washed_bytes;

	uint64_t start_ns; /* when it arrived */
	void *buf;         /* the answer's data (READ): the area, or from buf_get() */
	size_t buf_bytes;
};

#endif
