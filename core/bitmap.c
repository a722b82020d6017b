/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * bitmap: see bitmap.h. The directory is streamed entry by entry; only flag words and lengths
 * of tables are written, in place.
 */
#include "core/bitmap.h"

#include <errno.h>
#include <stdlib.h>

#define ZERO_STEP_BYTES 512u

/* ---- the directory ---- */

/* An entry, and where it is. */
struct place {
	struct qcow2_bitmap_dir_entry entry;
	uint64_t off;
	uint32_t index;
};

/* What is done to one entry. 0 or -errno. */
typedef int coroutine_fn (*entry_fn)(struct writer *writer, struct place *place, void *ctx);

/* Reads the directory's entry at *off, and moves *off to the next one. */
static int coroutine_fn read_entry(struct image *image, uint64_t *off,
				   struct qcow2_bitmap_dir_entry *ret_entry)
{
	const struct header *h = &image->header;
	uint64_t end = h->bitmap_directory_offset + h->bitmap_directory_size;
	uint64_t entry_bytes = sizeof(*ret_entry);
	int ret;

	if (*off > end || end - *off < entry_bytes || *off >= image->file->size_bytes)
		return -EIO;
	ret = file_read(image->file, *off, ret_entry, sizeof(*ret_entry), IO_TAG_BITMAP);
	entry_bytes +=
		(uint64_t)be16toh(ret_entry->name_size) + be32toh(ret_entry->extra_data_size);
	*off += round_up(entry_bytes, 8);
	return ret;
}

static int coroutine_fn for_each(struct image *image, entry_fn fn, void *ctx)
{
	uint64_t off = image->header.bitmap_directory_offset;
	int ret = 0;

	for (uint32_t i = 0; i < image->header.nb_bitmaps && !ret; i++) {
		struct place place = {.off = off, .index = i};

		ret = read_entry(image, &off, &place.entry);
		if (!ret)
			ret = fn(image->writer, &place, ctx);
	}
	return ret;
}

static bool is_in_use(const struct place *place)
{
	return be32toh(place->entry.flags) & BITMAP_FLAG_IN_USE;
}

/* Writes one word of the entry, which lies in one sector. */
static int coroutine_fn write_word(struct writer *writer, const struct place *place, size_t at,
				   uint32_t value)
{
	be32 word = htobe32(value);

	return file_write(writer->image->file, place->off + at, &word, sizeof(word), IO_TAG_BITMAP);
}

static int coroutine_fn set_in_use(struct writer *writer, const struct place *place, bool in_use)
{
	uint32_t flags = be32toh(place->entry.flags) & ~BITMAP_FLAG_IN_USE;

	return write_word(writer, place, offsetof(struct qcow2_bitmap_dir_entry, flags),
			  in_use ? flags | BITMAP_FLAG_IN_USE : flags);
}

/* ---- in use ---- */

static int coroutine_fn mark(struct writer *writer, struct place *place, void *ctx)
{
	bool *changed = ctx;

	if (is_in_use(place))
		return 0;
	*changed = true;
	return set_in_use(writer, place, true);
}

int coroutine_fn bitmap_mark_in_use(struct image *image)
{
	bool changed = false;
	int ret = for_each(image, mark, &changed);

	if (!ret && changed)
		ret = file_flush(image->file); /* I11 */
	return ret;
}

/* ---- a disk that grows ---- */

/* Entries of the bitmap's table for the new size. */
static uint64_t nb_wanted(const struct image *image, const struct place *place,
			  const struct bitmap_growth *growth)
{
	uint64_t nb_bits = div_up(growth->disk_bytes, 1ull << place->entry.granularity_bits);

	return div_up(div_up(nb_bits, 8), cluster_size(image));
}

/* Has the table this length, or room for it in its own clusters? */
static int coroutine_fn look_for_room(struct writer *writer, struct place *place, void *ctx)
{
	struct bitmap_growth *growth = ctx;
	const struct image *image = writer->image;
	uint64_t table_off = be64toh(place->entry.bitmap_table_offset);
	uint64_t nb = be32toh(place->entry.bitmap_table_size), nb_new, table_bytes, end;

	if (is_in_use(place))
		return 0;
	if (place->entry.granularity_bits >= 64)
		return -EIO;
	nb_new = nb_wanted(image, place, growth);
	if (nb_new == nb)
		return 0;
	table_bytes = round_up(nb * 8, cluster_size(image));
	if (nb_new < nb || nb_new * 8 > table_bytes || table_off & (cluster_size(image) - 1) ||
	    !table_off || checked_add(table_off, table_bytes, &end) ||
	    end > round_up(image->file->size_bytes, cluster_size(image)) ||
	    overlap_hits(&writer->overlap, table_off, table_bytes))
		growth->possible = false;
	return 0;
}

static int coroutine_fn mark_too_short(struct writer *writer, struct place *place, void *ctx)
{
	struct bitmap_growth *growth = ctx;

	if (is_in_use(place) ||
	    nb_wanted(writer->image, place, growth) == be32toh(place->entry.bitmap_table_size))
		return 0;
	if (!growth->grown)
		growth->grown = calloc(writer->image->header.nb_bitmaps, sizeof(bool));
	if (!growth->grown)
		return -ENOMEM;
	growth->grown[place->index] = true;
	return set_in_use(writer, place, true);
}

/* Nothing is dirty in what is new: entries of zeros. */
static int coroutine_fn extend_table(struct writer *writer, struct place *place, void *ctx)
{
	static const uint8_t zeros[ZERO_STEP_BYTES];
	const struct bitmap_growth *growth = ctx;
	uint64_t table_off = be64toh(place->entry.bitmap_table_offset);
	uint64_t pos = be32toh(place->entry.bitmap_table_size) * 8ull;
	uint64_t nb = nb_wanted(writer->image, place, growth), len_bytes;
	int ret = 0;

	if (!growth->grown[place->index])
		return 0;
	for (; pos < nb * 8 && !ret; pos += len_bytes) {
		len_bytes = min_u64(nb * 8 - pos, ZERO_STEP_BYTES);
		ret = file_write(writer->image->file, table_off + pos, zeros, len_bytes,
				 IO_TAG_BITMAP);
	}
	return ret ? ret
		   : write_word(writer, place,
				offsetof(struct qcow2_bitmap_dir_entry, bitmap_table_size), nb);
}

int coroutine_fn bitmap_begin_growth(struct writer *writer, uint64_t disk_bytes,
				     struct bitmap_growth *growth)
{
	struct image *image = writer->image;
	int ret;

	*growth = (struct bitmap_growth){.disk_bytes = disk_bytes, .possible = true};
	ret = for_each(image, look_for_room, growth);
	if (ret || !growth->possible)
		return ret;
	ret = for_each(image, mark_too_short, growth);
	if (!ret && growth->grown)
		ret = file_flush(image->file); /* I11: before a table has the wrong length */
	if (!ret && growth->grown)
		ret = for_each(image, extend_table, growth);
	return ret;
}

static int coroutine_fn unmark(struct writer *writer, struct place *place, void *ctx)
{
	const struct bitmap_growth *growth = ctx;

	if (!growth->grown[place->index])
		return 0;
	writer_note_write(writer);
	return set_in_use(writer, place, false);
}

int coroutine_fn bitmap_end_growth(struct writer *writer, struct bitmap_growth *growth, bool done)
{
	int ret = 0;

	if (growth->grown && done)
		ret = for_each(writer->image, unmark, growth);
	free(growth->grown);
	growth->grown = NULL;
	return ret;
}
