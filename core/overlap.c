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

/* Adds one cluster for each entry of a table: L2 tables of an L1, or refcount blocks. */
static int coroutine_fn add_table_targets(struct overlap *map, struct image *image,
					  uint64_t table_off, uint64_t nb_entries, uint64_t mask,
					  enum io_tag tag)
{
	uint8_t *buf = buf_get(TABLE_STEP_BYTES);
	int ret = buf ? 0 : -ENOMEM;

	for (uint64_t done = 0; done < nb_entries && !ret;) {
		uint64_t nb = min_u64(nb_entries - done, TABLE_STEP_BYTES / 8);

		/* Beyond the end of the file there are only zeros. */
		if (table_off + done * 8 >= image->file->size_bytes)
			break;
		ret = file_read(image->file, table_off + done * 8, buf, nb * 8, tag);
		for (uint64_t i = 0; i < nb && !ret; i++) {
			uint64_t target = be64_get(buf + i * 8) & mask;

			if (target)
				ret = overlap_add(map, target, 1);
		}
		done += nb;
	}
	buf_put(buf, TABLE_STEP_BYTES);
	return ret;
}

static int coroutine_fn add_l1(struct overlap *map, struct image *image, uint64_t l1_off,
			       uint32_t l1_size)
{
	int ret = overlap_add(map, l1_off, (uint64_t)l1_size * 8);

	if (!ret)
		ret = add_table_targets(map, image, l1_off, l1_size, L1_OFFSET_MASK, IO_TAG_L1);
	return ret;
}

int coroutine_fn overlap_build(struct overlap *map, struct image *image)
{
	const struct header *h = &image->header;
	uint64_t reftable_bytes = (uint64_t)h->refcount_table_clusters << h->cluster_bits;
	int ret = overlap_add(map, 0, 1);

	if (!ret)
		ret = add_l1(map, image, h->l1_table_offset, h->l1_size);
	if (!ret)
		ret = overlap_add(map, h->refcount_table_offset, reftable_bytes);
	if (!ret)
		ret = add_table_targets(map, image, h->refcount_table_offset, reftable_bytes / 8,
					REFTABLE_OFFSET_MASK, IO_TAG_REFTABLE);
	if (!ret && image->snapshots.nb)
		ret = overlap_add(map, h->snapshots_offset, image->snapshots.table_bytes);
	for (unsigned i = 0; i < image->snapshots.nb && !ret; i++)
		ret = add_l1(map, image, image->snapshots.snapshots[i].l1_table_offset,
			     image->snapshots.snapshots[i].l1_size);
	if (!ret && h->has_bitmaps)
		ret = overlap_add(map, h->bitmap_directory_offset, h->bitmap_directory_size);
	return ret;
}
