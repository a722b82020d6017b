/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * rebase: see rebase.h.
 *
 * The first cluster holds: header, extensions, name. The header and the backing format
 * lie in the first sector, which is switched by one write (I2). So whatever else changes
 * must be in place before, where nothing refers to it yet: the new name goes to the end of
 * the cluster, and extensions that reach beyond the first sector are written in advance if
 * the old ones do not. Where that cannot be, the names of features, which are a courtesy,
 * are left out.
 */
#include "core/rebase.h"

#include "core/flush.h"
#include "core/tree.h"

#include <errno.h>
#include <stdlib.h>

#define SECTOR HEADER_SECTOR_BYTES

struct rewrite {
	struct image *image;
	const char *name, *format;
	uint64_t cluster_bytes;
	uint8_t *old, *next;        /* the first cluster */
	uint64_t start;             /* of the extensions */
	uint64_t old_end, next_end; /* behind the extensions, their end mark included */
};

/*
 * Where the old extensions end: with a mark, or where the name of the backing file begins. They
 * were validated when the image was opened.
 */
static uint64_t find_old_end(const struct rewrite *r)
{
	const struct qcow2_header *h = (const struct qcow2_header *)r->old;
	uint64_t name_off = be64_get(&h->backing_file_offset);
	uint64_t off = r->start, end = name_off ? name_off : r->cluster_bytes;

	while (off + 8 <= end && be32_get(r->old + off) != EXT_END)
		off += 8 + round_up(be32_get(r->old + off + 4), 8);
	return min_u64(off + 8, end);
}

/* Appends one extension. 0 or -ENOSPC. */
static int append(struct rewrite *r, uint32_t type, const void *data, uint32_t len_bytes)
{
	uint64_t end = r->next_end + 8 + round_up(len_bytes, 8);

	if (end + 8 > r->cluster_bytes)
		return -ENOSPC;
	memset(r->next + r->next_end, 0, end - r->next_end);
	be32_put(r->next + r->next_end, type);
	be32_put(r->next + r->next_end + 4, len_bytes);
	memcpy(r->next + r->next_end + 8, data, len_bytes);
	r->next_end = end;
	return 0;
}

/* The new extensions: the format first, then the old ones as they are. 0 or -ENOSPC. */
static int compose(struct rewrite *r, bool with_names)
{
	int ret = 0;

	memcpy(r->next, r->old, r->cluster_bytes);
	r->next_end = r->start;
	if (r->format)
		ret = append(r, EXT_BACKING_FORMAT, r->format, strlen(r->format));
	for (uint64_t off = r->start; off + 8 < r->old_end && !ret;) {
		uint32_t type = be32_get(r->old + off), len = be32_get(r->old + off + 4);

		if (type != EXT_BACKING_FORMAT && (type != EXT_FEATURE_NAMES || with_names))
			ret = append(r, type, r->old + off + 8, len);
		off += 8 + round_up(len, 8);
	}
	if (ret)
		return ret;
	memset(r->next + r->next_end, 0, 8);
	r->next_end += 8;
	return 0;
}

/* Can the new extensions be switched to by writing the first sector alone? */
static bool one_sector_does(const struct rewrite *r)
{
	return r->next_end <= SECTOR || r->old_end <= SECTOR ||
	       !memcmp(r->old + SECTOR, r->next + SECTOR, r->next_end - SECTOR);
}

static bool overlaps(uint64_t a, uint64_t a_bytes, uint64_t b, uint64_t b_bytes)
{
	return a < b + b_bytes && b < a + a_bytes;
}

/* A place for a name of `len` bytes that neither extensions nor the given range use; 0: none. */
static uint64_t find_place(const struct rewrite *r, uint64_t len, uint64_t taken,
			   uint64_t taken_bytes)
{
	uint64_t floor = max_u64(r->old_end, r->next_end);
	uint64_t place = r->cluster_bytes;

	/* In one sector everything is switched at once. */
	if (r->cluster_bytes == SECTOR)
		return r->next_end + len <= SECTOR ? r->next_end : 0;
	if (len > place)
		return 0;
	place = round_down(place - len, 8);
	if (taken_bytes && overlaps(place, len, taken, taken_bytes)) {
		if (taken < len)
			return 0;
		place = round_down(taken - len, 8);
	}
	return place >= floor ? place : 0;
}

static int coroutine_fn write_at(struct rewrite *r, uint64_t off, const void *bytes, uint64_t len)
{
	return len ? file_write(r->image->file, off, bytes, len, IO_TAG_HEADER) : 0;
}

static int coroutine_fn write_first_sector(struct rewrite *r, const uint8_t *sector)
{
	int ret = file_flush(r->image->file); /* I2 */

	if (!ret)
		ret = write_at(r, 0, sector, SECTOR);
	return ret ? ret : file_flush(r->image->file);
}

static void put_name(uint8_t *sector, uint64_t off, uint64_t len)
{
	struct qcow2_header *h = (struct qcow2_header *)sector;

	be64_put(&h->backing_file_offset, len ? off : 0);
	be32_put(&h->backing_file_size, len);
}

/* Moves the old name out of the way of extensions that are to grow beyond the first sector. */
static int coroutine_fn move_old_name(struct rewrite *r, uint64_t *old_off, uint64_t old_len)
{
	uint64_t place;
	int ret;

	if (r->next_end <= SECTOR || !old_len ||
	    !overlaps(*old_off, old_len, SECTOR, r->next_end - SECTOR))
		return 0;
	place = find_place(r, old_len, *old_off, old_len);
	if (!place)
		return -ENOSPC;
	ret = write_at(r, place, r->old + *old_off, old_len);
	if (ret)
		return ret;
	put_name(r->old, place, old_len);
	*old_off = place;
	return write_first_sector(r, r->old);
}

static int coroutine_fn rewrite(struct rewrite *r)
{
	const struct qcow2_header *h = (const struct qcow2_header *)r->old;
	uint64_t old_off = be64_get(&h->backing_file_offset), len = r->name ? strlen(r->name) : 0;
	uint64_t old_len = old_off ? be32_get(&h->backing_file_size) : 0, place = 0;
	int ret = compose(r, true);

	if (ret || !one_sector_does(r) || !find_place(r, len, old_off, old_len))
		ret = compose(r, false);
	if (!ret && !one_sector_does(r))
		ret = -ENOSPC;
	if (!ret && r->cluster_bytes > SECTOR)
		ret = move_old_name(r, &old_off, old_len);
	if (!ret && len) {
		place = find_place(r, len, old_off, old_len);
		ret = place ? 0 : -ENOSPC;
	}
	if (ret)
		return ret;
	put_name(r->next, place, len);
	if (r->cluster_bytes == SECTOR) {
		memcpy(r->next + place, r->name ? r->name : "", len);
	} else {
		ret = write_at(r, place, r->name, len);
		if (!ret && r->next_end > SECTOR)
			ret = write_at(r, SECTOR, r->next + SECTOR, r->next_end - SECTOR);
	}
	return ret ? ret : write_first_sector(r, r->next);
}

/* Reads the first cluster, rewrites it, and the header in memory. 0 or -errno. */
static int coroutine_fn record(struct image *image, const char *name, const char *format)
{
	struct header *h = &image->header;
	struct rewrite r = {
		.image = image,
		.name = name,
		.format = name ? format : NULL,
		.cluster_bytes = cluster_size(image),
		.start = h->header_length,
	};
	struct header next;
	int ret;

	r.old = calloc(1, r.cluster_bytes);
	r.next = calloc(1, r.cluster_bytes);
	ret = r.old && r.next ? file_read(image->file, 0, r.old, r.cluster_bytes, IO_TAG_HEADER)
			      : -ENOMEM;
	if (!ret) {
		r.old_end = find_old_end(&r);
		ret = rewrite(&r);
	}
	free(r.old);
	free(r.next);
	if (ret)
		return ret;
	ret = header_read(image->file, &next, NULL);
	if (ret)
		return ret;
	header_finish(h);
	*h = next;
	image->info.backing_name = h->backing_name;
	image->info.backing_format = h->backing_format;
	image->info.data_name = h->data_name;
	return 0;
}

int coroutine_fn rebase_record(struct image *image, const char *name, const char *format,
			       struct error **reterr)
{
	struct writer *writer = image->writer;
	int ret;

	if (name && (!*name || strlen(name) > BACKING_NAME_MAX))
		return error_set(reterr, ERROR_OPEN, EINVAL,
				 "the backing file's name is empty or longer than 1023 bytes");
	if (name && has_raw_data_file(image))
		return error_set(reterr, ERROR_OPEN, EINVAL,
				 "data_file_raw excludes a backing file");
	if (format && strlen(format) > 15)
		return error_set(reterr, ERROR_OPEN, EINVAL, "the backing format is too long");
	co_rwlock_wrlock(&image->resize_lock);
	ret = writer ? writer_begin(writer) : -EROFS;
	if (!ret)
		ret = tree_settle(writer); /* what the guest sees is durable before its backing */
	if (!ret)
		ret = record(image, name, format);
	co_rwlock_unlock(&image->resize_lock);
	if (ret == -ENOSPC)
		return error_set(reterr, ERROR_SYSTEM, ENOSPC,
				 "the first cluster has no room for the name; convert the image");
	if (ret)
		return error_set(reterr, ERROR_SYSTEM, -ret, "cannot record the backing file: %s",
				 strerror(-ret));
	return 0;
}
