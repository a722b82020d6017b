/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * cache: slices of L1 tables, L2 tables, the refcount table and refcount blocks.
 *
 * A slice is an aligned piece of a metadata table (4 KiB, or the cluster where that
 * is smaller), found by its host offset. A second miss waits for the first; misses
 * of different slices load in parallel. Slices are recycled in LRU order; pinned,
 * loading and dirty ones are not. When only dirty ones are left, make_clean() (the
 * flush) is called; when all are pinned, the caller waits.
 *
 * A pin is taken by cache_get() and must be short: no I/O and no other cache_get()
 * on the same cache while it is held, so that waiting for a pin always ends.
 *
 * Memory comes in chunks of slices as they are needed; cache_trim() gives back what
 * is clean.
 */
#ifndef QCOW2FS_CORE_CACHE_H
#define QCOW2FS_CORE_CACHE_H

#include "io/co_sync.h"
#include "io/file.h"

#define SLICE_BYTES 4096u

struct slice {
	uint64_t host_off;
	uint8_t *data;
	enum io_tag tag;
	bool loading; /* being read; data is not valid yet */
	bool dirty;   /* differs from the file; on the dirty list of its tag */
	bool storing; /* a copy is being written; not to be re-read from the file yet */
	int pins;
	struct slice *hash_next;
	struct slice *lru_prev, *lru_next;     /* while unpinned or pinned: always */
	struct slice *dirty_prev, *dirty_next; /* while dirty */
	struct chunk *chunk;
};

struct cache {
	struct file *file;
	uint32_t slice_bytes;
	unsigned nb_slices_max;
	unsigned nb_slices; /* that have memory */
	unsigned hash_mask;
	struct slice **hash;
	struct slice lru; /* ring: lru_next is the oldest */
	struct slice *free;
	struct chunk *chunks;
	struct slice *dirty[IO_TAG_COUNT]; /* newest first */
	unsigned nb_dirty;
	struct co_queue load_waiters;  /* for any slice to be loaded */
	struct co_queue evict_waiters; /* for any pin to be dropped */
	int coroutine_fn (*make_clean)(void *ctx);
	void *make_clean_ctx;
	uint64_t hits, misses;
};

/* capacity_bytes is raised to a few slices. Returns 0 or -ENOMEM. */
int cache_init(struct cache *cache, struct file *file, uint32_t slice_bytes,
	       uint64_t capacity_bytes);
/* No slice may be pinned; dirty ones are lost. A cache of zero bytes is allowed. */
void cache_finish(struct cache *cache);

/*
 * The slice at host_off (a multiple of slice_bytes), loaded and pinned. Does not yield
 * when it is cached. 0 or -errno.
 */
int coroutine_fn cache_get(struct cache *cache, uint64_t host_off, enum io_tag tag,
			   struct slice **ret_slice);
/*
 * The same; where a read costs more than the bytes that it brings (not on tmpfs), a miss
 * reads the slices next to it within [start, end), too, which belong to tables of this
 * kind: up to 32 KiB at once, and only into memory that holds nothing yet.
 */
struct cache_near {
	uint64_t start, end;
};
int coroutine_fn cache_get_near(struct cache *cache, uint64_t host_off, enum io_tag tag,
				const struct cache_near *near, struct slice **ret_slice);
/* The slice at host_off, pinned, if it is there: NULL otherwise. Never yields. */
struct slice *cache_get_loaded(struct cache *cache, uint64_t host_off);
void cache_put(struct cache *cache, struct slice *slice);
void cache_mark_dirty(struct cache *cache, struct slice *slice);
void cache_mark_clean(struct cache *cache, struct slice *slice);
/* The flush took a copy of a dirty slice: clean from now on, kept until it is stored. */
void cache_begin_store(struct cache *cache, struct slice *slice);
void cache_end_store(struct cache *cache, struct slice *slice);
/* Drops all slices of [host_off, host_off + len_bytes), dirty or not; none may be pinned or
 * loading. */
void cache_forget(struct cache *cache, uint64_t host_off, uint64_t len_bytes);
/* Gives memory back that holds clean, unpinned slices only. A cache of zero bytes is allowed. */
void cache_trim(struct cache *cache);

#endif
