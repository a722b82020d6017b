/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * partitions: see partitions.h.
 */
#include "fuse/partitions.h"

#include "fuse/log.h"
#include "fuse/view.h"
#include "io/reactor.h"

#include <blkid.h>
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SECTOR_BYTES 512u
/* What is copied at both ends of the disk, and the longest table of GPT that is looked at. */
#define AREA_BYTES (1u << 20)
/* Logical partitions: sectors that refer to the next one. */
#define CHAIN_MAX 256u

#define MBR_TABLE 446u
#define MBR_ENTRY_BYTES 16u
#define MBR_TYPE 4u
#define MBR_START 8u
#define MBR_MAGIC 510u

#define GPT_MAGIC "EFI PART"
#define GPT_MAGIC_BYTES 8u
#define GPT_ENTRIES_LBA 72u
#define GPT_NB_ENTRIES 80u
#define GPT_ENTRY_BYTES 84u

struct copying {
	const struct tree_disk *disk;
	struct image *image;
	uint64_t size_bytes;
	int fd; /* the copy */
	unsigned sector_bytes;
	uint8_t *buf; /* AREA_BYTES */
	int res;
};

/* ---- the copy ---- */

/* Copies what of [off, off + len_bytes) lies on the disk, and leaves it in copying->buf. */
static int coroutine_fn copy_area(struct copying *copying, uint64_t off, uint64_t len_bytes)
{
	int res;

	memset(copying->buf, 0, AREA_BYTES);
	if (off >= copying->size_bytes || len_bytes == 0)
		return 0;
	if (len_bytes > copying->size_bytes - off)
		len_bytes = copying->size_bytes - off;
	res = image_read(copying->image, off, copying->buf, len_bytes, NULL);
	if (res == 0 &&
	    pwrite(copying->fd, copying->buf, len_bytes, (off_t)off) != (ssize_t)len_bytes)
		res = -ENOMEM;
	return res;
}

static uint32_t le32_at(const uint8_t *at)
{
	uint32_t value;

	memcpy(&value, at, sizeof(value));
	return le32toh(value);
}

static uint64_t le64_at(const uint8_t *at)
{
	uint64_t value;

	memcpy(&value, at, sizeof(value));
	return le64toh(value);
}

/*
 * Copies the entries that a GPT header at `off` refers to. A header that claims more than anybody
 * has is hidden from the library.
 */
static int coroutine_fn copy_gpt(struct copying *copying, uint64_t off, unsigned sector_bytes)
{
	static const uint8_t nothing[GPT_MAGIC_BYTES];
	uint64_t entries_off, len_bytes;
	int res = copy_area(copying, off, SECTOR_BYTES);

	if (res < 0 || memcmp(copying->buf, GPT_MAGIC, GPT_MAGIC_BYTES))
		return res;
	len_bytes = (uint64_t)le32_at(copying->buf + GPT_NB_ENTRIES) *
		    le32_at(copying->buf + GPT_ENTRY_BYTES);
	if (len_bytes > AREA_BYTES ||
	    __builtin_mul_overflow(le64_at(copying->buf + GPT_ENTRIES_LBA), sector_bytes,
				   &entries_off)) {
		if (pwrite(copying->fd, nothing, sizeof(nothing), (off_t)off) < 0)
			return -errno;
		return 0;
	}
	if (!copying->sector_bytes)
		copying->sector_bytes = sector_bytes;
	return copy_area(copying, entries_off, len_bytes);
}

/* The tables of GPT, at the beginning and the end; they tell how long a sector is. */
static int coroutine_fn copy_gpts(struct copying *copying)
{
	static const unsigned sizes[] = {512, 4096};
	int res = 0;

	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]) && res == 0; i++) {
		uint64_t nb_sectors = copying->size_bytes / sizes[i];

		if (nb_sectors < 2)
			continue;
		res = copy_gpt(copying, sizes[i], sizes[i]);
		if (res == 0)
			res = copy_gpt(copying, (nb_sectors - 1) * sizes[i], sizes[i]);
	}
	if (!copying->sector_bytes)
		copying->sector_bytes = SECTOR_BYTES;
	return res;
}

/* The start of an extended partition in the table of the sector in `buf`, or 0. */
static uint32_t find_extended(const uint8_t *buf)
{
	if (buf[MBR_MAGIC] != 0x55 || buf[MBR_MAGIC + 1] != 0xaa)
		return 0;
	for (unsigned i = 0; i < 4; i++) {
		const uint8_t *entry = buf + MBR_TABLE + i * MBR_ENTRY_BYTES;
		uint8_t type = entry[MBR_TYPE];

		if (type == 0x05 || type == 0x0f || type == 0x85)
			return le32_at(entry + MBR_START);
	}
	return 0;
}

/* Each logical partition has a sector of its own, which says where the next one is. */
static int coroutine_fn copy_logical(struct copying *copying)
{
	uint64_t first, at, next;
	int res = copy_area(copying, 0, SECTOR_BYTES);

	first = at = res == 0 ? find_extended(copying->buf) : 0;
	for (unsigned i = 0; res == 0 && at && i < CHAIN_MAX; i++) {
		res = copy_area(copying, at * copying->sector_bytes, SECTOR_BYTES);
		next = find_extended(copying->buf);
		at = next ? first + next : 0;
	}
	return res;
}

static int coroutine_fn copy_tables(struct copying *copying)
{
	uint64_t size_bytes = copying->size_bytes;
	int res = copy_area(copying, 0, AREA_BYTES);

	if (res == 0 && size_bytes > AREA_BYTES)
		res = copy_area(copying, size_bytes - AREA_BYTES, AREA_BYTES);
	if (res == 0)
		res = copy_gpts(copying);
	return res == 0 ? copy_logical(copying) : res;
}

static void coroutine_fn run_copying(void *arg)
{
	struct copying *copying = arg;
	struct view *view = copying->disk->view;

	if (view) {
		copying->res = view_acquire(view);
		if (copying->res < 0)
			return;
	}
	copying->image = view ? view_image(view) : copying->disk->image;
	copying->res = copy_tables(copying);
	if (view)
		view_release(view);
}

/* ---- what the library says ---- */

static void add_partition(struct partition_list *list, const struct tree_disk *disk,
			  unsigned number, uint64_t start, uint64_t nb_sectors)
{
	uint64_t size_bytes = disk->whole->size_bytes, start_bytes, len_bytes;

	if (__builtin_mul_overflow(start, SECTOR_BYTES, &start_bytes) ||
	    start_bytes >= size_bytes || nb_sectors == 0) {
		log_warning("%s: partition %u is empty, or lies beyond the end of the disk",
			    disk->host_path, number);
		return;
	}
	if (__builtin_mul_overflow(nb_sectors, SECTOR_BYTES, &len_bytes) ||
	    len_bytes > size_bytes - start_bytes) {
		log_warning("%s: partition %u reaches beyond the end of the disk; cut off there",
			    disk->host_path, number);
		len_bytes = size_bytes - start_bytes;
	}
	for (unsigned i = 0; i < list->nb; i++) {
		if (list->partitions[i].number == number)
			return;
	}
	list->partitions[list->nb++] = (struct partition){
		.number = number,
		.start_bytes = start_bytes,
		.len_bytes = len_bytes,
	};
}

static void take_list(blkid_partlist found, const struct tree_disk *disk,
		      struct partition_list *list)
{
	int nb = blkid_partlist_numof_partitions(found);

	for (int i = 0; i < nb; i++) {
		blkid_partition partition = blkid_partlist_get_partition(found, i);

		if (list->nb == PARTITIONS_MAX) {
			log_warning("%s: only the first %u partitions are shown", disk->host_path,
				    PARTITIONS_MAX);
			return;
		}
		add_partition(list, disk, (unsigned)blkid_partition_get_partno(partition),
			      (uint64_t)blkid_partition_get_start(partition),
			      (uint64_t)blkid_partition_get_size(partition));
	}
}

static int probe(const struct copying *copying, struct partition_list *list)
{
	blkid_probe prober = blkid_new_probe();
	blkid_partlist found;

	if (!prober)
		return -ENOMEM;
	if (blkid_probe_set_device(prober, copying->fd, 0, 0) == 0 &&
	    blkid_probe_set_sectorsize(prober, copying->sector_bytes) == 0) {
		found = blkid_probe_get_partitions(prober);
		if (found) {
			list->has_table = true;
			take_list(found, copying->disk, list);
		}
	}
	blkid_free_probe(prober);
	return 0;
}

int partitions_read(struct reactor *reactor, const struct tree_disk *disk,
		    struct partition_list *ret_list)
{
	struct copying copying = {.disk = disk, .size_bytes = disk->whole->size_bytes};
	int res = -ENOMEM;

	ret_list->nb = 0;
	ret_list->has_table = false;
	copying.buf = malloc(AREA_BYTES);
	copying.fd = memfd_create("qcow2fs-partitions", MFD_CLOEXEC);
	if (copying.fd >= 0 && copying.buf &&
	    ftruncate(copying.fd, (off_t)copying.size_bytes) == 0) {
		reactor_run(reactor, run_copying, &copying);
		res = copying.res;
	}
	if (res == 0)
		res = probe(&copying, ret_list);
	if (copying.fd >= 0)
		close(copying.fd);
	free(copying.buf);
	return res;
}
