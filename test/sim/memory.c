/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* memory: wrapped allocation functions. See memory.h. */
#include "test/sim/memory.h"

#include "io/buf.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* The linker provides them where it wraps; weak, because not every program does. */
#define REAL __attribute__((weak))
void *REAL __real_malloc(size_t size);
void *REAL __real_calloc(size_t nb, size_t size);
void *REAL __real_realloc(void *old, size_t size);
void *REAL __real_aligned_alloc(size_t align, size_t size);
int REAL __real_posix_memalign(void **ret, size_t align, size_t size);
char *REAL __real_strdup(const char *text);
void REAL __real_buf_put(void *buf, size_t len_bytes);

void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t nb, size_t size);
void *__wrap_realloc(void *old, size_t size);
void *__wrap_aligned_alloc(size_t align, size_t size);
int __wrap_posix_memalign(void **ret, size_t align, size_t size);
char *__wrap_strdup(const char *text);
void __wrap_buf_put(void *buf, size_t len_bytes);

static struct {
	bool armed;
	unsigned paused;
	uint64_t nb, at;
	unsigned count, nb_failed;
	void (*on_allocation)(void *ctx, bool failed);
	void *ctx;
} memory;

void memory_arm(uint64_t at, unsigned count, void (*on_allocation)(void *ctx, bool failed),
		void *ctx)
{
	memory.armed = true;
	memory.paused = 0;
	memory.nb = 0;
	memory.nb_failed = 0;
	memory.at = at;
	memory.count = count;
	memory.on_allocation = on_allocation;
	memory.ctx = ctx;
}

uint64_t memory_disarm(void)
{
	memory.armed = false;
	return memory.nb;
}

unsigned memory_nb_failed(void)
{
	return memory.nb_failed;
}

void memory_pause(void)
{
	memory.paused++;
}

void memory_resume(void)
{
	memory.paused--;
}

static bool fails(void)
{
	uint64_t index;
	bool failed;

	if (!memory.armed || memory.paused)
		return false;
	index = memory.nb++;
	failed = memory.count && index >= memory.at &&
		 (memory.count == UINT_MAX || index - memory.at < memory.count);
	memory.nb_failed += failed;
	if (memory.on_allocation) {
		memory.paused++;
		memory.on_allocation(memory.ctx, failed);
		memory.paused--;
	}
	if (failed)
		errno = ENOMEM;
	return failed;
}

void *__wrap_malloc(size_t size)
{
	return fails() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t nb, size_t size)
{
	return fails() ? NULL : __real_calloc(nb, size);
}

void *__wrap_realloc(void *old, size_t size)
{
	return fails() ? NULL : __real_realloc(old, size);
}

void *__wrap_aligned_alloc(size_t align, size_t size)
{
	return fails() ? NULL : __real_aligned_alloc(align, size);
}

int __wrap_posix_memalign(void **ret, size_t align, size_t size)
{
	return fails() ? ENOMEM : __real_posix_memalign(ret, align, size);
}

char *__wrap_strdup(const char *text)
{
	return fails() ? NULL : __real_strdup(text);
}

/*
 * No buffer is kept for the next one: who asks for one asks for memory, in each run, so that
 * all of them fail in their turn.
 */
void __wrap_buf_put(void *buf, size_t len_bytes)
{
	__real_buf_put(buf, len_bytes);
	if (memory.armed)
		buf_trim();
}
