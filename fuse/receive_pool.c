/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * receive_pool: see receive_pool.h.
 */
#include "fuse/receive_pool.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#define PAGE_BYTES 4096u
/* From one buffer to the next: the headers end where the first page does. */
#define AREA_BYTES (PAGE_BYTES + RECEIVE_WRITE_BYTES_MAX + PAGE_BYTES)

static_assert(RECEIVE_WRITE_HEADER_BYTES == 80, "a WRITE's payload follows 80 bytes of headers");

int receive_pool_init(struct receive_pool *pool, unsigned nb_bufs)
{
	pthread_mutex_init(&pool->mutex, NULL);
	pthread_cond_init(&pool->filled, NULL);
	pool->bufs = calloc(nb_bufs, sizeof(*pool->bufs));
	if (!pool->bufs)
		return -ENOMEM;
	pool->area_bytes = (size_t)nb_bufs * AREA_BYTES;
	pool->area = mmap(NULL, pool->area_bytes, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (pool->area == MAP_FAILED) {
		pool->area = NULL;
		return -errno;
	}
	for (unsigned i = 0; i < nb_bufs; i++) {
		struct receive_buf *buf = &pool->bufs[i];

		buf->message = pool->area + (size_t)i * AREA_BYTES + PAGE_BYTES -
			       RECEIVE_WRITE_HEADER_BYTES;
		buf->next = pool->free_bufs;
		pool->free_bufs = buf;
	}
	return 0;
}

void receive_pool_finish(struct receive_pool *pool)
{
	if (pool->area)
		munmap(pool->area, pool->area_bytes);
	free(pool->bufs);
	pthread_cond_destroy(&pool->filled);
	pthread_mutex_destroy(&pool->mutex);
}

struct receive_buf *receive_pool_get(struct receive_pool *pool)
{
	struct receive_buf *buf;

	pthread_mutex_lock(&pool->mutex);
	while (!pool->free_bufs)
		pthread_cond_wait(&pool->filled, &pool->mutex);
	buf = pool->free_bufs;
	pool->free_bufs = buf->next;
	pthread_mutex_unlock(&pool->mutex);
	return buf;
}

void receive_pool_put(struct receive_pool *pool, struct receive_buf *buf)
{
	pthread_mutex_lock(&pool->mutex);
	buf->next = pool->free_bufs;
	pool->free_bufs = buf;
	pthread_cond_signal(&pool->filled);
	pthread_mutex_unlock(&pool->mutex);
}

void receive_buf_give_back(const struct receive_buf *buf)
{
	char *first = (char *)buf->message + RECEIVE_WRITE_HEADER_BYTES - PAGE_BYTES;

	madvise(first, AREA_BYTES, MADV_DONTNEED);
}

void receive_pool_give_back(struct receive_pool *pool)
{
	pthread_mutex_lock(&pool->mutex);
	for (const struct receive_buf *buf = pool->free_bufs; buf; buf = buf->next)
		receive_buf_give_back(buf);
	pthread_mutex_unlock(&pool->mutex);
}
