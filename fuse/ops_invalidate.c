/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * ops_invalidate: keeps the page cache coherent with direct writes.
 *
 * The kernel drops cached pages before it sends a direct write, but a reader may bring
 * the old data back before the write is done. So the range is dropped once more,
 * after the image was written and before the writer is answered. A read that began
 * earlier holds its pages locked, and dropping them waits for it: therefore a thread of
 * its own does this, never one that reads wait for.
 *
 * Files that nobody has opened without O_DIRECT since the cache was last emptied
 * pay nothing.
 */
#include "fuse/ops_int.h"

#include <errno.h>
#include <linux/fuse.h>

static void reply_write(struct request *request)
{
	struct fuse_write_out out = {.size = (uint32_t)request->len_bytes};

	request_reply_buf(request, &out, sizeof(out));
}

static void invalidate(struct request *request)
{
	struct transport *transport = request->transport;
	struct node *node = request->node;

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
		transport->invalidate(transport, node->ino, request->offset, request->len_bytes);
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

				if (request->node->maybe_cached)
					invalidate(request);
				reply_write(request);
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

void invalidator_reply_write(struct invalidator *invalidator, struct request *request,
			     uint32_t done_bytes)
{
	request->len_bytes = done_bytes;
	if (!request->node->maybe_cached) {
		reply_write(request);
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
