/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* edit: see edit.h. */
#include "test/sim/edit.h"
#include "test/sim/choose.h"
#include "test/sim/judge.h"
#include "test/sim/memory.h"
#include "test/sim/verdict.h"

#include "core/format.h"
#include "io/buf.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define OVERWRITE_STEP_BYTES 4096u

/* ---- pictures ---- */

void picture_free(struct picture *picture)
{
	for (unsigned i = 0; i < picture->nb_views; i++)
		sim_bytes_free(&picture->views[i]);
	*picture = (struct picture){0};
}

static int coroutine_fn read_view(struct image *image, struct picture *picture)
{
	struct sim_bytes *view = &picture->views[picture->nb_views++];

	*view = (struct sim_bytes){0};
	sim_bytes_resize(view, image_info(image)->virtual_size);
	return image_read(image, 0, view->data, view->size, NULL);
}

static void describe(const struct image *image, struct picture *picture)
{
	const struct image_info *info = image_info(image);
	size_t used = (size_t)snprintf(picture->text, sizeof(picture->text), "backing %s, %s;",
				       info->backing_name ? info->backing_name : "none",
				       info->backing_format ? info->backing_format : "none");

	for (unsigned i = 0; i < image_nb_snapshots(image); i++) {
		struct image_snapshot snapshot;

		image_get_snapshot(image, i, &snapshot);
		used += (size_t)snprintf(picture->text + used, sizeof(picture->text) - used,
					 " %s (%s)", snapshot.name, snapshot.id);
	}
}

static int coroutine_fn take_snapshot_view(struct lab *lab, const char *id, struct picture *picture)
{
	struct image_options options = {.snapshot = id};
	struct image *image;
	int err = image_open(&lab->sim.disk->opener, CELL_IMAGE_NAME, &options, &image, NULL);

	if (err)
		return err;
	err = read_view(image, picture);
	image_close(image);
	return err;
}

/* 0 or -errno. In either case the picture is to be released. */
static int coroutine_fn take(struct lab *lab, bool writable, struct picture *picture)
{
	struct image_options options = {.writable = writable};
	char ids[PICTURE_VIEWS_MAX][16];
	unsigned nb_snapshots;
	struct image *image;
	int err;

	*picture = (struct picture){0};
	err = image_open(&lab->sim.disk->opener, CELL_IMAGE_NAME, &options, &image, NULL);
	if (err)
		return err;
	describe(image, picture);
	nb_snapshots = image_nb_snapshots(image);
	for (unsigned i = 0; i < nb_snapshots && i < PICTURE_VIEWS_MAX - 1; i++) {
		struct image_snapshot snapshot;

		image_get_snapshot(image, i, &snapshot);
		snprintf(ids[i], sizeof(ids[i]), "%s", snapshot.id);
	}
	err = read_view(image, picture);
	if (image_close(image) && !err)
		err = -EIO;
	for (unsigned i = 0; i < nb_snapshots && i < PICTURE_VIEWS_MAX - 1 && !err; i++)
		err = take_snapshot_view(lab, ids[i], picture);
	return err;
}

static bool same_view(const struct sim_bytes *a, const struct sim_bytes *b)
{
	return a->size == b->size && !memcmp(a->data, b->data, a->size);
}

static bool same_snapshots(const struct picture *a, const struct picture *b)
{
	if (a->nb_views != b->nb_views || strcmp(a->text, b->text) != 0)
		return false;
	for (unsigned i = 1; i < a->nb_views; i++)
		if (!same_view(&a->views[i], &b->views[i]))
			return false;
	return true;
}

static bool same_picture(const struct picture *a, const struct picture *b)
{
	return same_snapshots(a, b) && same_view(&a->views[0], &b->views[0]);
}

/* ---- judging a state ---- */

struct judging {
	struct edit *edit;
	bool done;       /* the edit has returned success */
	bool leaks_fail; /* unless the image is marked dirty, or shows the second picture */
};

static bool is_marked_dirty(const struct sim_disk *disk)
{
	const struct sim_bytes *bytes = &disk->files[0].bytes;
	const struct qcow2_header *header = (const struct qcow2_header *)bytes->data;

	return bytes->size >= sizeof(*header) && be32_get(&header->version) >= 3 &&
	       be64_get(&header->incompatible_features) & INCOMPAT_DIRTY;
}

static bool has_magic(const struct sim_disk *disk)
{
	const struct sim_bytes *bytes = &disk->files[0].bytes;

	return bytes->size >= 4 && be32_get((const be32 *)bytes->data) == QCOW2_MAGIC;
}

/* What a check says: a line to show, and whether all findings are of a harmless kind. */
struct findings {
	char line[200];
	unsigned nb_grave; /* neither leaks nor COPIED flags */
};

static void keep_line(void *ctx, const char *line)
{
	struct findings *findings = ctx;
	bool leak = strncmp(line, "leak", 4) == 0;
	bool grave = !leak && !strstr(line, "COPIED");

	if (!findings->line[0] || (grave && !findings->nb_grave))
		snprintf(findings->line, sizeof(findings->line), "%s", line);
	findings->nb_grave += grave;
}

/*
 * False, with a verdict, when more corruptions than allowed are left. Any number of wrong COPIED
 * flags is allowed by FLAGS_ONLY, and nothing else.
 */
#define FLAGS_ONLY (UINT64_MAX - 1)
static bool coroutine_fn check_image(struct edit *edit, enum check_repair repair, uint64_t allowed,
				     struct check_report *report)
{
	struct findings findings = {{0}};
	const struct check_options options = {.repair = repair, .say = keep_line, .ctx = &findings};
	int err = judge_check_file(edit->lab->sim.disk, CELL_IMAGE_NAME, &options, report, NULL);

	if (err)
		verdict_fail("the check fails: %s", strerror(-err));
	else if (report->corruptions + report->check_errors > allowed ||
		 (allowed == FLAGS_ONLY && findings.nb_grave))
		verdict_fail("the check finds %llu corruptions: %s",
			     (unsigned long long)report->corruptions, findings.line);
	return !verdict_failed();
}

/* Writes over all that the guest has: what belongs to a snapshot stays. */
static void coroutine_fn overwrite(struct edit *edit, const struct picture *seen)
{
	struct sim_disk *disk = edit->lab->sim.disk;
	struct image_options options = {.writable = true};
	uint8_t data[OVERWRITE_STEP_BYTES];
	unsigned mark = disk->nb_undo;
	struct check_report report;
	struct picture picture;
	struct image *image;
	int err = image_open(&disk->opener, CELL_IMAGE_NAME, &options, &image, NULL);

	if (err)
		return verdict_fail("it does not open to be written over: %s", strerror(-err));
	memset(data, 0xd7, sizeof(data));
	for (uint64_t off = 0; off < seen->views[0].size && !err; off += sizeof(data)) {
		uint64_t left = seen->views[0].size - off;

		err = image_write(image, off, data, left < sizeof(data) ? left : sizeof(data));
	}
	if (image_close(image) || err)
		verdict_fail("it cannot be written over");
	err = take(edit->lab, false, &picture);
	if (err || !same_snapshots(&picture, seen))
		verdict_fail("writing changes a snapshot, or what else is recorded");
	for (uint64_t i = 0; !err && i < picture.views[0].size; i++)
		if (picture.views[0].data[i] != 0xd7)
			verdict_fail("what was written is not there");
	if (!verdict_failed())
		check_image(edit, CHECK_ONLY, edit->unmarked ? FLAGS_ONLY : 0, &report);
	picture_free(&picture);
	sim_undo(disk, mark);
}

/* A repair, which must be complete; a second one has nothing to do. */
static void coroutine_fn repair(struct edit *edit, const struct picture *seen)
{
	enum check_repair kind = edit->damaged ? CHECK_REPAIR_ALL : CHECK_REPAIR_LEAKS;
	struct sim_disk *disk = edit->lab->sim.disk;
	struct check_report report;
	struct picture picture;
	unsigned nb_changes;

	if (!check_image(edit, kind, 0, &report))
		return;
	if (report.leaks)
		verdict_fail("a repair leaves %llu leaks", (unsigned long long)report.leaks);
	if (take(edit->lab, false, &picture) || !same_picture(&picture, seen))
		verdict_fail("a repair changes what is seen");
	picture_free(&picture);
	nb_changes = disk->nb_changes;
	if (!verdict_failed() && check_image(edit, kind, 0, &report) &&
	    disk->nb_changes != nb_changes)
		verdict_fail("a repair with nothing to do writes");
}

/* Corruptions that a repair may have left when the power went. */
static uint64_t allowed_in_between(const struct edit *edit)
{
	const struct sim_disk *disk = edit->lab->sim.disk;

	return edit->nb_corruptions +
	       (edit->unmarked || is_marked_dirty(disk) ? edit->nb_flags : 0);
}

static void coroutine_fn judge_picture(struct judging *judging, const struct picture *seen)
{
	struct edit *edit = judging->edit;
	bool is_before = !judging->done && same_picture(seen, &edit->before);
	struct check_report report;

	if (!is_before && !same_picture(seen, &edit->after))
		return verdict_fail("neither the old picture nor the new one: %s", seen->text);
	if (!check_image(edit, CHECK_ONLY,
			 edit->unmarked                    ? FLAGS_ONLY
			 : edit->damaged && !judging->done ? allowed_in_between(edit)
							   : 0,
			 &report))
		return;
	if (judging->leaks_fail && is_before && report.leaks)
		verdict_fail("%llu leaks after a clean close", (unsigned long long)report.leaks);
	if (!edit->damaged)
		overwrite(edit, seen);
	if (!verdict_failed())
		repair(edit, seen);
	if (!verdict_failed())
		overwrite(edit, seen);
}

static void coroutine_fn judge_main(void *arg)
{
	struct judging *judging = arg;
	struct edit *edit = judging->edit;
	struct sim_disk *disk = edit->lab->sim.disk;
	struct check_report report;
	struct picture seen;
	int err;

	if (edit->formatted && !judging->done && !has_magic(disk))
		return;
	/* Damage that an open mends by itself must not hide how bad things were. */
	if (edit->damaged && !check_image(edit, CHECK_ONLY, allowed_in_between(edit), &report))
		return;
	judging->leaks_fail &= !is_marked_dirty(disk);
	err = take(edit->lab, !edit->damaged, &seen);
	if (err)
		verdict_fail("it does not open, or cannot be read: %s", strerror(-err));
	else
		judge_picture(judging, &seen);
	picture_free(&seen);
}

/* Judges what the disk holds; everything is as before afterwards. */
static void judge(struct judging *judging)
{
	struct sim_disk *disk = judging->edit->lab->sim.disk;
	unsigned mark = disk->nb_undo;

	disk->mode = SIM_DIRECT;
	reactor_run(disk->reactor, judge_main, judging);
	sim_undo(disk, mark);
}

/* ---- performing ---- */

static int coroutine_fn perform_on_image(struct edit *edit)
{
	struct image_options options = {.writable = true};
	struct image *image;
	int err = image_open(&edit->lab->sim.disk->opener, CELL_IMAGE_NAME, &options, &image, NULL);

	if (err)
		return err;
	err = edit->change(image);
	edit->t_done = sim_tick(edit->lab->sim.disk);
	edit->close_result = image_close(image);
	return err;
}

static int coroutine_fn perform_on_file(struct edit *edit)
{
	struct opener *opener = &edit->lab->sim.disk->opener;
	struct file *file;
	int err = opener->open(opener, OPENER_IMAGE, NULL, CELL_IMAGE_NAME, true, FILE_LOCK_NONE,
			       &file, NULL);

	if (err)
		return err;
	err = edit->change_file(file);
	edit->t_done = sim_tick(edit->lab->sim.disk);
	file_close(file);
	return err;
}

static void coroutine_fn perform_main(void *arg)
{
	struct edit *edit = arg;
	struct sim_disk *disk = edit->lab->sim.disk;

	edit->close_result = 0;
	edit->t_done = SIM_NEVER;
	if (edit->starves) {
		buf_trim();
		memory_arm(edit->missing_at, 1, NULL, NULL);
	}
	edit->result = edit->change ? perform_on_image(edit) : perform_on_file(edit);
	memory_disarm();
	edit->nb_requests = disk->nb_requests;
	if (reactor_nb_coroutines(disk->reactor) != 1)
		verdict_fail("coroutines are left");
}

/* Puts the image back as it was at first, and performs the edit on it. */
static void perform(struct edit *edit, uint64_t seed)
{
	struct sim_disk *disk = edit->lab->sim.disk;

	sim_clear_log(disk);
	sim_bytes_free(&disk->files[0].bytes);
	sim_bytes_copy(&disk->files[0].bytes, &edit->start);
	choose_seed(seed);
	disk->mode = SIM_LOGGED;
	disk->nb_requests = 0;
	disk->fail_flush_seen = false;
	reactor_run(disk->reactor, perform_main, edit);
	disk->fault = (struct sim_fault){0};
}

/* ---- the public form ---- */

struct taking {
	struct lab *lab;
	struct picture *picture;
	int result;
};

static void coroutine_fn take_main(void *arg)
{
	struct taking *taking = arg;

	taking->result = take(taking->lab, false, taking->picture);
}

void picture_take(struct lab *lab, struct picture *picture)
{
	struct taking taking = {.lab = lab, .picture = picture};

	lab->sim.disk->mode = SIM_DIRECT;
	reactor_run(lab->sim.reactor, take_main, &taking);
	assert_int_equal(taking.result, 0);
}

struct counting {
	struct edit *edit;
	struct check_report report;
};

static void coroutine_fn count_main(void *arg)
{
	struct counting *counting = arg;

	check_image(counting->edit, CHECK_ONLY, UINT64_MAX, &counting->report);
}

void edit_init(struct edit *edit, struct lab *lab)
{
	struct counting counting = {.edit = edit};

	*edit = (struct edit){.lab = lab};
	sim_bytes_copy(&edit->start, &lab->sim.disk->files[0].bytes);
	picture_take(lab, &edit->before);
	reactor_run(lab->sim.reactor, count_main, &counting);
	lab_no_violation(lab);
	edit->nb_corruptions = counting.report.corruptions + counting.report.check_errors;
}

void edit_finish(struct edit *edit)
{
	sim_bytes_free(&edit->start);
	picture_free(&edit->before);
	picture_free(&edit->after);
}

struct visit {
	struct edit *edit;
	struct hash_set seen;
};

static bool visit_state(void *ctx, const struct crash_state *state)
{
	struct visit *visit = ctx;
	struct edit *edit = visit->edit;
	struct explorer *explorer = &edit->lab->explorer;
	struct judging judging = {.edit = edit, .done = state->now > edit->t_done};

	explorer->stats.nb_visited++;
	if (!hash_set_add(&visit->seen, mix64(state->hash + judging.done)))
		return true;
	explorer->stats.nb_judged++;
	judge(&judging);
	explore_report(explorer, NULL, state);
	return explorer->stats.nb_violations < explorer->max_violations;
}

/* Performs it once, which must succeed, and keeps what it leads to. */
static void perform_well(struct edit *edit, uint64_t seed)
{
	struct judging judging = {.edit = edit, .done = true, .leaks_fail = true};

	perform(edit, seed);
	lab_no_violation(edit->lab);
	assert_int_equal(edit->result, 0);
	assert_int_equal(edit->close_result, 0);
	picture_free(&edit->after);
	picture_take(edit->lab, &edit->after);
	assert_int_equal(lab_count_leaks(edit->lab), 0);
	assert_false(is_marked_dirty(edit->lab->sim.disk));
	judge(&judging);
	lab_no_violation(edit->lab);
}

void edit_explore(struct edit *edit, uint64_t seed)
{
	struct lab *lab = edit->lab;
	struct sim_disk *disk = lab->sim.disk;
	struct visit visit = {.edit = edit};
	struct history history = {.nb_files = disk->nb_files};

	perform_well(edit, seed);
	for (unsigned i = 0; i < disk->nb_files; i++)
		sim_bytes_copy(&history.base[i], i ? &disk->files[i].bytes : &edit->start);
	history_end(&history, disk);
	disk->mode = SIM_DIRECT;
	crash_visit(disk, &history, &lab->explorer.model, &lab->explorer.params, visit_state,
		    &visit);
	history_free(&history);
	hash_set_free(&visit.seen);
	assert_int_equal(lab->explorer.stats.nb_violations, 0);
}

/* Notes whether it is the write of a table that fails. */
static void note_failure(void *ctx, const struct io_req *req, bool faulted)
{
	bool *table_failed = ctx;

	*table_failed |= faulted && req->op == IO_WRITE && req->tag != IO_TAG_HEADER;
}

/* Performs it with the fault that has been set, and judges what is left behind. */
static void perform_badly(struct edit *edit, bool *ret_table_failed)
{
	struct sim_disk *disk = edit->lab->sim.disk;
	struct judging judging = {.edit = edit};

	*ret_table_failed = false;
	disk->on_submit = note_failure;
	disk->hook_ctx = ret_table_failed;
	perform(edit, 1);
	disk->on_submit = NULL;
	judging.done = edit->t_done != SIM_NEVER && !edit->result;
	judging.leaks_fail = !edit->damaged && !edit->close_result && !disk->fail_flush_seen;
	judge(&judging);
	lab_no_violation(edit->lab);
}

void edit_inject(struct edit *edit, int err)
{
	struct sim_disk *disk = edit->lab->sim.disk;
	uint64_t nb_requests;

	perform_well(edit, 1);
	nb_requests = edit->nb_requests;
	edit->nb_undone = 0;
	for (uint64_t at = 0; at < nb_requests; at++) {
		bool table_failed, is_dirty;

		verdict_set_context("request %llu of %llu fails with %s", (unsigned long long)at,
				    (unsigned long long)nb_requests, strerror(err));
		disk->fault = (struct sim_fault){.at = at, .count = 1, .err = err};
		perform_badly(edit, &table_failed);
		is_dirty = is_marked_dirty(disk);
		edit->nb_undone += table_failed && edit->result && !edit->close_result && !is_dirty;
	}
}

unsigned edit_starve(struct edit *edit)
{
	unsigned nb_refused = 0;
	bool table_failed;

	edit->starves = true;
	for (edit->missing_at = 0;; edit->missing_at++) {
		verdict_set_context("allocation %llu fails", (unsigned long long)edit->missing_at);
		perform_badly(edit, &table_failed);
		if (!memory_nb_failed())
			break;
		nb_refused += edit->result == -ENOMEM;
	}
	edit->starves = false;
	return nb_refused;
}
