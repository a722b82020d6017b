/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * writer: what an image needs beyond reading: refcounts, allocation, the owner map,
 * guest ranges in flight, and the state of write-back.
 *
 * The ordering law, named by its rules at the lines that keep it:
 *  I1 refcount before pointer          I7 COPIED means refcount 1
 *  I2 contents before pointer          I8 overlapping changes are serialised
 *  I3 data before pointer              I9 host punch after removal, before reuse
 *  I4 removal before decrease          I10 the order of barriers in a flush
 *  I5 no reuse before removal is durable  I11 feature bits before what they announce
 *  I6 no reuse under I/O in flight     I12 a failed request gives its clusters back
 *
 * How: an allocating write raises refcounts in the cache, writes data, then changes
 * the L2 entry in the cache; what the entry pointed to goes to the list `unlinked`. A
 * flush (flush.h) copies all dirty slices at one instant and stores them in the order
 * of I10; only then does release (release.h) lower refcounts and hand clusters back.
 *
 * Refcounts are exact in every image, those with lazy ones included: a flush stores raised
 * refcounts before anything else, which costs no barrier more, and so nothing is ever
 * deferred and a mount sets no dirty mark. Only what changes whole trees (snapshot_edit.h)
 * and repairs mark an image dirty meanwhile.
 *
 * Lock order: alloc_mutex → flush_mutex. The flush takes no other lock.
 */
#ifndef QCOW2FS_CORE_WRITER_H
#define QCOW2FS_CORE_WRITER_H

#include "core/internal.h"
#include "core/overlap.h"
#include "io/reactor.h"

/*
 * A run of host clusters, by index. Those of an external data file have no refcounts: once
 * the guest reads zeros there, durably, their space is given back to the host.
 */
struct cluster_run {
	uint64_t first, nb;
	bool in_data_file;
};

/* A growing array of runs. */
struct run_list {
	struct cluster_run *runs;
	size_t nb, nb_max;
};

/* Clusters taken before anybody needs them (ahead.h): nothing points there, refcounts are 1. */
struct ahead {
	uint64_t first, nb;
	bool extends_file;   /* zeros were written over them, beyond the end of what is used */
	bool used;           /* since ahead_look() */
	unsigned nb_needed;  /* clusters taken since the guest's last flush */
	unsigned nb_flushes; /* in a row that needed few clusters each */
};

struct writer {
	struct image *image;
	struct cache ref_cache; /* refcount table and refcount blocks */
	struct overlap overlap;
	unsigned refblock_bits;      /* log2 of entries per refcount block */
	struct range_lock in_flight; /* guest bytes whose mapping is being changed: I8 */
	struct co_mutex table_mutex; /* creating L2 tables */

	/* allocation; under alloc_mutex */
	struct co_mutex alloc_mutex;
	struct run_list free_runs; /* freed since opening, to be reused first */
	uint64_t scan;             /* clusters below have been looked at */
	/* The same for who needs several in a row: below, there are fewer free ones in each row. */
	uint64_t scan_rows, nb_in_row;
	uint64_t tail;      /* where to go on when looking takes too long */
	uint64_t zero_from; /* host bytes from here on have never been handed out or written */
	struct ahead ahead;

	/* write-back */
	struct co_mutex flush_mutex;
	uint64_t flush_started, flush_done; /* rounds */
	bool unflushed; /* something was written since the last barrier was issued */
	int failed;     /* -errno of a failed barrier: no flush succeeds any more */
	struct run_list
		unlinked; /* one reference each, to be dropped after the next flush: I4, I5, I9 */
	struct timer writeback_timer;
	struct task writeback_task;
	bool writeback_running;
	bool writeback_failed; /* the last one: the next one waits for the timer */
	bool closing;
	struct co_queue idle; /* neither write-back nor release is running */

	/* release of what a flush has unlinked durably */
	struct run_list released;
	struct task release_task;
	bool release_running;

	/* before the first change */
	struct co_mutex begin_mutex;
	bool begun, data_begun;
};

/* Makes image->writer. `image` was just opened for writing. 0 or -errno with *reterr. */
int coroutine_fn writer_open(struct image *image, struct error **reterr);
/* Writes back, releases, frees image->writer. The caller holds resize_lock for writing. 0 or
 * -errno. */
int coroutine_fn writer_close(struct image *image);

/*
 * To be called before every change: the first time it builds the owner map and clears
 * what this writer does not know (I11). 0, or -EIO for a broken writer.
 */
int coroutine_fn writer_begin(struct writer *writer);
/* The same before what the guest reads may change, which bitmaps will not tell (I11). */
int coroutine_fn writer_begin_data(struct writer *writer);

/*
 * The image contradicts itself: sets the corrupt bit durably (I11) and refuses every
 * further change. Returns -EIO.
 */
int coroutine_fn writer_mark_corrupt(struct writer *writer);

/* For the caches: writes back, so that slices can be evicted. ctx is the writer. 0 or -errno. */
int coroutine_fn writer_make_clean(void *ctx);

/* Waits until neither write-back in the background nor release is running. */
void coroutine_fn writer_wait_idle(struct writer *writer);

/*
 * A request has failed with `err`, and is between io_end() and io_begin(). Where there was no room
 * for it: flushes, and waits until what was in quarantine is free again. True, once: it is worth
 * another try.
 */
bool coroutine_fn writer_make_room(struct writer *writer, int err, bool *tried);

/* Something was written to a file: the next flush needs a barrier, within seconds. */
void writer_note_write(struct writer *writer);
/*
 * A pinned slice was changed. Marking it and asking for a flush are one step: who waits for room
 * in a cache full of dirty slices waits for a flush that has something to do.
 */
void writer_mark_dirty(struct writer *writer, struct cache *cache, struct slice *slice);

/* Room for `nb` more runs, so that run_list_add() cannot fail. 0 or -ENOMEM. */
int run_list_reserve(struct run_list *list, size_t nb);
/* Appends, joining the last run where it continues it. Room was reserved. */
void run_list_append(struct run_list *list, struct cluster_run run);
/* The same for clusters of the qcow2 file. */
static inline void run_list_add(struct run_list *list, uint64_t first, uint64_t nb)
{
	run_list_append(list, (struct cluster_run){.first = first, .nb = nb});
}
void run_list_free(struct run_list *list);

#endif
