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
 * Files that nobody has opened without O_DIRECT since the cache was last emptied
 * pay nothing.
 */
#include "fuse/ops_int.h"

#include <errno.h>
#include <linux/fuse.h>

static void reply_change(struct request *request)
{
	struct fuse_write_out out = {.size = (uint32_t)request->changed_bytes};

	if (request->error || request->op == REQUEST_FALLOCATE)
		request_reply_error(request, request->error);
	else
		request_reply_buf(request, &out, sizeof(out));
}

/* May the kernel hold pages of `node` that are older than what was changed? */
static bool may_be_stale(const struct request *request, const struct node *node)
{
	const struct node *changed = request->changed;

	if (!node->maybe_cached)
		return false;
	/* Of the file itself, the kernel updates or drops the pages in all other cases. */
	if (node == changed)
		return request->op == REQUEST_WRITE && request->fh & FH_DIRECT;
	return node_shows(node, changed->start_bytes + request->changed_off,
			  request->changed_bytes);
}

static struct node *next_stale(const struct request *request, struct node *node)
{
	while (node && !may_be_stale(request, node))
		node = node->next_of_disk;
	return node;
}

static void invalidate(struct request *request, struct node *node)
{
	struct transport *transport = request->transport;
	uint64_t disk_off = request->changed->start_bytes + request->changed_off;
	uint64_t end = disk_off + request->changed_bytes - node->start_bytes, off = 0;

	if (disk_off > node->start_bytes)
		off = disk_off - node->start_bytes;
	if (node->nb_cached_opens == 0) {
		/*
		 * The last reader through the cache is gone: empty it, and be done with it.
		 * An open counts itself first and then sets the flag, so that one of the two
		 * looks sees it.
		 */
		node->maybe_cached = false;
		if (node->nb_cached_opens > 0)
			node->maybe_cached = true;
		transport->invalidate(transport, node->ino, 0, 0);
	} else {
		transport->invalidate(transport, node->ino, off, end - off);
	}
}

static void invalidate_all(struct request *request)
{
	struct node *node = request->changed->disk->whole;

	while ((node = next_stale(request, node))) {
		invalidate(request, node);
		node = node->next_of_disk;
	}
}

static void *serve(void *arg)
{
	struct invalidator *invalidator = arg;

	pthread_mutex_lock(&invalidator->mutex);
	for (;;) {
		struct request *request = invalidator->head;

		if (request) {
			invalidator->head = NULL;
			invalidator->tail = &invalidator->head;
			pthread_mutex_unlock(&invalidator->mutex);
			while (request) {
				struct request *next = request->next;

				invalidate_all(request);
				reply_change(request);
				request = next;
			}
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

void invalidator_reply(struct invalidator *invalidator, struct request *request, struct node *node,
		       uint64_t off, uint64_t len_bytes, int error)
{
	request->changed = node;
	request->changed_off = off;
	request->changed_bytes = len_bytes;
	request->error = error;
	if (!len_bytes || !next_stale(request, node->disk->whole)) {
		reply_change(request);
		return;
	}
	request->next = NULL;
	pthread_mutex_lock(&invalidator->mutex);
	*invalidator->tail = request;
	invalidator->tail = &request->next;
	pthread_cond_signal(&invalidator->filled);
	pthread_mutex_unlock(&invalidator->mutex);
}

int invalidator_start(struct invalidator *invalidator)
{
	int res;

	pthread_mutex_init(&invalidator->mutex, NULL);
	pthread_cond_init(&invalidator->filled, NULL);
	invalidator->tail = &invalidator->head;
	res = pthread_create(&invalidator->thread, NULL, serve, invalidator);
	if (res)
		return -res;
	invalidator->started = true;
	pthread_setname_np(invalidator->thread, "qf-invalidate");
	return 0;
}

void invalidator_stop(struct invalidator *invalidator)
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
