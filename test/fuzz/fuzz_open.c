/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * fuzz_open: the input is an image. It is opened for reading, mapped, read at both ends
 * and where the map shows something, each of its snapshots too, and checked. The disk
 * ends the process when a byte of it changes.
 */
#include "test/fuzz/world.h"

#include "core/check.h"
#include "core/image.h"

#include <stdlib.h>
#include <string.h>

#define READ_BYTES 16384u
#define READ_BUDGET (256u << 10)
#define MAP_STEPS_MAX 300u
#define SNAPSHOTS_TRIED 4u

static struct image *coroutine_fn open_image(struct world *world, const char *snapshot)
{
	const struct image_options options = {.snapshot = snapshot};
	struct error *error = NULL;
	struct image *image = NULL;

	if (image_open(&world->disk->opener, WORLD_IMAGE, &options, &image, &error)) {
		if (!error || !error->msg || !*error->msg || strchr(error->msg, '\n'))
			broken("refused without one clear line");
		image = NULL;
	}
	error_free(error);
	return image;
}

static void coroutine_fn read_image(struct image *image)
{
	static uint8_t buf[READ_BYTES];
	uint64_t size = image_info(image)->virtual_size, pos = 0, off, budget = READ_BUDGET;
	uint64_t n = size < READ_BYTES ? size : READ_BYTES;
	struct read_pieces pieces;

	image_read(image, 0, buf, n, &pieces);
	image_read(image, size - n, buf, n, NULL);
	image_seek(image, size / 2, UINT64_MAX, true, &off);
	image_seek(image, size / 2, UINT64_MAX, false, &off);
	image_host_sectors(image);
	for (unsigned i = 0; i < MAP_STEPS_MAX && pos < size; i++) {
		struct map_extent extent;

		if (image_map(image, pos, size - pos, &extent)) {
			pos += image_info(image)->cluster_size;
			continue;
		}
		if (extent.guest_off != pos || !extent.len_bytes || extent.len_bytes > size - pos)
			broken("the map leaves its range");
		n = extent.len_bytes < READ_BYTES ? extent.len_bytes : READ_BYTES;
		if (extent.kind != MAP_HOLE && n <= budget) {
			image_read(image, pos, buf, n, NULL);
			budget -= n;
		}
		pos += extent.len_bytes;
	}
}

static void coroutine_fn check_image(struct world *world)
{
	const struct check_options options = {.repair = CHECK_ONLY};
	struct disk_file *disk_file = &world->disk->files[0];
	struct check_report report;
	struct error *error = NULL;
	struct file *file;

	if (file_create_virtual(world->reactor, WORLD_IMAGE, disk_file, disk_file->size, 512, false,
				&file))
		broken("no memory");
	check_run(file, &options, &report, &error);
	error_free(error);
	file_close(file);
}

static void coroutine_fn run(void *arg)
{
	struct world *world = arg;
	struct image *image = open_image(world, NULL);

	check_image(world);
	if (!image)
		return;
	read_image(image);
	for (unsigned i = 0; i < image_nb_snapshots(image) && i < SNAPSHOTS_TRIED; i++) {
		struct image_snapshot snapshot;
		struct image *other;

		image_get_snapshot(image, i, &snapshot);
		other = open_image(world, snapshot.id);
		if (!other)
			continue;
		read_image(other);
		image_close(other);
	}
	image_close(image);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct world *world = world_get();

	world_put_image(world, data, size);
	world_run(world, run, world);
	world_clear(world);
	return 0;
}
