/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * ops_int: what the files ops*.c share.
 */
#ifndef QCOW2FS_FUSE_OPS_INT_H
#define QCOW2FS_FUSE_OPS_INT_H

#include "fuse/log.h"
#include "fuse/ops.h"
#include "fuse/view.h"

#include <pthread.h>

/* What an open file's handle says; the inode comes with every request. */
#define FH_WRITABLE 1u
#define FH_DIRECT 2u

/*
 * Memory for reads under way: of all files, and of one. Others wait, except that every
 * file may have one read whatever the others hold: a stalled disk stops nobody else.
 */
#define READ_BYTES_MAX (16u << 20)
#define READ_BYTES_MAX_PER_FILE (8u << 20)

/* Changes that wait for the page cache to be emptied; see ops_invalidate.c. */
struct invalidator {
	pthread_t thread;
	pthread_mutex_t mutex;
	pthread_cond_t filled;
	struct request *head, **tail;
	_Atomic unsigned nb_waiting;
	struct transport *late_transport; /* NULL: nothing is late */
	unsigned index;
	const struct tree *tree;
	bool started, stopping;
};

struct ops {
	struct ops_params params;
	struct request *free_requests; /* under pool_mutex */
	pthread_mutex_t pool_mutex;
	_Atomic unsigned nb_active;
	_Atomic bool closing;
	_Atomic unsigned nb_opens;
	_Atomic uint64_t last_request_ns;
	const char *zeros;                                /* zeros_map() */
	struct invalidator invalidators[NB_INVALIDATORS]; /* the second one is for direct writes */
	struct worker_pool *askers; /* ask the host's file system, which may take its time */
	struct log_limit error_limit;
	/* the reactor's: */
	size_t read_bytes; /* held by reads and copies under way */
	struct co_queue read_waiters;
	/* ops_quiet.c: */
	_Atomic bool quiet_armed;
	struct transport *quiet_transport;
	struct task quiet_task;
	struct timer quiet_timer;
};

/* Sends the answer (error 0 or -errno) and gives the request back. */
void request_reply(struct request *request, int error, const struct iovec *iov, int nb_iov);
static inline void request_reply_error(struct request *request, int error)
{
	request_reply(request, error, NULL, 0);
}
void request_reply_buf(struct request *request, const void *buf, size_t len_bytes);

/* Makes request->buf hold len_bytes for the answer. 0 or -ENOMEM. */
int request_alloc(struct request *request, size_t len_bytes);
/* Gives it back before the answer. */
void request_free(struct request *request);

/*
 * The kernel writes cached pages back by any handle, a direct one, too. And a loop device with
 * direct I/O, or who sets O_DIRECT later, writes directly by a handle that is none.
 */
static inline bool request_is_direct_write(const struct request *request)
{
	return request->op == REQUEST_WRITE && !request->from_cache &&
	       (request->fh & FH_DIRECT || request->past_cache);
}

/* Hands the request to a coroutine of the reactor. */
void request_run(struct request *request, void (*fn)(void *arg));

/* Answers GETATTR and SETATTR with the node's attributes; may wait for the host's file system. */
void reply_attr(struct request *request);
/* The same from a helper: for the reactor, which waits for nobody. */
void reply_attr_from_asker(struct request *request);
/* Answers OPEN; the file can be opened as asked. */
void reply_open(struct request *request);

/* The image of a file that is open. [reactor] */
static inline struct image *node_image(const struct node *node)
{
	const struct tree_disk *disk = node->disk;

	return disk->view ? view_image(disk->view) : disk->image;
}

/* ops_quiet.c: looks out for the end of this burst. [any thread] */
void quiet_arm(struct ops *ops, struct transport *transport);
/* Nothing is looked out for any more, nor will be. [reactor, closing] */
void quiet_stop(struct ops *ops);

void handle_getxattr(struct request *request);
void handle_listxattr(struct request *request);

/*
 * Reads where no more is needed than the published place of a cluster, and answers, on the reactor
 * at the end of the round. False: more is needed, and nothing has happened. [any thread]
 */
bool ops_read_at_once(struct request *request);

/* The coroutines, one for each operation; they end with the reply. */
void coroutine_fn ops_run_read(void *arg);
void coroutine_fn ops_run_write(void *arg);
void coroutine_fn ops_run_flush(void *arg);
void coroutine_fn ops_run_flush_all(void *arg);
void coroutine_fn ops_run_lseek(void *arg);
void coroutine_fn ops_run_fallocate(void *arg);
void coroutine_fn ops_run_truncate(void *arg);
void coroutine_fn ops_run_copy(void *arg);
void coroutine_fn ops_run_open_busy(void *arg);
void coroutine_fn ops_run_open_view(void *arg);
void coroutine_fn ops_run_release_view(void *arg);

int invalidators_start(struct ops *ops);
void invalidators_stop(struct ops *ops);
/*
 * Answers a request that changed [off, off + len_bytes) of `node` (len_bytes 0: nothing) after the
 * range has been dropped from the page cache, at once when nothing can be there or when many wait
 * already.
 */
void invalidator_reply(struct request *request, struct node *node, uint64_t off, uint64_t len_bytes,
		       int error);
/*
 * Lets the kernel write back what it holds of the range of an LSEEK's file, notes that as washed,
 * and runs the request again. False: many wait already.
 */
bool invalidator_wash(struct request *request, uint64_t off, uint64_t len_bytes);

#endif
