/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * buf: size classes of page-aligned memory, each with a stack of free buffers.
 *
 * A free buffer's first word links it to the next one. Small buffers come from
 * malloc, large ones are mappings of their own, so that memory which is not kept
 * really returns to the system instead of waiting in an arena.
 *
 * At most KEEP_BYTES are kept over all classes: enough for sixteen requests of
 * 1 MiB in flight without a mapping and its page faults per request.
 *
 * Threads: one lock per class; the sum of what is kept is atomic and may be
 * off by what other threads are giving back this instant, which only means
 * that a buffer is freed that could have been kept.
 */
#include "io/buf.h"

#include "io/sanitizer.h" /* ASan sees a use after buf_put() */

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>

#define NB_CLASSES 11 /* 4 KiB << 0 .. 4 KiB << 10 */
#define MMAP_BYTES (128u << 10)
#define KEEP_BYTES (16u << 20)

_Static_assert((size_t)BUF_ALIGN << (NB_CLASSES - 1) == BUF_MAX_BYTES,
	       "classes end at the maximum");

struct free_buf {
	struct free_buf *next;
};

static struct size_class {
	pthread_mutex_t lock;
	struct free_buf *free;
} classes[NB_CLASSES] = {[0 ... NB_CLASSES - 1] = {.lock = PTHREAD_MUTEX_INITIALIZER}};

static atomic_size_t kept_bytes;
static atomic_ulong fail_countdown;

static unsigned class_of(size_t len_bytes)
{
	assert(len_bytes > 0 && len_bytes <= BUF_MAX_BYTES);
	size_t pages = (len_bytes - 1) / BUF_ALIGN;
	return pages ? 8 * sizeof(long) - (unsigned)__builtin_clzl(pages) : 0;
}

static size_t class_bytes(unsigned class)
{
	return (size_t)BUF_ALIGN << class;
}

static void *system_alloc(size_t bytes)
{
	if (bytes < MMAP_BYTES)
		return aligned_alloc(BUF_ALIGN, bytes);
	void *buf = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return buf == MAP_FAILED ? NULL : buf;
}

static void system_free(void *buf, size_t bytes)
{
	if (bytes < MMAP_BYTES)
		free(buf);
	else
		munmap(buf, bytes);
}

/* Under the lock. */
static void *take_free(struct size_class *class, size_t bytes)
{
	struct free_buf *buf = class->free;
	if (!buf)
		return NULL;
	ASAN_UNPOISON_MEMORY_REGION(buf, bytes);
	class->free = buf->next;
	atomic_fetch_sub_explicit(&kept_bytes, bytes, memory_order_relaxed);
	return buf;
}

void buf_fail_nth(unsigned long n)
{
	atomic_store(&fail_countdown, n);
}

static bool must_fail(void)
{
	unsigned long n = atomic_load_explicit(&fail_countdown, memory_order_relaxed);
	while (n > 0) {
		if (atomic_compare_exchange_weak(&fail_countdown, &n, n - 1))
			return n == 1;
	}
	return false;
}

void *buf_get(size_t len_bytes)
{
	unsigned index = class_of(len_bytes);
	struct size_class *class = &classes[index];
	if (must_fail())
		return NULL;
	pthread_mutex_lock(&class->lock);
	void *buf = take_free(class, class_bytes(index));
	pthread_mutex_unlock(&class->lock);
	return buf ? buf : system_alloc(class_bytes(index));
}

void buf_put(void *buf, size_t len_bytes)
{
	if (!buf)
		return;
	unsigned index = class_of(len_bytes);
	struct size_class *class = &classes[index];
	size_t bytes = class_bytes(index);

	if (atomic_fetch_add_explicit(&kept_bytes, bytes, memory_order_relaxed) + bytes >
	    KEEP_BYTES) {
		atomic_fetch_sub_explicit(&kept_bytes, bytes, memory_order_relaxed);
		system_free(buf, bytes);
		return;
	}
	struct free_buf *kept = buf;
	pthread_mutex_lock(&class->lock);
	kept->next = class->free;
	class->free = kept;
	ASAN_POISON_MEMORY_REGION(kept, bytes);
	pthread_mutex_unlock(&class->lock);
}

void buf_trim(void)
{
	for (unsigned index = 0; index < NB_CLASSES; index++) {
		struct size_class *class = &classes[index];
		for (;;) {
			pthread_mutex_lock(&class->lock);
			void *buf = take_free(class, class_bytes(index));
			pthread_mutex_unlock(&class->lock);
			if (!buf)
				break;
			system_free(buf, class_bytes(index));
		}
	}
}
