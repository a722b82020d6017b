/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * overlap: see overlap.h. Belongs to one image's writer.
 */
#include "core/overlap.h"

#include "core/internal.h"
#include "io/buf.h"

#include <errno.h>
#include <stdlib.h>

#define PAGE_CLUSTERS_BITS 9u
#define PAGE_CLUSTERS (1u << PAGE_CLUSTERS_BITS)
#define TABLE_STEP_BYTES 65536u
#define SECTOR_BYTES 512u
/* Of the L1 tables of all snapshots together. */
#define SNAPSHOT_L1_BYTES_MAX (1ull << 30)

struct overlap_page {
	struct overlap_page *next;
	uint64_t index; /* first cluster >> PAGE_CLUSTERS_BITS */
	uint64_t bits[PAGE_CLUSTERS / 64];
};

void overlap_init(struct overlap *map, unsigned cluster_bits)
{
	*map = (struct overlap){.cluster_bits = cluster_bits};
}

void overlap_finish(struct overlap *map)
{
	for (unsigned i = 0; i < map->nb_buckets; i++) {
		struct overlap_page *next;

		for (struct overlap_page *page = map->buckets[i]; page; page = next) {
			next = page->next;
			free(page);
		}
	}
	free(map->buckets);
	*map = (struct overlap){.cluster_bits = map->cluster_bits};
}

static struct overlap_page *find_page(const struct overlap *map, uint64_t index)
{
	struct overlap_page *page;

	if (!map->nb_buckets)
		return NULL;
	page = map->buckets[index & (map->nb_buckets - 1)];
	while (page && page->index != index)
		page = page->next;
	return page;
}

/* Doubles the buckets; without memory the chains just get longer. */
static int grow_buckets(struct overlap *map)
{
	unsigned nb_new = map->nb_buckets ? map->nb_buckets * 2 : 64;
	struct overlap_page **buckets = calloc(nb_new, sizeof(*buckets));

	if (!buckets)
		return map->nb_buckets ? 0 : -ENOMEM;
	for (unsigned i = 0; i < map->nb_buckets; i++) {
		struct overlap_page *next;

		for (struct overlap_page *page = map->buckets[i]; page; page = next) {
			struct overlap_page **head = &buckets[page->index & (nb_new - 1)];

			next = page->next;
			page->next = *head;
			*head = page;
		}
	}
	free(map->buckets);
	map->buckets = buckets;
	map->nb_buckets = nb_new;
	return 0;
}

static struct overlap_page *get_page(struct overlap *map, uint64_t index)
{
	struct overlap_page *page = find_page(map, index);
	struct overlap_page **head;

	if (page)
		return page;
	if (map->nb_pages >= map->nb_buckets && grow_buckets(map))
		return NULL;
	page = calloc(1, sizeof(*page));
	if (!page)
		return NULL;
	page->index = index;
	head = &map->buckets[index & (map->nb_buckets - 1)];
	page->next = *head;
	*head = page;
	map->nb_pages++;
	return page;
}

int overlap_add(struct overlap *map, uint64_t host_off, uint64_t len_bytes)
{
	uint64_t first = host_off >> map->cluster_bits;
	uint64_t last = (host_off + len_bytes - 1) >> map->cluster_bits;

	for (uint64_t c = first; len_bytes && c <= last; c++) {
		struct overlap_page *page = get_page(map, c >> PAGE_CLUSTERS_BITS);

		if (!page)
			return -ENOMEM;
		page->bits[c % PAGE_CLUSTERS / 64] |= 1ull << c % 64;
	}
	return 0;
}

void overlap_remove(struct overlap *map, uint64_t host_off, uint64_t len_bytes)
{
	uint64_t first = host_off >> map->cluster_bits;
	uint64_t last = (host_off + len_bytes - 1) >> map->cluster_bits;

	for (uint64_t c = first; len_bytes && c <= last; c++) {
		struct overlap_page *page = find_page(map, c >> PAGE_CLUSTERS_BITS);

		if (page)
			page->bits[c % PAGE_CLUSTERS / 64] &= ~(1ull << c % 64);
	}
}

bool overlap_hits(const struct overlap *map, uint64_t host_off, uint64_t len_bytes)
{
	uint64_t first = host_off >> map->cluster_bits;
	uint64_t last = (host_off + len_bytes - 1) >> map->cluster_bits;

	for (uint64_t c = first; c <= last; c++) {
		const struct overlap_page *page = find_page(map, c >> PAGE_CLUSTERS_BITS);

		if (!page)
			c |= PAGE_CLUSTERS - 1; /* nothing in the whole page */
		else if (page->bits[c % PAGE_CLUSTERS / 64] >> c % 64 & 1)
			return true;
	}
	return false;
}

/* ---- building ---- */

struct build {
	struct image *image;
	struct overlap *map;  /* everything */
	struct overlap fixed; /* all but L2 tables, which snapshots may share */
	/* Less than a cluster behind the file's last sector: metadata ends there at the latest.
	 * The last cluster need not be complete, or even begun, as in QEMU and in core/check. */
	uint64_t end;
};

static bool is_inside(const struct build *build, uint64_t host_off, uint64_t len_bytes)
{
	return len_bytes <= build->end && host_off <= build->end - len_bytes;
}

/* Adds something of which there is one: it may not lie on anything added before. */
static int add_fixed(struct build *build, uint64_t host_off, uint64_t len_bytes)
{
	int ret;

	if (!len_bytes)
		return 0;
	if (!is_inside(build, host_off, len_bytes) || overlap_hits(build->map, host_off, len_bytes))
		return -EUCLEAN;
	ret = overlap_add(build->map, host_off, len_bytes);
	return ret ? ret : overlap_add(&build->fixed, host_off, len_bytes);
}

static bool is_cluster_inside(const struct build *build, uint64_t host_off)
{
	return is_inside(build, host_off, cluster_size(build->image));
}

static int add_refblock(struct build *build, uint64_t host_off)
{
	return is_cluster_inside(build, host_off) ? add_fixed(build, host_off, 1) : -EUCLEAN;
}

/* An L2 table of the active tree, which names it once. */
static int add_l2(struct build *build, uint64_t host_off)
{
	if (!is_cluster_inside(build, host_off) || overlap_hits(build->map, host_off, 1))
		return -EUCLEAN;
	return overlap_add(build->map, host_off, 1);
}

static int add_shared_l2(struct build *build, uint64_t host_off)
{
	if (!is_cluster_inside(build, host_off) || overlap_hits(&build->fixed, host_off, 1))
		return -EUCLEAN;
	return overlap_add(build->map, host_off, 1);
}

/* Calls add() for each entry of a table: L2 tables of an L1, or refcount blocks. */
static int coroutine_fn add_targets(struct build *build, uint64_t table_off, uint64_t nb_entries,
				    uint64_t mask, enum io_tag tag,
				    int (*add)(struct build *build, uint64_t host_off))
{
	struct file *file = build->image->file;
	uint8_t *buf = buf_get(TABLE_STEP_BYTES);
	int ret = buf ? 0 : -ENOMEM;

	for (uint64_t done = 0; done < nb_entries && !ret;) {
		uint64_t nb = min_u64(nb_entries - done, TABLE_STEP_BYTES / 8);

		ret = file_read(file, table_off + done * 8, buf, nb * 8, tag);
		for (uint64_t i = 0; i < nb && !ret; i++) {
			uint64_t target = be64_get(buf + i * 8) & mask;

			if (target)
				ret = add(build, target);
		}
		done += nb;
	}
	buf_put(buf, TABLE_STEP_BYTES);
	return ret;
}

static int coroutine_fn build_all(struct build *build)
{
	const struct snapshot_list *list = &build->image->snapshots;
	const struct header *h = &build->image->header;
	uint64_t reftable_bytes = (uint64_t)h->refcount_table_clusters << h->cluster_bits;
	uint64_t snapshot_l1_bytes = 0;
	int ret = add_fixed(build, 0, 1);

	if (!ret)
		ret = add_fixed(build, h->l1_table_offset, (uint64_t)h->l1_size * 8);
	if (!ret)
		ret = add_fixed(build, h->refcount_table_offset, reftable_bytes);
	if (!ret)
		ret = add_fixed(build, h->snapshots_offset, list->table_bytes);
	if (!ret && h->has_bitmaps)
		ret = add_fixed(build, h->bitmap_directory_offset, h->bitmap_directory_size);
	for (unsigned i = 0; i < list->nb && !ret; i++) {
		uint64_t l1_bytes = (uint64_t)list->snapshots[i].l1_size * 8;

		snapshot_l1_bytes += l1_bytes;
		ret = snapshot_l1_bytes > SNAPSHOT_L1_BYTES_MAX
			      ? -EFBIG
			      : add_fixed(build, list->snapshots[i].l1_table_offset, l1_bytes);
	}
	if (!ret)
		ret = add_targets(build, h->refcount_table_offset, reftable_bytes / 8,
				  REFTABLE_OFFSET_MASK, IO_TAG_REFTABLE, add_refblock);
	if (!ret)
		ret = add_targets(build, h->l1_table_offset, h->l1_size, L1_OFFSET_MASK, IO_TAG_L1,
				  add_l2);
	for (unsigned i = 0; i < list->nb && !ret; i++)
		ret = add_targets(build, list->snapshots[i].l1_table_offset,
				  list->snapshots[i].l1_size, L1_OFFSET_MASK, IO_TAG_L1,
				  add_shared_l2);
	return ret;
}

int coroutine_fn overlap_build(struct overlap *map, struct image *image)
{
	struct build build = {
		.image = image,
		.map = map,
		.end = round_up(image->file->size_bytes, SECTOR_BYTES) + cluster_size(image) - 1,
	};
	int ret;

	overlap_init(&build.fixed, image->cluster_bits);
	ret = build_all(&build);
	overlap_finish(&build.fixed);
	if (ret)
		overlap_finish(map);
	return ret;
}
