/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* judge: judging one state of the files. See judge.h. */
#include "test/sim/judge.h"
#include "test/sim/verdict.h"

#include "core/format.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#define READ_CHUNK_BYTES (64u << 10)

static uint8_t chunk[READ_CHUNK_BYTES];

static bool is_dirty(const struct sim_disk *disk)
{
	const struct sim_bytes *bytes = &disk->files[0].bytes;
	const struct qcow2_header *header = (const struct qcow2_header *)bytes->data;

	return bytes->size >= sizeof(*header) && be32_get(&header->version) >= 3 &&
	       (be64_get(&header->incompatible_features) & INCOMPAT_DIRTY);
}

/* Judges what the guest sees, or compares it with what it saw before. */
static void coroutine_fn judge_guest(struct judge *judge, struct image *image, bool again)
{
	uint64_t size = image_info(image)->virtual_size;

	if (again && size / SIM_SECTOR != judge->nb_sectors)
		verdict_fail("the repair changes the size of the disk");
	if (!again && !model_judge_size(judge->model, (unsigned)(size / SIM_SECTOR), judge->now,
					judge->floor))
		return;
	judge->nb_sectors = (unsigned)(size / SIM_SECTOR);
	for (uint64_t off = 0; off < size && !verdict_failed(); off += READ_CHUNK_BYTES) {
		uint64_t len = size - off < READ_CHUNK_BYTES ? size - off : READ_CHUNK_BYTES;
		int err;

		memset(chunk, 0x5a, len);
		err = image_read(image, off, chunk, len, NULL);
		if (err)
			verdict_fail("after the crash: reading at %llu fails: %s",
				     (unsigned long long)off, strerror(-err));
		for (uint64_t i = 0; i < len / SIM_SECTOR && !verdict_failed(); i++) {
			unsigned lba = (unsigned)(off / SIM_SECTOR + i);
			content_t content = CONTENT_ZERO;

			model_judge_sector(judge->model, lba, chunk + i * SIM_SECTOR, judge->now,
					   judge->floor, false, &content);
			if (again && content != judge->contents[lba])
				verdict_fail("the repair changes sector %u", lba);
			judge->contents[lba] = content;
		}
	}
}

static void coroutine_fn judge_open(struct judge *judge, bool again)
{
	struct image_options options = {.writable = true};
	struct sim_disk *disk = judge->sim->disk;
	struct error *error = NULL;
	struct image *image;
	bool dirty = is_dirty(disk);
	unsigned nb_changes = disk->nb_changes;
	int err = image_open(&disk->opener, CELL_IMAGE_NAME, &options, &image, &error);

	if (err) {
		verdict_fail("after the crash: the image does not open: %s",
			     error ? error->msg : strerror(-err));
		error_free(error);
		return;
	}
	judge_guest(judge, image, again);
	err = image_close(image);
	if (err)
		verdict_fail("after the crash: closing fails: %s", strerror(-err));
	if (!dirty && disk->nb_changes != nb_changes)
		verdict_fail("opening and reading writes to an image that is not dirty");
	if (is_dirty(disk))
		verdict_fail("the image is still marked dirty after a writable open");
}

static void coroutine_fn judge_snapshot(struct judge *judge)
{
	struct image_options options = {.snapshot = "one"};
	struct error *error = NULL;
	struct image *image;
	uint64_t size;
	int err = image_open(&judge->sim->disk->opener, CELL_IMAGE_NAME, &options, &image, &error);

	if (err) {
		verdict_fail("the snapshot does not open: %s", error ? error->msg : strerror(-err));
		error_free(error);
		return;
	}
	size = image_info(image)->virtual_size;
	if (size != (uint64_t)cell_nb_sectors(judge->cell) * SIM_SECTOR)
		verdict_fail("the snapshot has %llu bytes", (unsigned long long)size);
	for (uint64_t off = 0; off < size && !verdict_failed(); off += READ_CHUNK_BYTES) {
		uint64_t len = size - off < READ_CHUNK_BYTES ? size - off : READ_CHUNK_BYTES;
		uint8_t expected[SIM_SECTOR];

		err = image_read(image, off, chunk, len, NULL);
		if (err)
			verdict_fail("reading the snapshot fails: %s", strerror(-err));
		for (uint64_t i = 0; i < len / SIM_SECTOR; i++) {
			uint64_t lba = off / SIM_SECTOR + i;

			payload_fill(expected, lba, judge->initial->initial[lba]);
			if (memcmp(expected, chunk + i * SIM_SECTOR, SIM_SECTOR) != 0)
				verdict_fail("sector %llu of the snapshot has changed",
					     (unsigned long long)lba);
		}
	}
	image_close(image);
}

/* The first finding of a check, for the verdict. */
struct finding {
	char line[256];
};

static void keep_first(void *ctx, const char *line)
{
	struct finding *finding = ctx;

	if (!finding->line[0] || strncmp(finding->line, "Leak", 4) == 0 ||
	    strncmp(finding->line, "leak", 4) == 0)
		snprintf(finding->line, sizeof(finding->line), "%s", line);
}

int coroutine_fn judge_check_file(struct sim_disk *disk, const char *name,
				  const struct check_options *options, struct check_report *report,
				  struct error **reterr)
{
	struct opener *opener = &disk->opener;
	struct file *file;
	int err = opener->open(opener, OPENER_IMAGE, NULL, name, options->repair != CHECK_ONLY,
			       FILE_LOCK_NONE, &file, reterr);

	if (err)
		return err;
	err = check_run(file, options, report, reterr);
	file_close(file);
	return err;
}

static bool coroutine_fn run_check(struct judge *judge, enum check_repair repair,
				   struct check_report *report)
{
	struct finding finding = {{0}};
	struct check_options options = {.repair = repair, .say = keep_first, .ctx = &finding};
	struct error *error = NULL;
	int err = judge_check_file(judge->sim->disk, CELL_IMAGE_NAME, &options, report, &error);

	if (err)
		verdict_fail("check: %s", error ? error->msg : strerror(-err));
	else if (report->corruptions || report->check_errors)
		verdict_fail("check finds %llu corruptions and %llu errors: %s",
			     (unsigned long long)report->corruptions,
			     (unsigned long long)report->check_errors, finding.line);
	error_free(error);
	return !verdict_failed();
}

static void coroutine_fn judge_structure(struct judge *judge)
{
	struct sim_disk *disk = judge->sim->disk;
	struct check_report report;
	unsigned nb_changes;

	if (!run_check(judge, CHECK_ONLY, &report))
		return;
	judge->nb_leaks = report.leaks;
	judge->live_bytes = report.image_end_offset;
	if (report.leaks && run_check(judge, CHECK_REPAIR_LEAKS, &report)) {
		if (report.leaks)
			verdict_fail("a repair leaves %llu leaks",
				     (unsigned long long)report.leaks);
		else
			judge_open(judge, true);
	}
	nb_changes = disk->nb_changes;
	if (!verdict_failed() && run_check(judge, CHECK_REPAIR_LEAKS, &report) &&
	    disk->nb_changes != nb_changes)
		verdict_fail("a repair with nothing to do writes");
}

static void coroutine_fn judge_main(void *arg)
{
	struct judge *judge = arg;

	judge_open(judge, false);
	if (judge->contents_only || verdict_failed())
		return;
	if (judge->initial && cell_has_snapshot(judge->cell))
		judge_snapshot(judge);
	if (!verdict_failed())
		judge_structure(judge);
}

/* ---- the second opinion ---- */

static int run_command(const char *folder, const char *command)
{
	char line[1200];
	int status;

	snprintf(line, sizeof(line), "cd '%s' && %s >out 2>&1", folder, command);
	status = system(line);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

static void write_guest_view(const struct judge *judge)
{
	char path[1100];
	uint8_t sector[SIM_SECTOR];
	FILE *out;

	snprintf(path, sizeof(path), "%s/guest.raw", judge->scratch_folder);
	out = fopen(path, "wb");
	if (!out)
		return;
	for (unsigned lba = 0; lba < judge->nb_sectors; lba++) {
		model_content_bytes(judge->model, lba, judge->contents[lba], sector);
		fwrite(sector, 1, sizeof(sector), out);
	}
	fclose(out);
}

static void ask_qemu(struct judge *judge)
{
	int status;

	if (cell_dump(judge->sim->disk, judge->scratch_folder))
		return verdict_fail("%s cannot be written", judge->scratch_folder);
	status = run_command(judge->scratch_folder, "qemu-img check -f qcow2 " CELL_IMAGE_NAME);
	if (status != 0 && status != 3)
		return verdict_fail("qemu-img check exits with %d", status);
	write_guest_view(judge);
	status = run_command(judge->scratch_folder,
			     "qemu-img compare -f qcow2 -F raw " CELL_IMAGE_NAME " guest.raw");
	if (status != 0)
		verdict_fail("qemu-img compare exits with %d", status);
}

bool judge_files(struct judge *judge)
{
	judge->sim->disk->mode = SIM_DIRECT;
	reactor_run(judge->sim->reactor, judge_main, judge);
	if (judge->ask_qemu && !verdict_failed())
		ask_qemu(judge);
	return !verdict_failed();
}
