/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * fuzz_ops: the input is an image with a list of operations behind it: its last byte is
 * their number, each takes OP_BYTES before that. The image is checked, opened for writing,
 * the operations are done, and a copy of what the guest should see is kept beside.
 *
 * What counts: nothing dies; a sound image stays sound, and shows what was written to it, then
 * and after it was opened again and repaired; a repaired image is found sound by the
 * next check, and repairing it once more writes nothing.
 */
#include "test/fuzz/world.h"

#include "core/check.h"
#include "core/image.h"
#include "core/snapshot_edit.h"

#include <stdlib.h>
#include <string.h>

#define OP_BYTES 8u
#define OPS_MAX 40u
/* Of the guest's bytes, the first ones have a copy. */
#define MODEL_BYTES (64u << 10)
#define SECTOR_BYTES 512u
#define WRITE_BYTES_MAX (20u << 10)
#define SIZE_MAX_GROWN (64ull << 20)
#define NB_SNAPSHOTS 2u

struct model {
	uint8_t bytes[MODEL_BYTES];
	bool known[MODEL_BYTES]; /* false: an error came between */
	uint64_t size;
	bool taken; /* of a snapshot */
};

struct run {
	struct world *world;
	struct image *image;
	struct bytes ops;
	bool sound; /* the check found nothing but leaks */
	struct model now;
	struct model snapshots[NB_SNAPSHOTS];
	struct check_report report;
};

static const char *const snapshot_names[NB_SNAPSHOTS] = {"fuzz-a", "fuzz-b"};

/* ---- the copy ---- */

static uint64_t clamp(uint64_t off)
{
	return off < MODEL_BYTES ? off : MODEL_BYTES;
}

static void model_set(struct model *model, uint64_t off, uint64_t len, uint8_t value, bool known)
{
	uint64_t end = clamp(off + len);

	off = clamp(off);
	memset(model->bytes + off, value, end - off);
	memset(model->known + off, known, end - off);
}

/* A damaged cluster fails its own bytes alone, so they are looked at by sectors. */
static void coroutine_fn model_load(struct run *run)
{
	struct model *model = &run->now;

	model->size = image_info(run->image)->virtual_size;
	for (uint64_t off = 0; off < clamp(model->size); off += SECTOR_BYTES) {
		uint64_t n = clamp(model->size) - off;
		bool known;

		if (n > SECTOR_BYTES)
			n = SECTOR_BYTES;
		known = !image_read(run->image, off, model->bytes + off, n, NULL);
		memset(model->known + off, known, n);
	}
}

static void coroutine_fn compare_sector(const struct model *model, struct image *image,
					uint64_t off, uint64_t len_bytes, const char *when)
{
	uint8_t buf[SECTOR_BYTES];
	int res = image_read(image, off, buf, len_bytes, NULL);

	for (uint64_t i = 0; i < len_bytes; i++) {
		if (model->known[off + i] && res)
			broken("%s: %llu cannot be read", when, (unsigned long long)off);
		if (model->known[off + i] && model->bytes[off + i] != buf[i])
			broken("%s: other data at %llu", when, (unsigned long long)(off + i));
	}
}

static void coroutine_fn model_compare(const struct run *run, struct image *image, const char *when)
{
	uint64_t size = image_info(image)->virtual_size, end = clamp(size);

	if (!run->sound)
		return;
	if (size != run->now.size)
		broken("%s: another size", when);
	for (uint64_t off = 0; off < end; off += SECTOR_BYTES)
		compare_sector(&run->now, image, off,
			       end - off < SECTOR_BYTES ? end - off : SECTOR_BYTES, when);
}

/* ---- operations ---- */

static struct image *coroutine_fn open_image(struct run *run, bool writable)
{
	const struct image_options options = {.writable = writable};
	struct image *image = NULL;

	if (image_open(&run->world->disk->opener, WORLD_IMAGE, &options, &image, NULL))
		return NULL;
	return image;
}

static void coroutine_fn do_write(struct run *run, uint64_t off, uint64_t len, uint8_t fill)
{
	static uint8_t buf[WRITE_BYTES_MAX];

	memset(buf, fill, len);
	model_set(&run->now, off, len, fill, !image_write(run->image, off, buf, len));
}

static void coroutine_fn do_read(struct run *run, uint64_t off, uint64_t len)
{
	static uint8_t buf[WRITE_BYTES_MAX];
	struct map_extent extent;
	uint64_t found;

	image_read(run->image, off, buf, len, NULL);
	image_map(run->image, off, len, &extent);
	image_seek(run->image, off, UINT64_MAX, len & 1, &found);
}

static void coroutine_fn do_resize(struct run *run, uint64_t size)
{
	struct model *model = &run->now;
	uint64_t old = image_info(run->image)->virtual_size;
	int res;

	/* What a large image can grow to costs time, and shows nothing new. */
	if (size > SIZE_MAX_GROWN && size > old)
		return;
	res = image_resize(run->image, size);
	size = image_info(run->image)->virtual_size;
	if (size > old)
		model_set(model, old, size - old, 0, true);
	/* A cut that failed has discarded some of it perhaps. */
	else if (res)
		model_set(model, 0, MODEL_BYTES, 0, false);
	model->size = size;
}

static void coroutine_fn do_snapshot(struct run *run, unsigned action, unsigned slot)
{
	struct model *saved = &run->snapshots[slot];
	const char *name = snapshot_names[slot];

	switch (action) {
	case 0:
		if (!saved->taken && !snapshot_create(run->image, name, 1, 2, NULL)) {
			*saved = run->now;
			saved->taken = true;
		}
		break;
	case 1:
		if (!saved->taken)
			break;
		if (snapshot_apply(run->image, name, NULL)) {
			run->sound = false; /* either state may be there */
		} else {
			run->now = *saved;
			run->now.taken = false;
		}
		break;
	case 2:
		if (saved->taken && !snapshot_delete(run->image, name, NULL))
			saved->taken = false;
		break;
	}
}

static void coroutine_fn do_reopen(struct run *run)
{
	if (image_close(run->image))
		run->sound = false;
	run->image = open_image(run, true);
	if (!run->image && run->sound)
		broken("a sound image cannot be opened again");
}

static void coroutine_fn do_op(struct run *run)
{
	uint64_t kind = bytes_take(&run->ops, 1), off = bytes_take(&run->ops, 3);
	uint64_t len = bytes_take(&run->ops, 2), arg = bytes_take(&run->ops, 2);
	uint64_t size = image_info(run->image)->virtual_size;
	int res;

	if (kind % 16 < 12) {
		len = 1 + len % WRITE_BYTES_MAX;
		if (len > size)
			return;
		off = off & 1 << 23 ? size - len - off % (size - len + 1) % 4096
				    : off % (size - len + 1) % MODEL_BYTES;
	}
	switch (kind % 16) {
	default:
		do_write(run, off, len, (uint8_t)arg);
		break;
	case 6:
		/* As much as it likes: ranges are cheap. */
		len += arg % 8 * 30000;
		if (len > size - off)
			len = size - off;
		res = image_discard(run->image, off, len);
		model_set(&run->now, off, len, 0, !res);
		break;
	case 7:
	case 8:
		res = image_zero(run->image, off, len, kind & 1);
		model_set(&run->now, off, len, 0, !res);
		break;
	case 9:
		image_allocate(run->image, off, len);
		break;
	case 10:
		do_read(run, off, len);
		break;
	case 11:
		image_flush(run->image);
		break;
	case 12:
		do_resize(run, off % (arg & 1 ? SIZE_MAX_GROWN : 2 * MODEL_BYTES));
		break;
	case 13:
	case 14:
		do_snapshot(run, arg % 3, arg / 3 % NB_SNAPSHOTS);
		break;
	case 15:
		do_reopen(run);
		break;
	}
}

/* ---- checks ---- */

static bool is_sound(const struct check_report *report)
{
	return !report->corruptions && !report->check_errors && !report->corrupt;
}

static bool coroutine_fn check_image(struct run *run, enum check_repair repair)
{
	const struct check_options options = {.repair = repair};
	struct disk_file *disk_file = &run->world->disk->files[0];
	struct error *error = NULL;
	struct file *file;
	int res;

	if (file_create_virtual(run->world->reactor, WORLD_IMAGE, disk_file, disk_file->size, 512,
				repair != CHECK_ONLY, &file))
		broken("no memory");
	res = check_run(file, &options, &run->report, &error);
	error_free(error);
	file_close(file);
	return res == 0;
}

static void coroutine_fn compare_again(struct run *run, const char *when)
{
	struct image *image = run->sound ? open_image(run, false) : NULL;

	if (!image && run->sound)
		broken("%s: a sound image cannot be opened", when);
	if (!image)
		return;
	model_compare(run, image, when);
	image_close(image);
}

static void coroutine_fn repair(struct run *run)
{
	const struct disk_file *file = &run->world->disk->files[0];
	uint64_t size;
	uint8_t *copy;

	if (!check_image(run, CHECK_REPAIR_LEAKS) || !check_image(run, CHECK_REPAIR_ALL))
		return;
	if (run->sound && (!is_sound(&run->report) || run->report.leaks))
		broken("a sound image is not so after a repair");
	compare_again(run, "after a repair");
	if (!is_sound(&run->report) || run->report.leaks)
		return;
	size = file->size;
	copy = malloc(file->stored + 1);
	if (!copy)
		broken("no memory");
	memcpy(copy, file->data, file->stored);
	if (!check_image(run, CHECK_REPAIR_ALL) || !is_sound(&run->report) || run->report.leaks)
		broken("a repaired image is found damaged");
	if (file->size != size || memcmp(copy, file->data, file->stored) != 0)
		broken("a second repair writes");
	free(copy);
}

static void coroutine_fn run_all(void *arg)
{
	struct run *run = arg;

	run->sound = check_image(run, CHECK_ONLY) && is_sound(&run->report);
	run->image = open_image(run, true);
	if (run->image) {
		model_load(run);
		while (run->ops.left && run->image)
			do_op(run);
	}
	if (run->image) {
		model_compare(run, run->image, "before closing");
		if (image_close(run->image))
			run->sound = false;
		if (run->sound && (!check_image(run, CHECK_ONLY) || !is_sound(&run->report)))
			broken("a sound image is damaged after writing");
		compare_again(run, "after closing");
	} else {
		run->sound = false;
	}
	repair(run);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct run run;
	size_t nb_ops = size ? data[size - 1] % OPS_MAX : 0;
	size_t ops_bytes = nb_ops * OP_BYTES, image_bytes;

	if (ops_bytes + 1 > size)
		return 0;
	image_bytes = size - 1 - ops_bytes;
	run.world = world_get();
	run.image = NULL;
	run.ops = (struct bytes){data + image_bytes, ops_bytes};
	for (unsigned i = 0; i < NB_SNAPSHOTS; i++)
		run.snapshots[i].taken = false;
	world_put_image(run.world, data, image_bytes);
	world_run(run.world, run_all, &run);
	world_clear(run.world);
	return 0;
}
