/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * check_walk: which cluster is referred to how often, by the L1 and L2 tables of the
 * active state and of all snapshots.
 *
 * The L1 tables come first and yield the list of L2 tables with the number of
 * references to each. Sorted by place, that list is then read once, in the order of
 * the file; whatever an L2 table refers to counts as often as the table itself. So
 * a thousand snapshots of one disk cost no more than the disk.
 *
 * Entries are followed even where they look wrong (a misaligned table, a table that
 * is something else too), because the clusters they name are in use all the same, and
 * because qemu-img does so.
 */
#include "core/check_int.h"

#include <errno.h>
#include <inttypes.h>

#define TABLE_CHUNK_BYTES (64u << 10)
#define L2_AHEAD_BYTES (1u << 20)
#define L2_GAP_BYTES (64u << 10)
#define DANGLING_CLUSTERS_MIN 64u

/*
 * Remembers references to where a repair would put new tables: behind the end. Some can be
 * covered by a longer file; one that spans too much leaves no place at all.
 */
static void dangling_note(struct check *check, uint64_t host_off, uint64_t len_bytes)
{
	uint64_t nb = check->refs.nb;
	uint64_t limit = nb + (nb >> 4) + DANGLING_CLUSTERS_MIN + check->nb_to_place;
	uint64_t first = host_off >> check->header.cluster_bits;
	uint64_t span = (len_bytes >> check->header.cluster_bits) + 2;

	if (first >= limit)
		return;
	if (span <= DANGLING_CLUSTERS_MIN || span <= limit - first)
		check->dangling_end_cluster = max_u64(check->dangling_end_cluster, first + span);
	else
		check->no_place = true;
}

bool check_is_inside(const struct check *check, uint64_t host_off, uint64_t len_bytes)
{
	uint64_t end;

	return !checked_add(host_off, len_bytes, &end) &&
	       end < check->file_bytes + check->header.cluster_size;
}

int check_mark(struct check *check, uint64_t host_off, uint64_t len_bytes, uint32_t times,
	       bool owned)
{
	uint64_t last, excess = 0;

	if (!len_bytes)
		return 0;
	if (!check_is_inside(check, host_off, len_bytes)) {
		dangling_note(check, host_off, len_bytes);
		check_corruption(check, times,
				 "region at %#" PRIx64 " of %" PRIu64
				 " bytes lies beyond the end of the file",
				 host_off, len_bytes);
		return 0;
	}
	last = (host_off + len_bytes - 1) >> check->header.cluster_bits;
	for (uint64_t i = host_off >> check->header.cluster_bits; i <= last; i++) {
		uint64_t before;
		int err;

		if (i >= check->refs.nb)
			check->refs.nb = i + 1;
		before = check_right_refcount(check, i);
		err = check_refs_add(&check->refs, i, times);
		if (err)
			return err;
		excess += before + times - check_right_refcount(check, i);
		if (owned)
			check_set_bit(check->refs.owned, i);
	}
	if (excess)
		check_corruption(check, excess,
				 "cluster at %#" PRIx64 " has more references than a refcount of %u"
				 " bits can express",
				 host_off, 1u << check->header.refcount_order);
	return 0;
}

uint64_t check_table_bytes(struct check *check, uint64_t host_off, uint64_t len_bytes)
{
	if (host_off >= check->file_bytes)
		return 0;
	len_bytes = min_u64(len_bytes, check->file_bytes - host_off);
	if (check->tables_overlap || len_bytes > check->table_budget_bytes) {
		check_trouble(check, 1,
			      "table at %#" PRIx64 " not read: the tables of this image"
			      " overlap many times over",
			      host_off);
		check->tables_overlap = true;
		return 0;
	}
	check->table_budget_bytes -= len_bytes;
	return len_bytes;
}

/* ---- the list of L2 tables ---- */

static int l2_compare(const void *a, const void *b)
{
	const struct check_l2 *one = a, *two = b;

	return (one->host_off > two->host_off) - (one->host_off < two->host_off);
}

static bool l2_is_sorted(const struct check *check)
{
	for (size_t i = 1; i < check->nb_l2; i++)
		if (check->l2[i - 1].host_off > check->l2[i].host_off)
			return false;
	return true;
}

/* Sorts, and makes one entry of all that name the same table. */
static void l2_merge(struct check *check)
{
	size_t kept = 0;

	if (!l2_is_sorted(check))
		qsort(check->l2, check->nb_l2, sizeof(*check->l2), l2_compare);
	for (size_t i = 0; i < check->nb_l2; i++) {
		const struct check_l2 *l2 = &check->l2[i];

		if (kept && check->l2[kept - 1].host_off == l2->host_off) {
			check->l2[kept - 1].nb_refs += l2->nb_refs;
			check->l2[kept - 1].nb_active += l2->nb_active;
			if (l2->nb_active)
				check->l2[kept - 1].l1_index = l2->l1_index;
		} else {
			check->l2[kept++] = *l2;
		}
	}
	check->nb_l2 = kept;
}

static int l2_add(struct check *check, uint64_t host_off, bool active, uint32_t l1_index)
{
	if (check->nb_l2 == check->cap_l2) {
		struct check_l2 *grown;
		size_t cap;

		/* Repeated names take no memory: fold them before growing. */
		l2_merge(check);
		if (check->nb_l2 * 2 >= check->cap_l2) {
			cap = max_u64(64, check->cap_l2 * 2);
			grown = realloc(check->l2, cap * sizeof(*grown));
			if (!grown)
				return -ENOMEM;
			check->l2 = grown;
			check->cap_l2 = cap;
		}
	}
	check->l2[check->nb_l2++] = (struct check_l2){host_off, 1, active, l1_index};
	return 0;
}

/* ---- L1 ---- */

static int coroutine_fn l1_check_copied(struct check *check, uint64_t entry)
{
	int single = check_refcount_is_single(check, (entry & L1_OFFSET_MASK) >>
							     check->header.cluster_bits);

	/* Where the refcount cannot be known, the comparison says so. */
	if (single < 0)
		return single == -EIO ? 0 : single;
	if (single == !!(entry & ENTRY_COPIED))
		return 0;
	check->copied_wrong++;
	check_corruption(check, 1, "L1 entry %#" PRIx64 " has a wrong COPIED flag", entry);
	return 0;
}

/* One L1 table under the walk. */
struct l1_walk {
	uint64_t off;
	bool active;
	bool is_sound; /* counted, as it lies inside the file */
};

static int coroutine_fn l1_entry_walk(struct check *check, const struct l1_walk *l1,
				      uint64_t entry_off, uint64_t entry)
{
	uint64_t l2_off = entry & L1_OFFSET_MASK;
	const struct check_mend mend = {
		.host_off = entry_off,
		.value = l2_off ? entry & ~L1_RESERVED_MASK : 0,
		.nb_refs = 1,
		.tag = IO_TAG_L1,
	};
	int err;

	if (entry & L1_RESERVED_MASK)
		check_corruption(check, 1, "L1 entry %#" PRIx64 " has reserved bits set", entry);
	if (!l2_off)
		check_corruption(check, 1, "L1 entry %#" PRIx64 " has flags but no table", entry);
	if ((entry & L1_RESERVED_MASK || !l2_off) && l1->is_sound) {
		err = check_mend_add(check, &mend);
		if (err)
			return err;
	}
	if (!l2_off)
		return 0;
	err = check_mark(check, l2_off, check->header.cluster_size, 1, false);
	if (err)
		return err;
	if (!check_is_aligned(check, l2_off))
		check_corruption(check, 1, "L2 table at %#" PRIx64 " is not aligned", l2_off);
	if (l1->active) {
		err = l1_check_copied(check, entry);
		if (err)
			return err;
	}
	return l2_add(check, l2_off, l1->active, (entry_off - l1->off) / sizeof(be64));
}

int coroutine_fn check_walk_l1(struct check *check, uint64_t l1_off, uint32_t nb_l1, bool active)
{
	uint64_t len_bytes = (uint64_t)nb_l1 * sizeof(be64);
	const struct l1_walk l1 = {l1_off, active, check_is_inside(check, l1_off, len_bytes)};
	uint64_t readable_bytes = check_table_bytes(check, l1_off, len_bytes);
	int err;

	if (check->tables_overlap)
		return 0;
	err = check_mark(check, l1_off, len_bytes, 1, true);
	if (err)
		return err;
	len_bytes = readable_bytes;
	for (uint64_t at = 0; at < len_bytes; at += TABLE_CHUNK_BYTES) {
		size_t chunk = min_u64(len_bytes - at, TABLE_CHUNK_BYTES);
		const uint8_t *table;

		err = check_source_get(check, &check->source, l1_off + at, chunk, chunk, IO_TAG_L1,
				       &table);
		if (err)
			return err;
		for (size_t i = 0; i + sizeof(be64) <= chunk; i += sizeof(be64)) {
			uint64_t entry = be64_get(table + i);

			if (!entry)
				continue;
			err = l1_entry_walk(check, &l1, l1_off + at + i, entry);
			if (err)
				return err;
		}
	}
	return 0;
}

/* ---- L2 ---- */

enum check_entry check_entry_kind(const struct check *check, uint64_t entry)
{
	if (entry & L2_COMPRESSED)
		return ENTRY_COMPRESSED;
	if (entry & L2_OFFSET_MASK)
		return ENTRY_CLUSTER;
	if (entry & L2_ZERO && !check->header.extended_l2)
		return ENTRY_ZERO;
	/* In a data file offset 0 is guest cluster 0; COPIED tells it from no cluster. */
	if (check->header.has_data_file && entry & ENTRY_COPIED)
		return ENTRY_CLUSTER;
	return ENTRY_FREE;
}

/* Whether an entry with a cluster keeps data there, or only space. */
static bool entry_has_data(const struct check *check, uint64_t entry, uint64_t bitmap)
{
	return check->header.extended_l2 ? (bitmap & UINT32_MAX) != 0 : !(entry & L2_ZERO);
}

/* One L2 table under the walk. */
struct l2_walk {
	const struct check_l2 *l2;
	uint64_t entry_off; /* of the entry under the walk */
	uint64_t next_off;  /* where an unfragmented neighbour would lie; 0: no neighbour yet */
};

/* Notes what the word at `at` of the entry under the walk should be. */
static int l2_mend(struct check *check, const struct l2_walk *walk, unsigned at, uint64_t value)
{
	const struct check_mend mend = {
		.host_off = walk->entry_off + at,
		.value = value,
		.nb_refs = walk->l2->nb_refs,
		.tag = IO_TAG_L2,
	};

	/* A misaligned table lies over two clusters that are hardly both its own. */
	return check_is_aligned(check, walk->l2->host_off) ? check_mend_add(check, &mend) : 0;
}

static int compressed_walk(struct check *check, struct l2_walk *walk, uint64_t entry,
			   uint64_t bitmap)
{
	unsigned shift = 62 - (check->header.cluster_bits - 8);
	uint64_t host_off = entry & ((1ull << shift) - 1);
	uint64_t nb_sectors = (entry >> shift & ((1u << (check->header.cluster_bits - 8)) - 1)) + 1;
	uint32_t times = walk->l2->nb_refs;
	int err;

	if (entry & ENTRY_COPIED) {
		check_corruption(check, times,
				 "compressed cluster %#" PRIx64 " has the COPIED flag", entry);
		err = l2_mend(check, walk, 0, entry & ~ENTRY_COPIED);
		if (err)
			return err;
	}
	if (check->header.has_data_file) {
		check_corruption(check, times,
				 "compressed cluster %#" PRIx64 " beside an external data file",
				 entry);
		return 0;
	}
	if (bitmap) {
		check_corruption(check, times, "compressed cluster %#" PRIx64 " has subclusters",
				 entry);
		return l2_mend(check, walk, L2_ENTRY_BYTES, 0);
	}
	check->report->allocated_clusters += walk->l2->nb_active;
	check->report->compressed_clusters += walk->l2->nb_active;
	check->report->fragmented_clusters += walk->l2->nb_active;
	return check_mark(check, host_off, nb_sectors * 512 - (host_off & 511), times, false);
}

static int coroutine_fn copied_check(struct check *check, const struct check_l2 *l2, uint64_t entry)
{
	int single = 1;

	if (!check->header.has_data_file)
		single = check_refcount_is_single(check, (entry & L2_OFFSET_MASK) >>
								 check->header.cluster_bits);
	if (single < 0)
		return single == -EIO ? 0 : single;
	if (single == !!(entry & ENTRY_COPIED))
		return 0;
	check->copied_wrong += l2->nb_active;
	check_corruption(check, l2->nb_active, "L2 entry %#" PRIx64 " has a wrong COPIED flag",
			 entry);
	return 0;
}

/* What the entry under the walk keeps is zeros, or nothing: that needs no cluster. */
static int drop_cluster(struct check *check, const struct l2_walk *walk)
{
	return l2_mend(check, walk, 0, check->header.extended_l2 ? 0 : L2_ZERO);
}

/*
 * In an external data file a cluster is where the guest has it. A raw one is right without any
 * tables, so the entry can be put right; otherwise nobody knows where the data are.
 */
static int place_check(struct check *check, const struct l2_walk *walk, uint64_t entry,
		       uint64_t bitmap)
{
	const struct check_header *header = &check->header;
	const struct check_l2 *l2 = walk->l2;
	uint64_t nb_per_l2 = header->cluster_size / header->l2_entry_bytes;
	uint64_t index = (walk->entry_off - l2->host_off) / header->l2_entry_bytes;
	uint64_t guest_off = (l2->l1_index * nb_per_l2 + index) << header->cluster_bits;
	uint64_t flags = header->extended_l2 ? 0 : entry & L2_ZERO;
	uint64_t host_off = entry & L2_OFFSET_MASK;

	if (!l2->nb_active || host_off == guest_off)
		return 0;
	check_corruption(check, l2->nb_active,
			 "cluster at %#" PRIx64 " of the external data file belongs at %#" PRIx64,
			 host_off, guest_off);
	if (check_is_aligned(check, host_off))
		check->report->misplaced += l2->nb_active;
	if (l2->nb_active > 1)
		return 0;
	if (header->autoclear & AUTOCLEAR_DATA_FILE_RAW)
		return l2_mend(check, walk, 0, guest_off | ENTRY_COPIED | flags);
	return entry_has_data(check, entry, bitmap) ? 0 : drop_cluster(check, walk);
}

/* In the image itself a cluster is anywhere, aligned, and has its references counted. */
static int cluster_mark(struct check *check, const struct l2_walk *walk, uint64_t entry,
			uint64_t bitmap)
{
	uint64_t host_off = entry & L2_OFFSET_MASK;
	uint32_t times = walk->l2->nb_refs;
	int err;

	if (!check_is_aligned(check, host_off)) {
		check_corruption(check, times, "cluster at %#" PRIx64 " is not aligned", host_off);
		err = entry_has_data(check, entry, bitmap) ? 0 : drop_cluster(check, walk);
		if (err)
			return err;
	}
	return check_mark(check, host_off, check->header.cluster_size, times, false);
}

static int coroutine_fn cluster_walk(struct check *check, struct l2_walk *walk, uint64_t entry,
				     uint64_t bitmap)
{
	uint64_t host_off = entry & L2_OFFSET_MASK;
	const struct check_l2 *l2 = walk->l2;
	int err;

	if (bitmap >> 32 & bitmap)
		check_corruption(check, l2->nb_refs,
				 "cluster at %#" PRIx64
				 " has subclusters that are both data and zeros",
				 host_off);
	check->report->allocated_clusters += l2->nb_active;
	if (walk->next_off && host_off != walk->next_off)
		check->report->fragmented_clusters += l2->nb_active;
	walk->next_off = host_off + check->header.cluster_size;
	err = check->header.has_data_file ? place_check(check, walk, entry, bitmap)
					  : cluster_mark(check, walk, entry, bitmap);
	if (err)
		return err;
	return l2->nb_active ? copied_check(check, l2, entry) : 0;
}

static int coroutine_fn l2_entry_walk(struct check *check, struct l2_walk *walk, uint64_t entry,
				      uint64_t bitmap)
{
	enum check_entry kind = check_entry_kind(check, entry);
	int err;

	if (kind != ENTRY_COMPRESSED && entry & L2_STD_RESERVED_MASK) {
		check_corruption(check, walk->l2->nb_refs,
				 "L2 entry %#" PRIx64 " has reserved bits set", entry);
		err = l2_mend(check, walk, 0, entry & ~L2_STD_RESERVED_MASK);
		if (err)
			return err;
	}
	switch (kind) {
	case ENTRY_COMPRESSED:
		return compressed_walk(check, walk, entry, bitmap);
	case ENTRY_CLUSTER:
		return cluster_walk(check, walk, entry, bitmap);
	case ENTRY_FREE:
		if (bitmap & UINT32_MAX)
			check_corruption(check, walk->l2->nb_refs,
					 "L2 entry %#" PRIx64 " has subclusters but no cluster",
					 entry);
		return 0;
	case ENTRY_ZERO:
		return 0;
	}
	return 0;
}

static int coroutine_fn l2_table_walk(struct check *check, const struct check_l2 *l2,
				      size_t ahead_bytes)
{
	struct l2_walk walk = {.l2 = l2};
	unsigned step = check->header.l2_entry_bytes;
	const uint8_t *table;
	int err;

	/* Beyond the end of the file there are only zeros. */
	if (l2->host_off >= check->file_bytes)
		return 0;
	err = check_source_get(check, &check->source, l2->host_off, check->header.cluster_size,
			       ahead_bytes, IO_TAG_L2, &table);
	if (err)
		return err;
	for (uint32_t at = 0; at < check->header.cluster_size; at += step) {
		uint64_t entry = be64_get(table + at);
		uint64_t bitmap = check->header.extended_l2 ? be64_get(table + at + 8) : 0;

		if (!(entry | bitmap))
			continue;
		walk.entry_off = l2->host_off + at;
		err = l2_entry_walk(check, &walk, entry, bitmap);
		if (err)
			return err;
	}
	return 0;
}

/* How far to read from table `i` on so that close neighbours come along. */
static size_t l2_ahead_bytes(const struct check *check, size_t i)
{
	uint64_t start = check->l2[i].host_off, end = start + check->header.cluster_size;

	for (i++; i < check->nb_l2; i++) {
		uint64_t next = check->l2[i].host_off;

		if (next > end + L2_GAP_BYTES || next - start > L2_AHEAD_BYTES)
			break;
		end = max_u64(end, next + check->header.cluster_size);
	}
	return end - start;
}

/* An L2 table whose cluster has more references than L1 tables give it is used by others too. */
static void l2_check_owned(struct check *check)
{
	for (size_t i = 0; i < check->nb_l2; i++) {
		uint64_t cluster = check->l2[i].host_off >> check->header.cluster_bits;

		if (cluster < check->refs.nb &&
		    check_refs_get(&check->refs, cluster) > check->l2[i].nb_refs)
			check_set_bit(check->refs.owned, cluster);
	}
}

int coroutine_fn check_walk_l2(struct check *check)
{
	l2_merge(check);
	for (size_t i = 0; i < check->nb_l2; i++) {
		int err = l2_table_walk(check, &check->l2[i], l2_ahead_bytes(check, i));

		if (err)
			return err;
	}
	l2_check_owned(check);
	return 0;
}
