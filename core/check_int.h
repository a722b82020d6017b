/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * check_int: what the files of the check share. Nobody else includes it.
 *
 *   check_header.c    the header and its extensions
 *   check_source.c    reading with a window, writing through it
 *   check_refs.c      the references that were found, one counter per cluster
 *   check_walk.c      L1 and L2 tables: who refers to which cluster
 *   check_meta.c      snapshot table, bitmaps, encryption header: the same
 *   check_refcount.c  the refcounts that the image claims, and the comparison
 *   check_repair.c    repairs in place
 *   check_rebuild.c   new refcount structures beside the damaged ones
 *   check_move.c      guest data away from metadata
 *   check_snapshot.c  a new snapshot table beside the incomplete one
 *   check.c           the passes and their order
 *
 * One pass, in this order (each step relies on the ones before):
 *   header; refcount table and blocks, to know which refcounts are 1; the L1 tables,
 *   which counts the references to every L2 table; the L2 tables, each once and
 *   in the order of the file, a reference in one that is named m times counting m
 *   times; the rest of the metadata; the refcount blocks as clusters; the comparison.
 */
#ifndef QCOW2FS_CORE_CHECK_INT_H
#define QCOW2FS_CORE_CHECK_INT_H

#include "core/check.h"
#include "core/checked.h"
#include "core/format.h"

#include <stdlib.h>

/* Header fields in host order, checked against the bounds of the format. */
struct check_header {
	unsigned version, cluster_bits, refcount_order;
	uint32_t cluster_size;
	unsigned l2_entry_bytes; /* L2_ENTRY_BYTES or L2_EXT_ENTRY_BYTES */
	unsigned block_bits;     /* log2 of the refcounts in one refcount block */
	uint64_t refcount_max;
	uint64_t virtual_size;
	uint64_t l1_off, reftable_off, snapshots_off;
	uint32_t nb_l1, nb_snapshots;
	uint32_t reftable_clusters;
	uint64_t incompatible, autoclear;
	bool extended_l2, has_data_file;
	/* from the extensions; 0: absent */
	uint32_t nb_bitmaps;
	uint64_t bitmap_dir_off, bitmap_dir_bytes;
	uint64_t crypto_off, crypto_bytes;
};

/*
 * A window into the file. What check_source_get() returned is valid until the next call for
 * the same window. Refcount blocks that the window of the tables covers come from there:
 * they do not outlive the next call for a table.
 */
struct check_source {
	uint8_t *buf;
	size_t cap_bytes;
	uint64_t start;
	size_t len_bytes; /* valid bytes from start on; 0: none */
};

/*
 * References by cluster. A counter is as wide as the largest one needs (1, 2 or 4
 * bytes; all are widened together). `nb` grows up to the file's size and the clusters
 * that a short last cluster may touch.
 */
struct check_refs {
	void *counts;
	unsigned width; /* bytes */
	uint64_t nb, cap;
	uint64_t *owned; /* bitmap: metadata, has to be the only reference */
};

/* One L2 table and how often L1 tables name it. */
struct check_l2 {
	uint64_t host_off; /* multiple of 512 */
	uint32_t nb_refs, nb_active;
	uint32_t l1_index; /* of the last L1 entry of the active state that names it */
};

/* Eight bytes of an L1 or L2 table that are wrong beyond doubt, and what is right. */
struct check_mend {
	uint64_t host_off, value;
	uint32_t nb_refs; /* references to the table, if nobody else uses its cluster */
	enum io_tag tag;  /* which kind of table */
};

struct check {
	struct file *file;
	const struct check_options *options;
	struct check_report *report; /* of this pass */
	uint64_t nb_writes;          /* so far */
	bool marked_dirty;           /* by the repair, while flags and refcounts differ */
	const char *prefix;          /* before every line said; NULL: say nothing */

	struct check_header header;
	struct check_source source, blocks; /* tables; refcount blocks */
	uint64_t file_bytes;                /* rounded up to 512 */
	struct check_refs refs;
	uint64_t end_cluster;          /* behind the last one with a refcount or reference */
	uint64_t dangling_end_cluster; /* behind references that lie not far beyond the file */
	bool no_place;                 /* references cover everything behind the file */
	uint64_t nb_to_place;        /* clusters that a repair will put there, besides refcounts */
	uint64_t table_budget_bytes; /* of L1 and bitmap tables still to be read */
	bool tables_overlap;         /* it was not enough: the others are left out */

	/* the refcount table as far as it concerns the file, and a bitmap: refcount is 1 */
	uint64_t *reftable;
	uint64_t nb_reftable;
	uint64_t *single;
	uint64_t nb_single;

	struct check_l2 *l2;
	size_t nb_l2, cap_l2;

	/* what a repair has to do, gathered by the pass */
	bool must_rebuild;         /* the refcount structures cannot be repaired in place */
	bool bitmaps_broken;       /* the bitmaps contradict themselves */
	uint32_t nb_bad_snapshots; /* entries with too little or too much extra data */
	uint64_t copied_wrong;     /* how many of the corruptions are COPIED flags */
	struct check_mend *mends;
	size_t nb_mends, cap_mends;

	/* for the rebuild: leave out the old refcount structures, add a region to come */
	bool ignore_refcount_structures;
	uint64_t extra_off, extra_bytes;
};

/* ---- check.c ---- */

/* `times` more corruptions, leaks or errors, and one line about it. */
void check_corruption(struct check *check, uint64_t times, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
void check_leak(struct check *check, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void check_trouble(struct check *check, uint64_t times, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Looks at the whole image. Findings go to *report. 0 or -errno. */
int coroutine_fn check_pass(struct check *check, struct check_report *report,
			    struct error **reterr);
/* Frees what passes have gathered. */
void check_finish(struct check *check);
static inline bool check_is_aligned(const struct check *check, uint64_t off)
{
	return !(off & (check->header.cluster_size - 1));
}

/* ---- check_header.c ---- */
int coroutine_fn check_header_load(struct check *check, struct error **reterr);

/* ---- check_source.c ---- */

/*
 * Makes [host_off, host_off + len_bytes) readable at *ret; zeros beyond the end of the
 * file. len_bytes is at most a cluster or 64 KiB; up to want_bytes are read ahead. 0 or
 * -errno.
 */
int coroutine_fn check_source_get(struct check *check, struct check_source *source,
				  uint64_t host_off, size_t len_bytes, size_t want_bytes,
				  enum io_tag tag, const uint8_t **ret);
void check_source_finish(struct check_source *source);
/* Writes to the file and to the windows. 0 or -errno. */
int coroutine_fn check_write(struct check *check, uint64_t host_off, const void *buf,
			     size_t len_bytes, enum io_tag tag);

/* ---- check_refs.c ---- */
int check_refs_init(struct check_refs *refs, uint64_t nb_clusters);
void check_refs_finish(struct check_refs *refs);
uint64_t check_refs_get(const struct check_refs *refs, uint64_t cluster);
/* 0, -ENOMEM, or -EOVERFLOW beyond 32 bits. cluster < nb. */
int check_refs_add(struct check_refs *refs, uint64_t cluster, uint32_t times);
static inline bool check_bit(const uint64_t *map, uint64_t bit)
{
	return map[bit / 64] >> (bit % 64) & 1;
}
static inline void check_set_bit(uint64_t *map, uint64_t bit)
{
	map[bit / 64] |= 1ull << (bit % 64);
}

/* The refcount that a cluster should have: its references, as far as the width can express. */
static inline uint64_t check_right_refcount(const struct check *check, uint64_t cluster)
{
	return min_u64(check_refs_get(&check->refs, cluster), check->header.refcount_max);
}

/* ---- check_walk.c ---- */

/* Whether a region keeps within the file, a short last cluster counting as a whole one. */
bool check_is_inside(const struct check *check, uint64_t host_off, uint64_t len_bytes);
/*
 * Counts `times` references to every cluster of a region. A region that passes the
 * end of the file by a cluster or more is a corruption and is not counted. `owned`:
 * metadata that tolerates no second reference. 0 or -errno.
 */
int check_mark(struct check *check, uint64_t host_off, uint64_t len_bytes, uint32_t times,
	       bool owned);
/*
 * How much of a table of len_bytes there is to read: what lies inside the file, and
 * nothing once all tables together have passed any honest measure.
 */
uint64_t check_table_bytes(struct check *check, uint64_t host_off, uint64_t len_bytes);
int coroutine_fn check_walk_l1(struct check *check, uint64_t l1_off, uint32_t nb_l1, bool active);
int coroutine_fn check_walk_l2(struct check *check);

/* What an L2 entry is; `bitmap` is the second half of an extended entry, else 0. */
enum check_entry {
	ENTRY_FREE,
	ENTRY_ZERO,
	ENTRY_COMPRESSED,
	ENTRY_CLUSTER, /* data, or zeros with a cluster in reserve */
};
enum check_entry check_entry_kind(const struct check *check, uint64_t entry);

/* ---- check_meta.c ---- */
#define SNAPSHOT_EXTRA_BYTES_MIN offsetof(struct qcow2_snapshot_extra, icount) /* version 3 */
int coroutine_fn check_walk_snapshots(struct check *check, struct error **reterr);
int coroutine_fn check_walk_bitmaps(struct check *check);

/* ---- check_refcount.c ---- */
uint64_t check_refcount_get(const uint8_t *block, uint64_t index, unsigned order);
void check_refcount_put(uint8_t *block, uint64_t index, unsigned order, uint64_t refcount);
/* Whether refcount block `index` has an offset where no block can be. */
bool check_block_is_misplaced(const struct check *check, uint64_t index);
/* Refcount block `index`; NULL when there is none, which is as good as zeros. 0 or -errno. */
int coroutine_fn check_block_get(struct check *check, uint64_t index, const uint8_t **ret_block);
/* How many of the first nb_clusters a block has refcounts for, from *ret_first on. */
uint64_t check_block_span(const struct check *check, uint64_t index, uint64_t nb_clusters,
			  uint64_t *ret_first);
/* Reads the refcount table and learns which refcounts are 1. */
int coroutine_fn check_refcounts_load(struct check *check);
/* Whether the image's refcount of a cluster is 1: 0 or 1, -EIO where it cannot be known. */
int coroutine_fn check_refcount_is_single(struct check *check, uint64_t cluster);
/* The refcount table and blocks as clusters that are referred to. */
int coroutine_fn check_walk_refcounts(struct check *check);
/* References against refcounts. */
int coroutine_fn check_compare(struct check *check);

/* ---- check_repair.c ---- each returns 0 or -errno; *ret_wrote is set when something changed ----
 */

/* Whether the table that has nb_refs references has the cluster at host_off for itself. */
bool check_table_is_alone(const struct check *check, uint64_t host_off, uint32_t nb_refs);
/*
 * Notes what to mend; the last word about an entry counts. When there is too much to note,
 * the next pass finds the rest.
 */
int check_mend_add(struct check *check, const struct check_mend *mend);
int coroutine_fn check_repair_entries(struct check *check, bool *ret_wrote);
int coroutine_fn check_repair_copied(struct check *check, bool *ret_wrote);
enum check_direction { CHECK_RAISE, CHECK_LOWER };
int coroutine_fn check_repair_refcounts(struct check *check, enum check_direction direction,
					bool *ret_wrote);
/* Clears feature bits in the header. */
int coroutine_fn check_clear_features(struct check *check, uint64_t incompatible,
				      uint64_t autoclear, bool *ret_wrote);

/* ---- check_rebuild.c ---- */

/*
 * Writes new refcount structures for the references of the last pass, which has left
 * out the old ones, and switches to them: on return they are durable. 0 or -errno.
 */
int coroutine_fn check_rebuild(struct check *check);
/*
 * Where a repair puts new tables: the first cluster behind everything that is in use.
 * -ENOSPC when nb_clusters do not fit there.
 */
int check_place(const struct check *check, uint64_t nb_clusters, uint64_t *ret_first);
/* Whether no reference leads to that place, or close behind it. */
bool check_is_place_free(const struct check *check);
/*
 * References beyond the end of the file read as zeros; whatever a repair puts there would
 * show in their place. Makes the file long enough to hold them as what they are: holes.
 */
int coroutine_fn check_cover_dangling(struct check *check);

/* ---- check_move.c ---- */

/* L2 entries that refer to metadata, and what they become. */
struct check_move {
	uint64_t entry_off, entry;
};
struct check_moves {
	struct check_move *list;
	size_t nb, cap;
};
/* Finds them, after a pass. */
int coroutine_fn check_moves_gather(struct check *check, struct check_moves *moves);
/* Copies their clusters to a region at check_place(). */
int coroutine_fn check_moves_copy(struct check *check, struct check_moves *moves);
/* Lets the entries point there. Durable on return. */
int coroutine_fn check_moves_switch(struct check *check, const struct check_moves *moves);
void check_moves_finish(struct check_moves *moves);

/* ---- check_snapshot.c ---- */

/* How long a complete snapshot table is; writes it behind everything, and says where. */
int coroutine_fn check_snapshots_measure(struct check *check, uint64_t *ret_bytes);
int coroutine_fn check_snapshots_write(struct check *check, uint64_t len_bytes, uint64_t *ret_off);
/* Makes it the image's. Its clusters have refcounts by now. Durable on return. */
int coroutine_fn check_snapshots_switch(struct check *check, uint64_t table_off);

#endif
