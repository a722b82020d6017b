/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * check: the passes, and the order of the repairs between them.
 *
 * A repair is a sequence of steps; each brings one kind of thing into order, is
 * durable before the next begins, and leaves an image that is no worse than before
 * whenever the power goes:
 *
 *   1. guest data that lies in metadata is copied away               (I1, I3)
 *   2. entries wrong beyond doubt are mended, broken bitmaps given up
 *   3. refcounts are raised to the references, or their structures rebuilt (I1)
 *   4. COPIED flags are set where exactly one reference is left, in an image that is
 *      marked dirty meanwhile                                       (I7, I11)
 *   5. refcounts are lowered to the references                         (I4)
 *   6. an incomplete snapshot table is replaced                       (I1, I2)
 *   7. the dirty and corrupt bits are cleared when nothing is left      (I11)
 *
 * What has been repaired is not computed but seen: a second pass looks at everything
 * again, and the difference is what was fixed.
 */
#include "core/check_int.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#define LINE_BYTES 200
#define ROUNDS_MAX 8
#define COVER_ROUNDS_MAX 32
/* The tables of one image do not overlap: together they are shorter than the file. */
#define TABLE_BUDGET_FACTOR 4

/* ---- findings ---- */

static void say_line(const struct check *check, const char *kind, const char *fmt, va_list args)
{
	char line[LINE_BYTES];
	int at = snprintf(line, sizeof(line), "%s%s: ", check->prefix, kind);

	vsnprintf(line + at, sizeof(line) - at, fmt, args);
	check->options->say(check->options->ctx, line);
}

/* Millions of findings that nobody wants to hear must not cost a line each. */
static void say(const struct check *check, const char *kind, const char *fmt, va_list args)
{
	if (check->prefix && check->options->say)
		say_line(check, kind, fmt, args);
}

void check_corruption(struct check *check, uint64_t times, const char *fmt, ...)
{
	va_list args;

	check->report->corruptions += times;
	va_start(args, fmt);
	say(check, "corruption", fmt, args);
	va_end(args);
}

void check_leak(struct check *check, const char *fmt, ...)
{
	va_list args;

	check->report->leaks++;
	va_start(args, fmt);
	say(check, "leak", fmt, args);
	va_end(args);
}

void check_trouble(struct check *check, uint64_t times, const char *fmt, ...)
{
	va_list args;

	check->report->check_errors += times;
	va_start(args, fmt);
	say(check, "error", fmt, args);
	va_end(args);
}

/* ---- one pass ---- */

/* Forgets what a pass found; the windows stay, they are kept up to date. */
static void pass_reset(struct check *check)
{
	check_refs_finish(&check->refs);
	free(check->reftable);
	free(check->single);
	check->reftable = check->single = NULL;
	check->nb_reftable = check->nb_single = 0;
	check->nb_l2 = 0;
	check->nb_mends = 0;
	check->must_rebuild = check->bitmaps_broken = false;
	check->nb_bad_snapshots = 0;
	check->copied_wrong = 0;
	check->end_cluster = check->dangling_end_cluster = 0;
	check->no_place = false;
}

static int pass_prepare(struct check *check, struct error **reterr)
{
	uint64_t nb_clusters;
	int err;

	check->file_bytes = round_up(check->file->size_bytes, 512);
	err = check_header_load(check, reterr);
	if (err)
		return err;
	nb_clusters = round_up(check->file_bytes, check->header.cluster_size) >>
		      check->header.cluster_bits;
	if (nb_clusters > INT32_MAX)
		return error_set(reterr, ERROR_SYSTEM, EFBIG, "file is too large to be checked");
	err = check_refs_init(&check->refs, nb_clusters);
	if (err)
		return error_set(reterr, ERROR_SYSTEM, -err, "check");
	check->table_budget_bytes = TABLE_BUDGET_FACTOR * check->file_bytes;
	check->tables_overlap = false;
	check->report->total_clusters =
		round_up(round_down(check->header.virtual_size, 512), check->header.cluster_size) >>
		check->header.cluster_bits;
	check->report->dirty = check->header.incompatible & INCOMPAT_DIRTY;
	check->report->corrupt = check->header.incompatible & INCOMPAT_CORRUPT;
	return 0;
}

/* The steps that fail for lack of memory or by an I/O error only. */
static int coroutine_fn pass_tables(struct check *check)
{
	const struct check_header *header = &check->header;
	int err = check_refcounts_load(check);

	if (!err)
		err = check_mark(check, 0, header->cluster_size, 1, true);
	if (!err)
		err = check_walk_l1(check, header->l1_off, header->nb_l1, true);
	return err;
}

static int coroutine_fn pass_rest(struct check *check)
{
	int err = check_walk_bitmaps(check);

	if (!err)
		err = check_mark(check, check->extra_off, check->extra_bytes, 1, true);
	if (!err)
		err = check_walk_l2(check);
	if (!err && !check->ignore_refcount_structures)
		err = check_walk_refcounts(check);
	if (!err)
		err = check_compare(check);
	return err;
}

int coroutine_fn check_pass(struct check *check, struct check_report *report, struct error **reterr)
{
	int err;

	pass_reset(check);
	*report = (struct check_report){0};
	check->report = report;
	err = pass_prepare(check, reterr);
	if (err)
		return err;
	err = pass_tables(check);
	if (err)
		return error_set(reterr, ERROR_SYSTEM, -err, "check");
	err = check_walk_snapshots(check, reterr);
	if (err)
		return err;
	err = pass_rest(check);
	if (err)
		return error_set(reterr, ERROR_SYSTEM, -err, "check");
	return 0;
}

void check_finish(struct check *check)
{
	pass_reset(check);
	free(check->l2);
	free(check->mends);
	check_source_finish(&check->source);
	check_source_finish(&check->blocks);
}

/* ---- repair ---- */

/* A pass whose findings nobody needs, between two steps. */
static int coroutine_fn look_again(struct check *check, struct error **reterr)
{
	struct check_report report;

	check->prefix = NULL;
	return check_pass(check, &report, reterr);
}

static int coroutine_fn flush_if(const struct check *check, bool wrote)
{
	return wrote ? file_flush(check->file) : 0;
}

static int system_error(struct error **reterr, int err)
{
	return err ? error_set(reterr, ERROR_SYSTEM, -err, "repair") : 0;
}

/* Step 2. Mending an entry may change what is referred to, hence the passes. */
static int coroutine_fn repair_entries(struct check *check, struct error **reterr)
{
	bool wrote;

	do {
		int err = 0;

		wrote = false;
		if (check->bitmaps_broken)
			err = check_clear_features(check, 0, AUTOCLEAR_BITMAPS, &wrote);
		if (!err)
			err = check_repair_entries(check, &wrote);
		if (!err)
			err = flush_if(check, wrote);
		if (err)
			return system_error(reterr, err);
		if (wrote)
			err = look_again(check, reterr);
		if (err)
			return err;
	} while (wrote);
	return 0;
}

/*
 * Before something is placed behind everything: what already refers there, is there. When
 * that has no end, check->no_place is set.
 */
static int coroutine_fn prepare_place(struct check *check, uint64_t nb_clusters,
				      struct error **reterr)
{
	int err = 0;

	check->nb_to_place = nb_clusters;
	for (int round = 0; !err; round++) {
		err = look_again(check, reterr);
		if (err || check->no_place || check_is_place_free(check))
			break;
		check->no_place = round == COVER_ROUNDS_MAX;
		if (check->no_place)
			break;
		err = system_error(reterr, check_cover_dangling(check));
	}
	check->nb_to_place = 0;
	return err;
}

/* New refcount structures for all references but those of the old structures. */
static int coroutine_fn rebuild(struct check *check, struct error **reterr)
{
	int err;

	check->ignore_refcount_structures = true;
	err = look_again(check, reterr);
	check->ignore_refcount_structures = false;
	if (err)
		return err;
	err = system_error(reterr, check_rebuild(check));
	return err ? err : look_again(check, reterr);
}

/* Steps 3 to 5. */
static int coroutine_fn repair_refcounts(struct check *check, bool raise, bool copied,
					 struct error **reterr)
{
	bool wrote = false;
	int err = 0;

	if (raise && check->must_rebuild) {
		err = prepare_place(check, 0, reterr);
		if (!err && !check->no_place)
			err = rebuild(check, reterr);
		if (err)
			return err;
	} else if (raise && !check->must_rebuild) {
		err = check_repair_refcounts(check, CHECK_RAISE, &wrote);
	}
	if (!err)
		err = flush_if(check, wrote); /* I1: before anything relies on them */
	wrote = false;
	if (!err && copied)
		err = check_repair_copied(check, &wrote);
	if (!err)
		err = flush_if(check, wrote);
	wrote = false;
	if (!err && !check->must_rebuild)
		err = check_repair_refcounts(check, CHECK_LOWER, &wrote); /* I4 */
	if (!err)
		err = flush_if(check, wrote);
	return system_error(reterr, err);
}

/* A rebuild that gives refcounts to a region which nothing refers to yet. */
static int coroutine_fn rebuild_with(struct check *check, uint64_t off, uint64_t len_bytes,
				     struct error **reterr)
{
	int err;

	check->extra_off = off;
	check->extra_bytes = len_bytes;
	err = rebuild(check, reterr);
	check->extra_off = check->extra_bytes = 0;
	return err;
}

/* Step 1: before any table is changed that a guest can read. */
static int coroutine_fn repair_overlaps(struct check *check, struct error **reterr)
{
	struct check_moves moves;
	int err = system_error(reterr, check_moves_gather(check, &moves));

	if (err || !moves.nb)
		goto out;
	err = prepare_place(check, moves.nb, reterr);
	if (err || check->no_place)
		goto out;
	err = system_error(reterr, check_moves_copy(check, &moves));
	if (err)
		goto out;
	err = rebuild_with(check, moves.list[0].entry & L2_OFFSET_MASK,
			   (uint64_t)moves.nb << check->header.cluster_bits, reterr);
	if (err)
		goto out;
	err = system_error(reterr, check_moves_switch(check, &moves));
	if (!err)
		err = look_again(check, reterr);
out:
	check_moves_finish(&moves);
	return err;
}

/* Step 6. The table gets its refcounts from a rebuild; then the old one is a leak. */
static int coroutine_fn repair_snapshots(struct check *check, struct error **reterr)
{
	uint64_t table_off, len_bytes;
	int err = system_error(reterr, check_snapshots_measure(check, &len_bytes));

	if (err)
		return err;
	err = prepare_place(check, (len_bytes >> check->header.cluster_bits) + 1, reterr);
	if (err || check->no_place)
		return err;
	err = system_error(reterr, check_snapshots_write(check, len_bytes, &table_off));
	if (err)
		return err;
	err = rebuild_with(check, table_off, len_bytes, reterr);
	if (err)
		return err;
	err = system_error(reterr, check_snapshots_switch(check, table_off));
	if (!err)
		err = look_again(check, reterr);
	return err ? err : repair_refcounts(check, true, true, reterr);
}

static bool needs_repair(const struct check_report *report)
{
	return report->leaks || report->corruptions || report->check_errors || report->dirty ||
	       report->corrupt;
}

/* Steps 1 to 6, once. */
static int coroutine_fn repair_round(struct check *check, const struct check_report *found,
				     struct error **reterr)
{
	bool all = check->options->repair == CHECK_REPAIR_ALL;
	/* Flags follow the refcounts; with doubts about those, only `all` touches them. */
	bool copied = all || found->corruptions == check->copied_wrong;
	int err = 0;

	if (all)
		err = repair_overlaps(check, reterr);
	if (!err && all)
		err = repair_entries(check, reterr);
	if (!err)
		err = repair_refcounts(check, all, copied, reterr);
	if (!err && check->nb_bad_snapshots && all)
		err = repair_snapshots(check, reterr);
	return err;
}

/*
 * Rounds, until one has nothing to write: a table that had to be left alone because it
 * overlapped another may be mended once the other has moved. *report: what is left.
 */
static int coroutine_fn repair(struct check *check, const struct check_report *found,
			       struct check_report *report, struct error **reterr)
{
	/* What was read may be as yet in a cache alone; what follows builds on it. */
	int err = system_error(reterr, file_flush(check->file));
	uint64_t nb_writes;

	*report = *found;
	for (int round = 0; !err && round < ROUNDS_MAX; round++) {
		nb_writes = check->nb_writes;
		err = repair_round(check, report, reterr);
		if (err || check->nb_writes == nb_writes)
			break;
		check->prefix = NULL;
		err = check_pass(check, report, reterr);
	}
	if (err || !needs_repair(report))
		return err;
	check->prefix = "not repaired: ";
	return check_pass(check, report, reterr);
}

/*
 * Step 7, with the report of the last pass. A mark of the repair's own goes in any case: what is
 * left was there before.
 */
static int coroutine_fn mark_clean(struct check *check, struct check_report *report,
				   struct error **reterr)
{
	bool wrote = false, clean = !report->corruptions && !report->check_errors;
	uint64_t bits = clean                 ? INCOMPAT_DIRTY | INCOMPAT_CORRUPT
			: check->marked_dirty ? INCOMPAT_DIRTY
					      : 0;
	int err = check_clear_features(check, bits, 0, &wrote);

	if (!err)
		err = flush_if(check, wrote);
	report->dirty = report->dirty && !(bits & INCOMPAT_DIRTY);
	report->corrupt = report->corrupt && !clean;
	return system_error(reterr, err);
}

static int coroutine_fn run(struct check *check, struct check_report *report, struct error **reterr)
{
	struct check_report found;
	int err = check_pass(check, &found, reterr);

	*report = found;
	if (err || check->options->repair == CHECK_ONLY || !needs_repair(&found))
		return err;
	err = repair(check, &found, report, reterr);
	if (err)
		return err;
	report->leaks_fixed = found.leaks - min_u64(found.leaks, report->leaks);
	report->corruptions_fixed =
		found.corruptions - min_u64(found.corruptions, report->corruptions);
	return mark_clean(check, report, reterr);
}

int coroutine_fn check_run(struct file *file, const struct check_options *options,
			   struct check_report *ret_report, struct error **reterr)
{
	struct check check = {.file = file, .options = options, .prefix = ""};
	struct check_report report = {0};
	int err;

	if (options->repair != CHECK_ONLY && !file->writable)
		return error_set(reterr, ERROR_SYSTEM, EROFS, "the image cannot be written");
	err = run(&check, &report, reterr);
	check_finish(&check);
	if (!err)
		*ret_report = report;
	return err;
}

int coroutine_fn check_rebuild_refcounts(struct file *file, struct error **reterr)
{
	const struct check_options options = {.repair = CHECK_REPAIR_ALL};
	struct check_report report = {0};
	int err = check_run(file, &options, &report, reterr);

	if (err)
		return err;
	if (report.corruptions || report.check_errors)
		return error_set(reterr, ERROR_CORRUPT, EIO,
				 "marked dirty, and damaged beyond its refcounts: qcow2tool check "
				 "tells where; what is sound can be read");
	return 0;
}
