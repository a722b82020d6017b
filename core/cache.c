/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * cache: hash table, LRU ring and memory of metadata slices (see cache.h).
 *
 * Everything runs in coroutines of one reactor. The only place that yields is
 * cache_get(): for a load, for a flush that makes slices clean, or for a pin.
 */
#include "core/cache.h"

#include "io/buf.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SLICES_PER_CHUNK 16u
#define SLICES_MIN 1u
#define NEAR_SLICES_MAX 8u /* read at once: 32 KiB, which memory still copies inline */

/* Memory for SLICES_PER_CHUNK slices at once. */
struct chunk {
	struct chunk *next;
	uint8_t *data;
	unsigned nb_slices;
	bool in_use; /* scratch of cache_trim() */
	struct slice slices[SLICES_PER_CHUNK];
};

static size_t chunk_bytes(const struct cache *cache)
{
	return (size_t)cache->slice_bytes * SLICES_PER_CHUNK;
}

static struct slice **bucket(const struct cache *cache, uint64_t host_off)
{
	uint64_t key = host_off / cache->slice_bytes;

	return &cache->hash[(key ^ key >> 17) & cache->hash_mask];
}

static struct slice *find(const struct cache *cache, uint64_t host_off)
{
	struct slice *slice = *bucket(cache, host_off);

	while (slice && slice->host_off != host_off)
		slice = slice->hash_next;
	return slice;
}

static void lru_remove(struct slice *slice)
{
	slice->lru_prev->lru_next = slice->lru_next;
	slice->lru_next->lru_prev = slice->lru_prev;
	slice->lru_next = NULL;
}

static void lru_append(struct cache *cache, struct slice *slice)
{
	slice->lru_prev = cache->lru.lru_prev;
	slice->lru_next = &cache->lru;
	slice->lru_prev->lru_next = slice;
	slice->lru_next->lru_prev = slice;
}

/* Takes a slice out of the hash and the LRU ring and puts it on the free list. */
static void discard_slice(struct cache *cache, struct slice *slice)
{
	struct slice **link = bucket(cache, slice->host_off);

	assert(!slice->pins && !slice->loading && !slice->storing);
	cache_mark_clean(cache, slice);
	while (*link != slice)
		link = &(*link)->hash_next;
	*link = slice->hash_next;
	lru_remove(slice);
	slice->hash_next = cache->free;
	cache->free = slice;
}

int cache_init(struct cache *cache, struct file *file, uint32_t slice_bytes,
	       uint64_t capacity_bytes)
{
	uint64_t nb_slices = capacity_bytes / slice_bytes;
	unsigned nb_buckets = 16;

	memset(cache, 0, sizeof(*cache));
	cache->file = file;
	cache->slice_bytes = slice_bytes;
	cache->nb_slices_max = nb_slices < SLICES_MIN ? SLICES_MIN
			       : nb_slices > 1u << 20 ? 1u << 20
						      : (unsigned)nb_slices;
	while (nb_buckets < cache->nb_slices_max)
		nb_buckets *= 2;
	cache->hash_mask = nb_buckets - 1;
	cache->hash = calloc(nb_buckets, sizeof(*cache->hash));
	if (!cache->hash)
		return -ENOMEM;
	cache->lru.lru_prev = cache->lru.lru_next = &cache->lru;
	return 0;
}

void cache_finish(struct cache *cache)
{
	struct chunk *next;

	for (struct chunk *chunk = cache->chunks; chunk; chunk = next) {
		next = chunk->next;
		buf_put(chunk->data, chunk_bytes(cache));
		free(chunk);
	}
	free(cache->hash);
	memset(cache, 0, sizeof(*cache));
}

static int grow(struct cache *cache)
{
	struct chunk *chunk = calloc(1, sizeof(*chunk));

	if (!chunk)
		return -ENOMEM;
	chunk->data = buf_get(chunk_bytes(cache));
	if (!chunk->data) {
		free(chunk);
		return -ENOMEM;
	}
	for (unsigned i = 0; i < SLICES_PER_CHUNK && cache->nb_slices < cache->nb_slices_max; i++) {
		struct slice *slice = &chunk->slices[i];

		slice->data = chunk->data + (size_t)i * cache->slice_bytes;
		slice->chunk = chunk;
		slice->hash_next = cache->free;
		cache->free = slice;
		cache->nb_slices++;
		chunk->nb_slices++;
	}
	chunk->next = cache->chunks;
	cache->chunks = chunk;
	return 0;
}

static bool may_go(const struct slice *slice)
{
	/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): a closed ring */
	return !slice->pins && !slice->loading && !slice->dirty && !slice->storing;
}

/* The least recently used slice that may go, NULL when there is none. */
static struct slice *oldest_clean(struct cache *cache)
{
	struct slice *slice = cache->lru.lru_next;

	while (slice != &cache->lru && !may_go(slice))
		slice = slice->lru_next;
	return slice != &cache->lru ? slice : NULL;
}

/*
 * Takes a slice without contents from the free list, making room as needed. May
 * yield (*ret_yielded says so), after which the caller looks its offset up again.
 */
static int coroutine_fn take_free(struct cache *cache, bool *ret_yielded)
{
	struct slice *slice;
	int ret;

	while (!cache->free) {
		if (cache->nb_slices < cache->nb_slices_max) {
			ret = grow(cache);
			if (!ret || !cache->nb_slices)
				return ret;
			/* Short of memory: make do with the slices that there are. */
		}
		slice = oldest_clean(cache);
		if (slice) {
			discard_slice(cache, slice);
			return 0;
		}
		*ret_yielded = true;
		if (cache->nb_dirty) {
			ret = cache->make_clean(cache->make_clean_ctx);
			if (ret)
				return ret;
		} else {
			co_queue_wait(&cache->evict_waiters);
		}
	}
	return 0;
}

static void insert(struct cache *cache, struct slice *slice, uint64_t host_off, enum io_tag tag)
{
	struct slice **head = bucket(cache, host_off);

	slice->host_off = host_off;
	slice->tag = tag;
	slice->pins = 1;
	slice->hash_next = *head;
	*head = slice;
	lru_append(cache, slice);
}

/* Pins a slice and makes it the one used last. */
static void pin(struct cache *cache, struct slice *slice)
{
	slice->pins++;
	lru_remove(slice);
	lru_append(cache, slice);
}

/* The pinned slice at host_off; *ret_fresh says that it has no contents yet. */
static int coroutine_fn find_or_insert(struct cache *cache, uint64_t host_off, enum io_tag tag,
				       struct slice **ret_slice, bool *ret_fresh)
{
	*ret_fresh = false;
	for (;;) {
		struct slice *slice = find(cache, host_off);
		bool yielded = false;
		int ret;

		if (slice) {
			pin(cache, slice);
			*ret_slice = slice;
			return 0;
		}
		ret = take_free(cache, &yielded);
		if (ret)
			return ret;
		if (yielded)
			continue;
		slice = cache->free;
		cache->free = slice->hash_next;
		insert(cache, slice, host_off, tag);
		*ret_slice = slice;
		*ret_fresh = true;
		return 0;
	}
}

struct slice *cache_get_loaded(struct cache *cache, uint64_t host_off)
{
	struct slice *slice = find(cache, host_off);

	if (!slice || slice->loading)
		return NULL;
	cache->hits++;
	pin(cache, slice);
	return slice;
}

/* Slices that one read loads, next to one another: the one asked for is slices[wanted]. */
struct load {
	struct slice *slices[NEAR_SLICES_MAX];
	unsigned first, nb, wanted;
};

/* A slice to be loaded along with another one, if that takes memory from nobody. */
static struct slice *insert_near(struct cache *cache, uint64_t host_off, enum io_tag tag)
{
	struct slice *slice = NULL;

	if (find(cache, host_off))
		return NULL;
	if (!cache->free && cache->nb_slices < cache->nb_slices_max)
		grow(cache);
	if (cache->free) {
		slice = cache->free;
		cache->free = slice->hash_next;
		insert(cache, slice, host_off, tag);
		slice->pins = 0;
		slice->loading = true;
	}
	return slice;
}

/* What to read for the miss of `slice`: it and its neighbours within near. */
static void plan_load(struct cache *cache, struct slice *slice, const struct cache_near *near,
		      struct load *load)
{
	uint64_t bytes = cache->slice_bytes, group = bytes * NEAR_SLICES_MAX;
	uint64_t base = slice->host_off & ~(group - 1);

	load->wanted = load->first = (slice->host_off - base) / bytes;
	load->slices[load->wanted] = slice;
	load->nb = 1;
	if (cache->file->path == FILE_MEMORY)
		return; /* there one read more costs less than memory for what is not needed */
	while (load->first && base + (load->first - 1) * bytes >= near->start) {
		struct slice *before =
			insert_near(cache, base + (load->first - 1) * bytes, slice->tag);

		if (!before)
			break;
		load->slices[--load->first] = before;
	}
	load->nb = load->wanted + 1 - load->first;
	while (load->first + load->nb < NEAR_SLICES_MAX &&
	       base + (load->first + load->nb + 1) * bytes <= near->end) {
		unsigned next = load->first + load->nb;

		load->slices[next] = insert_near(cache, base + next * bytes, slice->tag);
		if (!load->slices[next])
			break;
		load->nb++;
	}
}

static int coroutine_fn read_load(struct cache *cache, const struct load *load)
{
	struct slice *const *slices = &load->slices[load->first];
	struct iovec iov[NEAR_SLICES_MAX];
	struct file_io io;

	for (unsigned i = 0; i < load->nb; i++)
		iov[i] = (struct iovec){slices[i]->data, cache->slice_bytes};
	file_io_start(&io, cache->file, IO_READ, slices[0]->host_off, iov, (int)load->nb,
		      slices[0]->tag);
	return file_io_finish(&io);
}

/* Reads a slice and its neighbours. What is wrong with a neighbour harms that one alone. */
static int coroutine_fn load_slice(struct cache *cache, struct slice *slice,
				   const struct cache_near *near)
{
	struct load load;
	int ret;

	plan_load(cache, slice, near, &load);
	ret = read_load(cache, &load);
	for (unsigned i = load.first; i < load.first + load.nb; i++) {
		if (i == load.wanted)
			continue;
		load.slices[i]->loading = false;
		if (ret)
			discard_slice(cache, load.slices[i]);
	}
	if (ret && load.nb > 1)
		ret = file_read(cache->file, slice->host_off, slice->data, cache->slice_bytes,
				slice->tag);
	return ret;
}

int coroutine_fn cache_get(struct cache *cache, uint64_t host_off, enum io_tag tag,
			   struct slice **ret_slice)
{
	struct cache_near alone = {.start = host_off, .end = host_off + cache->slice_bytes};

	return cache_get_near(cache, host_off, tag, &alone, ret_slice);
}

int coroutine_fn cache_get_near(struct cache *cache, uint64_t host_off, enum io_tag tag,
				const struct cache_near *near, struct slice **ret_slice)
{
	struct slice *slice;
	bool fresh;
	int ret;

	assert(host_off % cache->slice_bytes == 0);
	for (;;) {
		ret = find_or_insert(cache, host_off, tag, &slice, &fresh);
		if (ret)
			return ret;
		if (fresh)
			break;
		if (!slice->loading) {
			cache->hits++;
			*ret_slice = slice;
			return 0;
		}
		/* Somebody else reads it. When that fails, the slice is gone: look again. */
		cache_put(cache, slice);
		co_queue_wait(&cache->load_waiters);
	}

	cache->misses++;
	slice->loading = true;
	ret = load_slice(cache, slice, near);
	slice->loading = false;
	co_queue_wake_all(&cache->load_waiters);
	if (ret) {
		slice->pins--;
		if (!slice->pins)
			discard_slice(cache, slice);
		co_queue_wake_all(&cache->evict_waiters);
		return ret;
	}
	*ret_slice = slice;
	return 0;
}

void cache_put(struct cache *cache, struct slice *slice)
{
	assert(slice->pins > 0);
	if (!--slice->pins && !co_queue_empty(&cache->evict_waiters))
		co_queue_wake_all(&cache->evict_waiters);
}

void cache_mark_dirty(struct cache *cache, struct slice *slice)
{
	struct slice **head = &cache->dirty[slice->tag];

	if (slice->dirty)
		return;
	slice->dirty = true;
	slice->dirty_prev = NULL;
	slice->dirty_next = *head;
	if (*head)
		(*head)->dirty_prev = slice;
	*head = slice;
	cache->nb_dirty++;
}

void cache_mark_clean(struct cache *cache, struct slice *slice)
{
	if (!slice->dirty)
		return;
	slice->dirty = false;
	if (slice->dirty_prev)
		slice->dirty_prev->dirty_next = slice->dirty_next;
	else
		cache->dirty[slice->tag] = slice->dirty_next;
	if (slice->dirty_next)
		slice->dirty_next->dirty_prev = slice->dirty_prev;
	cache->nb_dirty--;
	if (!co_queue_empty(&cache->evict_waiters))
		co_queue_wake_all(&cache->evict_waiters);
}

void cache_begin_store(struct cache *cache, struct slice *slice)
{
	assert(!slice->storing);
	cache_mark_clean(cache, slice);
	slice->storing = true;
}

void cache_end_store(struct cache *cache, struct slice *slice)
{
	slice->storing = false;
	if (!co_queue_empty(&cache->evict_waiters))
		co_queue_wake_all(&cache->evict_waiters);
}

void cache_forget(struct cache *cache, uint64_t host_off, uint64_t len_bytes)
{
	for (uint64_t end = host_off + len_bytes; host_off < end; host_off += cache->slice_bytes) {
		struct slice *slice = find(cache, host_off);

		if (slice)
			discard_slice(cache, slice);
	}
}

void cache_trim(struct cache *cache)
{
	struct chunk **link = &cache->chunks;
	struct slice *next;

	if (!cache->nb_slices)
		return; /* a raw layer has no cache, not even its ring */
	for (struct slice *slice = cache->lru.lru_next; slice != &cache->lru; slice = next) {
		next = slice->lru_next;
		if (may_go(slice))
			discard_slice(cache, slice);
	}
	/* What is left in the ring keeps its chunk; the free list is built anew. */
	for (struct slice *slice = cache->lru.lru_next; slice != &cache->lru;
	     slice = slice->lru_next)
		/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): a closed ring */
		slice->chunk->in_use = true;
	cache->free = NULL;
	while (*link) {
		struct chunk *chunk = *link;

		if (chunk->in_use) {
			chunk->in_use = false;
			for (unsigned i = 0; i < chunk->nb_slices; i++) {
				struct slice *slice = &chunk->slices[i];

				if (slice->lru_next)
					continue;
				slice->hash_next = cache->free;
				cache->free = slice;
			}
			link = &chunk->next;
			continue;
		}
		*link = chunk->next;
		cache->nb_slices -= chunk->nb_slices;
		buf_put(chunk->data, chunk_bytes(cache));
		free(chunk);
	}
}
