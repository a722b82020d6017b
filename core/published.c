/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * published: see published.h. A slot serves all clusters whose numbers end in its own: who comes
 * later takes it.
 */
#include "core/published.h"

#include "core/map.h"

#include <stdlib.h>

/* 2 MiB of slots, of which memory is taken as they are used. */
#define SLOT_BITS_MAX 16u

/* Clusters that are published when one of them was read: 512 bytes of an L2 table. */
#define NEIGHBOURS 64u

static struct published_slot *slot_of(const struct published *published, uint64_t cluster)
{
	return &published->slots[cluster & ((1ull << published->slot_bits) - 1)];
}

/* The number of the cluster in it, plus 1; 0: none. */
static uint64_t cluster_in(const struct published_slot *slot)
{
	return atomic_load_explicit(&slot->cluster, memory_order_relaxed);
}

static bool any_reads_at_once(const struct image *image)
{
	for (; image; image = image->backing)
		if (file_reads_at_once(image->data_file))
			return true;
	return false;
}

bool image_publish(struct image *image)
{
	struct published *published = &image->published;
	uint64_t nb_clusters = div_up(image->virtual_size, cluster_size(image));

	if (!any_reads_at_once(image))
		return false;
	while (published->slot_bits < SLOT_BITS_MAX && nb_clusters >> published->slot_bits > 1)
		published->slot_bits++;
	published->slots = calloc(1ull << published->slot_bits, sizeof(*published->slots));
	return published->slots;
}

void published_finish(struct published *published)
{
	free(published->slots);
	published->slots = NULL;
}

/* ---- the reactor's side ---- */

static void set_slot(struct published_slot *slot, uint64_t cluster, struct file *file,
		     uint64_t host_off)
{
	uint64_t version = atomic_load_explicit(&slot->version, memory_order_relaxed);

	/* P1: whoever sees anything that comes after the fence, in the slot or in a file, will
	 * also see that the version is another one. */
	atomic_store_explicit(&slot->version, version + 1, memory_order_relaxed);
	atomic_thread_fence(memory_order_release);
	atomic_store_explicit(&slot->cluster, cluster, memory_order_relaxed);
	atomic_store_explicit(&slot->file, file, memory_order_relaxed);
	atomic_store_explicit(&slot->host_off, host_off, memory_order_relaxed);
	atomic_store_explicit(&slot->version, version + 2, memory_order_release);
}

/*
 * Whether an extent tells where the whole cluster of the disk is. Tables of smaller clusters, and
 * bitmaps of subclusters, may say something else of its other parts.
 */
static bool tells_cluster(const struct image *image, const struct extent *extent)
{
	uint64_t end = round_down(extent->guest_off, cluster_size(image)) + cluster_size(image);

	for (const struct image *layer = image;; layer = layer->backing) {
		if (!layer->raw &&
		    (layer->cluster_bits < image->cluster_bits || layer->info.extended_l2))
			return false;
		if (end > layer->virtual_size)
			return false;
		if (layer == extent->layer)
			return true;
	}
}

/* The cluster that the extent begins in. False: the extent does not tell where it is. */
static bool publish(struct image *image, const struct extent *extent)
{
	uint64_t cluster = extent->guest_off >> image->cluster_bits;
	uint64_t inside = extent->guest_off & (cluster_size(image) - 1);

	if (extent->kind != EXTENT_DATA || !file_reads_at_once(extent->layer->data_file) ||
	    !tells_cluster(image, extent))
		return false;
	set_slot(slot_of(&image->published, cluster), cluster + 1, extent->layer->data_file,
		 extent->host_off - inside);
	return true;
}

/*
 * Whoever reads here will read more of it. What the slots have already stays, or where there are
 * more clusters than slots, reads would take them from one another for ever.
 */
static void publish_around(struct image *image, uint64_t cluster)
{
	uint64_t size = cluster_size(image), off = round_down(cluster, NEIGHBOURS) * size;
	uint64_t end = min_u64(off + NEIGHBOURS * size, image->virtual_size);
	struct extent extent;

	for (; off < end; off += size)
		if (!cluster_in(slot_of(&image->published, off >> image->cluster_bits)) &&
		    map_chain_loaded(image, off, min_u64(size, end - off), &extent) == 0)
			publish(image, &extent);
}

void published_note(struct image *image, const struct extent *extent, uint64_t since)
{
	const struct published *published = &image->published;
	uint64_t cluster = extent->guest_off >> image->cluster_bits, before;

	if (!published->slots)
		return;
	before = cluster_in(slot_of(published, cluster));
	if (before == cluster + 1 || published->nb_taken_back != since) /* P3 */
		return;
	/* In a free slot alone: so once, until something is taken back. */
	if (publish(image, extent) && !before)
		publish_around(image, cluster);
}

void published_take_back(struct image *image, uint64_t first, uint64_t nb)
{
	struct published *published = &image->published;
	uint64_t nb_slots = 1ull << published->slot_bits;

	published->nb_taken_back++;
	if (!published->slots)
		return;
	for (uint64_t i = 0; i < nb && i < nb_slots; i++) {
		struct published_slot *slot = slot_of(published, first + i);
		uint64_t cluster = cluster_in(slot);

		if (cluster && cluster - 1 - first < nb)
			set_slot(slot, 0, NULL, 0);
	}
}

/* ---- the side of who reads ---- */

/* The slot of the one cluster that the range lies in, or NULL. */
static const struct published_slot *slot_for(const struct image *image, uint64_t guest_off,
					     size_t len_bytes)
{
	const struct published *published = &image->published;
	uint64_t inside = guest_off & (cluster_size(image) - 1);

	if (!published->slots || len_bytes > cluster_size(image) - inside)
		return NULL;
	return slot_of(published, guest_off >> image->cluster_bits);
}

bool image_fits_beside(const struct image *image, uint64_t guest_off, size_t len_bytes)
{
	const struct published_slot *slot = slot_for(image, guest_off, len_bytes);

	return slot && cluster_in(slot) == (guest_off >> image->cluster_bits) + 1;
}

/* Returns the file that it was read from, or NULL. */
static struct file *read_published(const struct image *image, uint64_t guest_off, void *buf,
				   size_t len_bytes)
{
	const struct published_slot *slot = slot_for(image, guest_off, len_bytes);
	uint64_t cluster = guest_off >> image->cluster_bits;
	uint64_t inside = guest_off & (cluster_size(image) - 1);
	uint64_t version, host_off;
	struct file *file;

	if (!slot)
		return NULL;
	version = atomic_load_explicit(&slot->version, memory_order_acquire);
	if (version & 1 || cluster_in(slot) != cluster + 1)
		return NULL;
	file = atomic_load_explicit(&slot->file, memory_order_relaxed);
	host_off = atomic_load_explicit(&slot->host_off, memory_order_relaxed);
	/* What was copied while the slot changed is no place, nor a file perhaps. */
	atomic_thread_fence(memory_order_acquire);
	if (atomic_load_explicit(&slot->version, memory_order_relaxed) != version)
		return NULL;
	if (!file_read_at_once(file, host_off + inside, buf, len_bytes))
		return NULL;
	atomic_thread_fence(memory_order_acquire);
	if (atomic_load_explicit(&slot->version, memory_order_relaxed) != version) /* P4 */
		return NULL;
	return file;
}

bool image_read_beside(struct image *image, uint64_t guest_off, void *buf, size_t len_bytes)
{
	struct file *file = read_published(image, guest_off, buf, len_bytes);

	if (file)
		file_count_beside(file, len_bytes);
	return file;
}

bool image_read_at_once(struct image *image, uint64_t guest_off, void *buf, size_t len_bytes)
{
	struct file *file = read_published(image, guest_off, buf, len_bytes);

	if (!file)
		return false;
	file_count_at_once(file, len_bytes);
	image->stats.nb_reads++;
	image->stats.read_bytes += len_bytes;
	image->l2_cache.hits++;
	return true;
}
