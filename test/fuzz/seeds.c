/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * seeds: writes what the fuzzers start from, so that none of it has to be kept.
 *
 *   seeds FOLDER   FOLDER/open, diff, ops, inflate, message
 *
 * Images: the kinds of test/hostile, every hostile image that has a name, and images that core/
 * itself formats and fills: small clusters, every width of refcounts, with a backing file
 * or a data file, and with a snapshot.
 */
#include "test/fuzz/world.h"

#include "core/create.h"
#include "core/image.h"
#include "core/snapshot_edit.h"
#include "test/hostile/cases.h"

#include <linux/fuse.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>
#ifndef NO_ZSTD
#include <zstd.h>
#endif

/* Larger ones make a fuzzer slow, and no branch of the core needs them. */
#define SEED_BYTES_MAX (64u << 10)
#define OPS_PER_IMAGE 12u

static const char *folder;
static uint64_t random_state = 1;

static uint64_t next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static void write_seed(const char *target, unsigned number, const uint8_t *data, size_t size)
{
	char path[1024];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s/seed-%05u", folder, target, number);
	file = fopen(path, "wb");
	if (!file || fwrite(data, 1, size, file) != size || fclose(file))
		broken("%s cannot be written", path);
}

/* ---- images ---- */

static void write_image(const uint8_t *data, size_t size)
{
	static unsigned number;
	uint8_t *with_ops;

	if (!size || size > SEED_BYTES_MAX)
		return;
	write_seed("open", number, data, size);
	write_seed("diff", number, data, size);
	with_ops = malloc(size + OPS_PER_IMAGE * 8 + 1);
	if (!with_ops)
		broken("no memory");
	memcpy(with_ops, data, size);
	for (unsigned i = 0; i < OPS_PER_IMAGE; i++) {
		uint64_t op = next_random();

		memcpy(with_ops + size + i * 8, &op, 8);
	}
	with_ops[size + OPS_PER_IMAGE * 8] = OPS_PER_IMAGE;
	write_seed("ops", number++, with_ops, size + OPS_PER_IMAGE * 8 + 1);
	free(with_ops);
}

static void write_hostile_images(void)
{
	static struct bundle bundle;
	static struct seed seed;

	for (unsigned i = 0; i < nb_seed_kinds; i++) {
		seed_build(&seed_kinds[i], &seed);
		write_image(seed.data, seed.stored);
		seed_free(&seed);
	}
	for (unsigned i = 0; cases_make(i, &bundle); i++) {
		write_image(bundle.image.data, bundle.image.stored);
		bundle_free(&bundle);
	}
}

static void coroutine_fn fill_image(struct image *image)
{
	static uint8_t buf[3000];

	for (unsigned i = 0; i < 12; i++) {
		uint64_t len = 1 + next_random() % sizeof(buf);
		uint64_t off = next_random() % (image_info(image)->virtual_size - len);

		memset(buf, (int)i + 1, sizeof(buf));
		if (i % 4 == 3)
			image_zero(image, off, len, i & 1);
		else if (i % 6 == 5)
			image_discard(image, off, len);
		else
			image_write(image, off, buf, len);
	}
}

static void coroutine_fn make_image(void *arg)
{
	const struct create_params *params = arg;
	const struct image_options options = {.writable = true};
	struct world *world = world_get();
	struct disk_file *disk_file = &world->disk->files[0];
	struct disk_file *data_disk_file = &world->disk->files[2];
	struct file *file, *data_file = NULL;
	struct image *image;

	if (file_create_virtual(world->reactor, WORLD_IMAGE, disk_file, 0, 512, true, &file))
		broken("no memory");
	if (params->data_name && file_create_virtual(world->reactor, WORLD_DATA, data_disk_file,
						     data_disk_file->size, 512, true, &data_file))
		broken("no memory");
	if (create_format(file, data_file, params, NULL))
		broken("an image cannot be formatted");
	file_close(file);
	file_close(data_file);
	if (image_open(&world->disk->opener, WORLD_IMAGE, &options, &image, NULL))
		broken("a new image cannot be opened");
	fill_image(image);
	if (params->refcount_order && !params->data_name)
		snapshot_create(image, "one", 1, 2, NULL);
	fill_image(image);
	if (image_close(image))
		broken("a new image cannot be closed");
	write_image(disk_file->data, disk_file->size);
}

static void write_created_images(void)
{
	for (unsigned i = 0; i < 84; i++) {
		unsigned order = i % 7;
		struct create_params params = {
			.virtual_size = 40000 + i * 512,
			.version = i / 7 % 4 ? 3 : 2,
			.cluster_bits = i / 7 % 6 == 5 ? 14 : 9 + i / 28,
			.refcount_order = i / 7 % 4 ? order : 4,
			.extended_l2 = i / 7 % 6 == 5 && i / 7 % 4,
			.lazy_refcounts = i / 7 % 4 == 2,
			.backing_name = i % 3 == 1 ? WORLD_BACKING : NULL,
			.backing_format = i % 3 == 1 ? "raw" : NULL,
			.data_name = i % 5 == 1 && i / 7 % 4 ? WORLD_DATA : NULL,
			.data_raw = i % 10 == 1 && i % 3 != 1,
			.preallocation =
				i % 11 == 3 && i % 3 != 1 ? PREALLOC_METADATA : PREALLOC_OFF,
		};

		world_put_image(world_get(), NULL, 0);
		world_run(world_get(), make_image, &params);
	}
	world_clear(world_get());
}

/* ---- compressed data ---- */

static void write_streams(void)
{
	static uint8_t plain[128u << 10], packed[160u << 10];
	unsigned number = 0;

	for (unsigned bits = 9; bits <= 17; bits++) {
		size_t bytes = 1u << bits;

		for (size_t i = 0; i < bytes; i++)
			plain[i] = (uint8_t)(i / 7 + (next_random() % 50 == 0));
		for (unsigned level = 0; level <= 9; level += 3) {
			z_stream z = {.next_in = plain,
				      .avail_in = bytes,
				      .next_out = packed + 1,
				      .avail_out = sizeof(packed) - 1};

			deflateInit2(&z, level, Z_DEFLATED, -12, 9, level == 3 ? Z_FIXED : 0);
			deflate(&z, Z_FINISH);
			packed[0] = (bits - 9) | (level & 7) << 5;
			write_seed("inflate", number++, packed, 1 + z.total_out);
			deflateEnd(&z);
		}
#ifndef NO_ZSTD
		packed[0] = (bits - 9) | 16;
		write_seed("inflate", number++, packed,
			   1 + ZSTD_compress(packed + 1, sizeof(packed) - 1, plain, bytes, 3));
#endif
	}
}

/* ---- messages ---- */

static void write_messages(void)
{
	static const uint8_t opcodes[] = {
		FUSE_LOOKUP,  FUSE_GETATTR,     FUSE_SETATTR,         FUSE_OPEN,       FUSE_READ,
		FUSE_WRITE,   FUSE_FLUSH,       FUSE_RELEASE,         FUSE_FSYNC,      FUSE_READDIR,
		FUSE_STATFS,  FUSE_READDIRPLUS, FUSE_GETXATTR,        FUSE_LISTXATTR,  FUSE_LSEEK,
		FUSE_OPENDIR, FUSE_FALLOCATE,   FUSE_COPY_FILE_RANGE, FUSE_RELEASEDIR, FUSE_DESTROY,
	};

	for (unsigned i = 0; i < sizeof(opcodes); i++) {
		uint8_t record[1 + 2 * (4 + 48 + 32)] = {(uint8_t)i};
		uint8_t *first = record + 1, *second = first + 4 + 48 + 32;

		first[0] = FUSE_OPEN;
		first[1] = second[1] = 2;
		first[3] = second[3] = 32;
		first[4] = 2; /* O_RDWR */
		second[0] = opcodes[i];
		if (opcodes[i] == FUSE_LOOKUP || opcodes[i] == FUSE_READDIR)
			second[1] = 1;
		second[4 + 17] = 16; /* the length, in most structures */
		if (opcodes[i] == FUSE_WRITE)
			second[4 + 17] = 0, second[4 + 16] = 20;
		snprintf((char *)second + 4 + 48, 32, "%s",
			 opcodes[i] == FUSE_LOOKUP ? "a.raw" : "user.qcow2fs.stats");
		write_seed("message", i, record, sizeof(record));
	}
}

int main(int argc, char **argv)
{
	static const char *const targets[] = {"open", "diff", "ops", "inflate", "message"};

	if (argc != 2) {
		fputs("usage: seeds FOLDER\n", stderr);
		return 2;
	}
	folder = argv[1];
	mkdir(folder, 0777);
	for (unsigned i = 0; i < sizeof(targets) / sizeof(targets[0]); i++) {
		char path[1024];

		snprintf(path, sizeof(path), "%s/%s", folder, targets[i]);
		mkdir(path, 0777);
	}
	write_hostile_images();
	write_created_images();
	write_streams();
	write_messages();
	return 0;
}
