/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * ops_invalidate: keeps the page cache coherent with direct writes, and with changes that are
 * made through another name of the same bytes.
 *
 * The kernel drops cached pages before it sends a direct write, but a reader may bring
 * the old data back before the write is done; and of other names it knows nothing. So the range
 * is dropped after the image was written and before the writer is answered. A read that began
 * earlier holds its pages locked, and dropping them waits for it: therefore a thread of
 * its own does this, never one that reads wait for.
 *
 * What waits here holds what that read may need on its way here: a place among the kernel's
 * background requests, an entry of the ring, a receive buffer; and a buffered write holds its own
 * pages locked, for which a direct write may wait. So they wait in queues of their own, and each
 * for WAITING_MAX changes only; those above are answered at once, and their ranges dropped a little
 * later, many together.
 *
 * Files that nobody has opened without O_DIRECT since the cache was last emptied
 * pay nothing.
 *
 * To drop changed pages is to have them written, which an LSEEK asks for. These writes come as
 * buffered ones: so it may wait where direct ones do.
 */
#include "fuse/ops_int.h"
#include "io/thread.h"

#include <errno.h>
#include <linux/fuse.h>

/* Of both queues together less than any of: background requests, entries, buffers. */
#define WAITING_MAX 8u
/* Whose invalidator is this one; the other changes have the first. */
#define DIRECT_WRITES 1

/* A range of a disk whose bytes are new. */
struct change {
	const struct node *node;  /* by which it was made; NULL: several */
	const struct node *right; /* the kernel keeps this file's pages right by itself; or NULL */
	uint64_t start, end;
	bool by_reader; /* a direct write by a handle that uses the page cache */
};

/*
 * The kernel drops the changed file's own pages before it sends a direct write; who reads meanwhile
 * brings them back. A loop device with direct I/O is often alone, and reads none by its handle.
 */
static struct change change_of(const struct request *request)
{
	const struct node *node = request->changed;
	bool direct = request_is_direct_write(request);
	bool by_reader = direct && !(request->fh & FH_DIRECT);
	uint64_t start = node->start_bytes + request->changed_off;

	return (struct change){
		.node = node,
		.right = !direct || (by_reader && !node->cache_was_read) ? node : NULL,
		.start = start,
		.end = start + request->changed_bytes,
		.by_reader = by_reader,
	};
}

static void reply_change(struct request *request)
{
	struct fuse_write_out out = {.size = (uint32_t)request->changed_bytes};

	if (request->error || request->op == REQUEST_FALLOCATE)
		request_reply_error(request, request->error);
	else
		request_reply_buf(request, &out, sizeof(out));
}

/* May the kernel hold pages of the file that are older? */
static bool is_stale(const struct change *change, const struct node *node)
{
	if (node == change->right || !node_shows(node, change->start, change->end - change->start))
		return false;
	/* What is mapped of this file itself the kernel drops before a direct write. */
	return node->maybe_cached || (node->nb_direct_opens > 0 && node != change->node);
}

/* The first such file from `node` on. */
static struct node *next_stale(const struct change *change, struct node *node)
{
	while (node && !is_stale(change, node))
		node = node->next_of_disk;
	return node;
}

static void invalidate(struct transport *transport, const struct change *change, struct node *node)
{
	uint64_t off = 0;

	if (change->start > node->start_bytes)
		off = change->start - node->start_bytes;
	if (node->maybe_cached && node->nb_cached_opens == 0) {
		/*
		 * The last reader through the cache is gone: empty it, and be done with it.
		 * An open counts itself first and then sets the flag, so that one of the two
		 * looks sees it.
		 */
		node->maybe_cached = false;
		if (node->nb_cached_opens > 0)
			node->maybe_cached = true;
		transport->invalidate(transport, node->ino, 0, 0);
	} else if (change->by_reader && node == change->node && node->nb_cached_opens == 1) {
		/* All others are gone. What is being read this instant is waited for. */
		node->cache_was_read = false;
		transport->invalidate(transport, node->ino, 0, 0);
	} else {
		transport->invalidate(transport, node->ino, off,
				      change->end - node->start_bytes - off);
	}
}

static void invalidate_all(struct transport *transport, const struct change *change,
			   const struct tree_disk *disk)
{
	struct node *node = disk->whole;

	while ((node = next_stale(change, node))) {
		invalidate(transport, change, node);
		node = node->next_of_disk;
	}
}

/* ---- answered before ---- */

static bool is_late(const struct tree_late *late)
{
	return late->end > late->start;
}

/* Under the mutex. */
static void note_late(struct invalidator *invalidator, const struct request *request)
{
	struct tree_late *late = &request->changed->disk->late[invalidator->index];
	struct change change = change_of(request);

	if (!is_late(late) || change.start < late->start)
		late->start = change.start;
	if (change.end > late->end)
		late->end = change.end;
	invalidator->late_transport = request->transport;
}

static void invalidate_late(struct invalidator *invalidator, struct transport *transport)
{
	for (struct tree_disk *disk = invalidator->tree->disks; disk; disk = disk->next) {
		struct tree_late late;

		pthread_mutex_lock(&invalidator->mutex);
		late = disk->late[invalidator->index];
		disk->late[invalidator->index] = (struct tree_late){0};
		pthread_mutex_unlock(&invalidator->mutex);
		if (is_late(&late))
			invalidate_all(transport,
				       &(struct change){.start = late.start, .end = late.end},
				       disk);
	}
}

/* ---- the thread ---- */

static void make_known(struct request *request)
{
	struct change change = change_of(request);

	invalidate_all(request->transport, &change, request->changed->disk);
	reply_change(request);
}

static void wash(struct request *request)
{
	struct transport *transport = request->transport;

	transport->invalidate(transport, request->ino, request->washed_off, request->washed_bytes);
	request_run(request, ops_run_lseek);
}

static void serve_waiting(struct invalidator *invalidator, struct request *request)
{
	while (request) {
		struct request *next = request->next;

		if (request->op == REQUEST_LSEEK)
			wash(request);
		else
			make_known(request);
		atomic_fetch_sub(&invalidator->nb_waiting, 1);
		request = next;
	}
}

static void *serve(void *arg)
{
	struct invalidator *invalidator = arg;

	pthread_mutex_lock(&invalidator->mutex);
	for (;;) {
		struct request *request = invalidator->head;
		struct transport *late_transport = invalidator->late_transport;

		if (request || late_transport) {
			invalidator->head = NULL;
			invalidator->tail = &invalidator->head;
			invalidator->late_transport = NULL;
			pthread_mutex_unlock(&invalidator->mutex);
			serve_waiting(invalidator, request);
			if (late_transport)
				invalidate_late(invalidator, late_transport);
			pthread_mutex_lock(&invalidator->mutex);
		} else if (invalidator->stopping) {
			break;
		} else {
			pthread_cond_wait(&invalidator->filled, &invalidator->mutex);
		}
	}
	pthread_mutex_unlock(&invalidator->mutex);
	return NULL;
}

/* Under the mutex. False: many wait already. */
static bool enqueue(struct invalidator *invalidator, struct request *request)
{
	if (invalidator->nb_waiting >= WAITING_MAX)
		return false;
	invalidator->nb_waiting++;
	request->next = NULL;
	*invalidator->tail = request;
	invalidator->tail = &request->next;
	return true;
}

void invalidator_reply(struct request *request, struct node *node, uint64_t off, uint64_t len_bytes,
		       int error)
{
	struct invalidator *invalidator =
		&request->ops->invalidators[request_is_direct_write(request) ? DIRECT_WRITES : 0];
	struct change change;
	bool waits;

	request->changed = node;
	request->changed_off = off;
	request->changed_bytes = len_bytes;
	request->error = error;
	change = change_of(request);
	if (!len_bytes || !next_stale(&change, node->disk->whole)) {
		reply_change(request);
		return;
	}
	pthread_mutex_lock(&invalidator->mutex);
	waits = enqueue(invalidator, request);
	if (!waits)
		note_late(invalidator, request);
	pthread_cond_signal(&invalidator->filled);
	pthread_mutex_unlock(&invalidator->mutex);
	if (!waits)
		reply_change(request);
}

bool invalidator_wash(struct request *request, uint64_t off, uint64_t len_bytes)
{
	struct invalidator *invalidator = &request->ops->invalidators[DIRECT_WRITES];
	bool waits;

	request->washed_off = off;
	request->washed_bytes = len_bytes;
	pthread_mutex_lock(&invalidator->mutex);
	waits = enqueue(invalidator, request);
	pthread_cond_signal(&invalidator->filled);
	pthread_mutex_unlock(&invalidator->mutex);
	return waits;
}

static int start(struct invalidator *invalidator)
{
	int res;

	pthread_mutex_init(&invalidator->mutex, NULL);
	pthread_cond_init(&invalidator->filled, NULL);
	invalidator->tail = &invalidator->head;
	res = thread_start(&invalidator->thread, "qf-invalidate", serve, invalidator);
	if (res < 0)
		return res;
	invalidator->started = true;
	return 0;
}

static void stop(struct invalidator *invalidator)
{
	if (!invalidator->started)
		return;
	pthread_mutex_lock(&invalidator->mutex);
	invalidator->stopping = true;
	pthread_cond_signal(&invalidator->filled);
	pthread_mutex_unlock(&invalidator->mutex);
	pthread_join(invalidator->thread, NULL);
	pthread_cond_destroy(&invalidator->filled);
	pthread_mutex_destroy(&invalidator->mutex);
	invalidator->started = false;
}

int invalidators_start(struct ops *ops)
{
	int res = 0;

	for (unsigned i = 0; i < NB_INVALIDATORS && res == 0; i++) {
		ops->invalidators[i].index = i;
		ops->invalidators[i].tree = ops->params.tree;
		res = start(&ops->invalidators[i]);
	}
	return res;
}

void invalidators_stop(struct ops *ops)
{
	for (unsigned i = 0; i < NB_INVALIDATORS; i++)
		stop(&ops->invalidators[i]);
}
