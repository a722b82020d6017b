/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * fuzz_diff: the input is an image, which the core and the reference reader read. Where
 * both give data it is equal; where the specification forbids what is there, the core
 * gives no data; an image that the specification knows no size of is not opened.
 */
#include "test/fuzz/reference.h"
#include "test/fuzz/world.h"

#include "core/image.h"

#include <string.h>

#define UNITS_MAX 400u

struct comparison {
	struct world *world;
	struct reference ref;
	enum verdict verdict;
};

/* The first 4 KiB of a unit are enough. */
static uint64_t piece_bytes(const struct reference *ref, uint64_t guest_off)
{
	uint64_t n = reference_unit(ref, guest_off);

	if (n > ref->size - guest_off)
		n = ref->size - guest_off;
	return n < 4096 ? n : 4096;
}

static void coroutine_fn compare_piece(const struct comparison *comparison, struct image *image,
				       uint64_t guest_off)
{
	uint8_t ours[4096], theirs[4096];
	uint64_t n = piece_bytes(&comparison->ref, guest_off);
	enum verdict verdict = reference_read(&comparison->ref, guest_off, theirs, n);

	memset(ours, 0xdb, n);
	if (image_read(image, guest_off, ours, n, NULL) || verdict == VERDICT_UNSURE)
		return;
	if (verdict == VERDICT_BAD)
		broken("data at %llu, where there must be none", (unsigned long long)guest_off);
	if (memcmp(ours, theirs, n) != 0)
		broken("other data at %llu", (unsigned long long)guest_off);
}

static void coroutine_fn compare(void *arg)
{
	struct comparison *comparison = arg;
	const struct reference *ref = &comparison->ref;
	const struct image_options options = {0};
	struct image *image;
	uint64_t pos = 0;

	if (image_open(&comparison->world->disk->opener, WORLD_IMAGE, &options, &image, NULL))
		return;
	if (comparison->verdict == VERDICT_BAD)
		broken("the image is opened");
	if (comparison->verdict == VERDICT_GOOD) {
		if (image_info(image)->virtual_size != ref->size)
			broken("another size");
		for (unsigned i = 0; i < UNITS_MAX && pos < ref->size; i++) {
			compare_piece(comparison, image, pos);
			pos += reference_unit(ref, pos);
		}
		if (ref->size)
			compare_piece(comparison, image, ref->size - 1);
	}
	image_close(image);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct comparison comparison = {.world = world_get(), .ref.image = {data, size}};
	struct disk *disk = comparison.world->disk;

	world_put_image(comparison.world, data, size);
	comparison.ref.backing_file =
		(struct reference_bytes){disk->files[1].data, disk->files[1].size};
	comparison.ref.data_file =
		(struct reference_bytes){disk->files[2].data, disk->files[2].size};
	comparison.verdict = reference_open(&comparison.ref);
	world_run(comparison.world, compare, &comparison);
	world_clear(comparison.world);
	return 0;
}
