/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * ahead: see ahead.h.
 */
#include "core/ahead.h"

#include "core/alloc.h"
#include "core/refcount.h"

#define AHEAD_CLUSTERS_MAX 32u
#define AHEAD_BYTES_MAX (2u << 20)
#define FEW_CLUSTERS 4u     /* per flush, at most, for taking ahead to pay */
#define FLUSHES_TO_RAISE 2u /* in a row, before refcounts are raised ahead */
#define FLUSHES_TO_ZERO 4u  /* and before zeros are written */

void ahead_note_flush(struct writer *writer)
{
	struct ahead *ahead = &writer->ahead;

	if (ahead->nb_needed > FEW_CLUSTERS)
		ahead->nb_flushes = 0;
	else if (ahead->nb_needed)
		ahead->nb_flushes++;
	ahead->nb_needed = 0;
}

uint64_t ahead_wanted(const struct writer *writer)
{
	uint64_t nb = AHEAD_BYTES_MAX >> writer->image->cluster_bits;

	if (writer->ahead.nb || writer->ahead.nb_flushes < FLUSHES_TO_RAISE)
		return 0;
	return max_u64(1, min_u64(nb, AHEAD_CLUSTERS_MAX));
}

void coroutine_fn ahead_keep(struct writer *writer, uint64_t first, uint64_t nb)
{
	struct ahead *ahead = &writer->ahead;
	struct image *image = writer->image;
	struct file *file = image->file;
	uint64_t host_off = first << image->cluster_bits;

	ahead->first = first;
	ahead->nb = nb;
	ahead->extends_file = false;
	/* Overwriting costs a disk's file system nothing; growing costs it a commit per barrier. */
	if (ahead->nb_flushes < FLUSHES_TO_ZERO || file->path != FILE_DIRECT ||
	    host_off < writer->zero_from)
		return;
	/* Nothing depends on it: whatever was not written reads as zeros as well. */
	ahead->extends_file = true;
	file_write_zeros(file, host_off, nb << image->cluster_bits, IO_TAG_DATA);
}

uint64_t ahead_take(struct writer *writer, uint64_t nb_min, uint64_t nb_max, uint64_t *ret_first)
{
	struct ahead *ahead = &writer->ahead;
	uint64_t nb = min_u64(ahead->nb, nb_max);

	if (!nb || nb < nb_min)
		return 0;
	*ret_first = ahead->first;
	ahead->first += nb;
	ahead->nb -= nb;
	ahead->used = true;
	return nb;
}

/*
 * Takes the zeros away again: the end of the file, when nothing else is there. Nobody allocates
 * there meanwhile.
 */
static void coroutine_fn free_space(struct writer *writer, uint64_t start, uint64_t end)
{
	struct file *file = writer->image->file;

	if (file->size_bytes <= end && writer->zero_from <= start)
		file_truncate(file, start);
	else
		file_punch(file, start, end - start);
}

static void coroutine_fn give_back(struct writer *writer)
{
	struct ahead *ahead = &writer->ahead;
	uint64_t first = ahead->first, nb = ahead->nb;
	unsigned bits = writer->image->cluster_bits;

	ahead->nb_flushes = 0;
	ahead->nb = 0;
	if (!nb || writer->failed)
		return;
	if (ahead->extends_file)
		free_space(writer, first << bits, (first + nb) << bits);
	if (refcount_set_run(writer, first, nb, 0))
		return;
	if (writer->tail == first + nb)
		writer->tail = first;
	alloc_scan_again(writer, first);
}

void coroutine_fn ahead_give_back(struct writer *writer)
{
	co_mutex_lock(&writer->alloc_mutex);
	give_back(writer);
	co_mutex_unlock(&writer->alloc_mutex);
}

bool coroutine_fn ahead_look(struct writer *writer)
{
	struct ahead *ahead = &writer->ahead;

	if (!ahead->used && ahead->nb)
		ahead_give_back(writer);
	ahead->used = false;
	return ahead->nb;
}
