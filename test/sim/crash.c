/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* crash: enumeration of crash states. See crash.h. */
#include "test/sim/crash.h"
#include "test/sim/choose.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum tear { TEAR_NONE, TEAR_HEAD, TEAR_TAIL, TEAR_HOLES, TEAR_KINDS };

struct walk {
	struct sim_disk *disk;
	const struct history *history;
	const struct crash_params *params;
	bool (*visit)(void *ctx, const struct crash_state *state);
	void *ctx;
	bool stopped;

	uint64_t now;
	uint64_t base_hash;
	uint64_t *sector_hashes[SIM_FILES_MAX]; /* of the base */
	uint32_t *stamps[SIM_FILES_MAX];
	uint32_t stamp;
	uint64_t nb_sectors[SIM_FILES_MAX];

	const struct sim_record **uncovered;
	unsigned nb_uncovered, nb_metadata;
	int newest;    /* the record just issued, or -1: all states are new */
	bool *applied; /* the subset being visited */
};

/* ---- history and hash set ---- */

void history_begin(struct history *history, const struct sim_disk *disk)
{
	*history = (struct history){.nb_files = disk->nb_files};
	for (unsigned i = 0; i < disk->nb_files; i++)
		sim_bytes_copy(&history->base[i], &disk->files[i].bytes);
}

void history_end(struct history *history, struct sim_disk *disk)
{
	history->log = disk->log;
	history->nb_log = disk->nb_log;
	history->t_end = sim_tick(disk);
	disk->log = NULL;
	disk->nb_log = disk->max_log = 0;
}

void history_free(struct history *history)
{
	for (unsigned i = 0; i < history->nb_log; i++)
		free(history->log[i].bytes);
	free(history->log);
	for (unsigned i = 0; i < history->nb_files; i++)
		sim_bytes_free(&history->base[i]);
	*history = (struct history){0};
}

bool hash_set_add(struct hash_set *set, uint64_t hash)
{
	unsigned i;

	hash += !hash; /* 0 marks a free slot */
	if (set->nb * 2 >= set->max) {
		struct hash_set old = *set;

		set->max = old.max ? old.max * 2 : 4096;
		set->slots = calloc(set->max, sizeof(*set->slots));
		if (!set->slots)
			abort();
		set->nb = 0;
		for (i = 0; i < old.max; i++) {
			if (old.slots[i])
				hash_set_add(set, old.slots[i]);
		}
		free(old.slots);
	}
	for (i = (unsigned)hash & (set->max - 1); set->slots[i]; i = (i + 1) & (set->max - 1)) {
		if (set->slots[i] == hash)
			return false;
	}
	set->slots[i] = hash;
	set->nb++;
	return true;
}

void hash_set_free(struct hash_set *set)
{
	free(set->slots);
	*set = (struct hash_set){0};
}

/* ---- hashing ---- */

static uint64_t place_hash(unsigned file, uint64_t sector, uint64_t hash)
{
	return hash ? mix64(hash ^ (sector << 3 | file) * 0x9e3779b97f4a7c15ull) : 0;
}

static uint64_t live_hash(const struct sim_bytes *bytes, uint64_t sector)
{
	/* The last sector is padded: beyond the size, the bytes are zero. */
	return sector * SIM_SECTOR < bytes->size ? sector_hash(bytes->data + sector * SIM_SECTOR)
						 : 0;
}

static void ensure_sectors(struct walk *walk, unsigned file, uint64_t nb)
{
	uint64_t old = walk->nb_sectors[file], max = old ? old : 256;

	if (nb <= old)
		return;
	while (max < nb)
		max *= 2;
	walk->sector_hashes[file] = realloc(walk->sector_hashes[file], max * sizeof(uint64_t));
	walk->stamps[file] = realloc(walk->stamps[file], max * sizeof(uint32_t));
	if (!walk->sector_hashes[file] || !walk->stamps[file])
		abort();
	memset(walk->sector_hashes[file] + old, 0, (max - old) * sizeof(uint64_t));
	memset(walk->stamps[file] + old, 0, (max - old) * sizeof(uint32_t));
	walk->nb_sectors[file] = max;
}

static void record_sectors(const struct sim_record *record, const struct sim_bytes *bytes,
			   uint64_t *ret_first, uint64_t *ret_end)
{
	uint64_t end = record->op == IO_TRUNCATE ? bytes->capacity : record->off + record->len;

	*ret_first = record->off / SIM_SECTOR;
	*ret_end = (end + SIM_SECTOR - 1) / SIM_SECTOR;
}

/* Takes the live contents of the record's sectors over into the base's hash. */
static void rehash_base(struct walk *walk, const struct sim_record *record)
{
	const struct sim_bytes *bytes = &walk->disk->files[record->file].bytes;
	uint64_t sector, end;

	record_sectors(record, bytes, &sector, &end);
	ensure_sectors(walk, record->file, end);
	for (; sector < end; sector++) {
		uint64_t *hash = &walk->sector_hashes[record->file][sector];

		walk->base_hash ^= place_hash(record->file, sector, *hash);
		*hash = live_hash(bytes, sector);
		walk->base_hash ^= place_hash(record->file, sector, *hash);
	}
}

/* Hash of the files as they are, given that only uncovered records differ from the base. */
static uint64_t state_hash(struct walk *walk)
{
	uint64_t hash = walk->base_hash;

	walk->stamp++;
	for (unsigned i = 0; i < walk->nb_uncovered; i++) {
		const struct sim_record *record = walk->uncovered[i];
		const struct sim_bytes *bytes = &walk->disk->files[record->file].bytes;
		uint64_t sector, end;

		if (!walk->applied[i])
			continue;
		record_sectors(record, bytes, &sector, &end);
		ensure_sectors(walk, record->file, end);
		for (; sector < end; sector++) {
			if (walk->stamps[record->file][sector] == walk->stamp)
				continue;
			walk->stamps[record->file][sector] = walk->stamp;
			hash ^= place_hash(record->file, sector,
					   walk->sector_hashes[record->file][sector]);
			hash ^= place_hash(record->file, sector, live_hash(bytes, sector));
		}
	}
	for (unsigned i = 0; i < walk->disk->nb_files; i++)
		hash ^= mix64(walk->disk->files[i].bytes.size << 8 | i);
	return hash;
}

/* ---- applying ---- */

static void apply_torn(struct sim_disk *disk, const struct sim_record *record, enum tear tear)
{
	uint64_t nb = record->len / SIM_SECTOR;
	uint64_t cut = 1 + sim_choose(CHOICE_STATE, (unsigned)(nb - 1));

	for (uint64_t i = 0; i < nb; i++) {
		struct sim_record part = *record;

		if (tear == TEAR_HEAD
			    ? i >= cut
			    : (tear == TEAR_TAIL ? i < cut : sim_choose(CHOICE_STATE, 2) == 0))
			continue;
		part.off += i * SIM_SECTOR;
		part.len = SIM_SECTOR;
		if (part.bytes)
			part.bytes += i * SIM_SECTOR;
		sim_apply_undoable(disk, &part);
	}
}

static bool can_tear(const struct sim_record *record)
{
	return (record->op == IO_WRITE || record->op == IO_ZERO || record->op == IO_PUNCH) &&
	       record->len >= 2 * SIM_SECTOR && record->off % SIM_SECTOR == 0;
}

/* Sizes as if all that extends a file had happened, without its data. */
static void extend_sizes(struct walk *walk)
{
	for (unsigned i = 0; i < walk->nb_uncovered; i++) {
		struct sim_record extend = *walk->uncovered[i];

		if (extend.op != IO_WRITE && extend.op != IO_ZERO)
			continue;
		extend.op = IO_ALLOC;
		sim_apply_undoable(walk->disk, &extend);
	}
}

/* Visits the subset in walk->applied, with one record torn or sizes run ahead. */
static void visit_subset(struct walk *walk, const char *kind, unsigned torn, enum tear tear,
			 bool extend)
{
	unsigned mark = walk->disk->nb_undo;
	struct crash_state state = {.now = walk->now,
				    .nb_uncovered = walk->nb_uncovered,
				    .nb_uncovered_metadata = walk->nb_metadata,
				    .kind = kind,
				    .uncovered = (const struct sim_record *const *)walk->uncovered,
				    .applied = walk->applied};

	if (walk->stopped || (walk->newest >= 0 && !walk->applied[walk->newest]))
		return;
	for (unsigned i = 0; i < walk->nb_uncovered; i++) {
		if (!walk->applied[i])
			continue;
		state.nb_applied++;
		if (tear != TEAR_NONE && i == torn)
			apply_torn(walk->disk, walk->uncovered[i], tear);
		else
			sim_apply_undoable(walk->disk, walk->uncovered[i]);
	}
	if (extend)
		extend_sizes(walk);
	state.hash = state_hash(walk);
	walk->stopped = !walk->visit(walk->ctx, &state);
	sim_undo(walk->disk, mark);
}

static void set_all(struct walk *walk, bool value)
{
	memset(walk->applied, value, walk->nb_uncovered);
}

static void visit_plain(struct walk *walk, const char *kind)
{
	visit_subset(walk, kind, 0, TEAR_NONE, false);
}

static void visit_all_subsets(struct walk *walk)
{
	for (uint32_t mask = 0; mask < 1u << walk->nb_uncovered && !walk->stopped; mask++) {
		for (unsigned i = 0; i < walk->nb_uncovered; i++)
			walk->applied[i] = mask >> i & 1;
		visit_plain(walk, "subset");
	}
}

static void visit_prefixes(struct walk *walk, bool by_completion)
{
	for (unsigned nb = 1; nb < walk->nb_uncovered && !walk->stopped; nb++) {
		uint64_t limit;

		if (!by_completion) {
			limit = walk->uncovered[nb]->t_issue;
			for (unsigned i = 0; i < walk->nb_uncovered; i++)
				walk->applied[i] = walk->uncovered[i]->t_issue < limit;
		} else {
			for (unsigned i = 0; i < walk->nb_uncovered; i++)
				walk->applied[i] = i < nb;
		}
		visit_plain(walk, by_completion ? "prefix of completions" : "prefix of issues");
	}
}

static void visit_by_tag(struct walk *walk)
{
	for (enum io_tag tag = 0; tag < IO_TAG_COUNT; tag++) {
		for (int with = 0; with < 2; with++) {
			for (unsigned i = 0; i < walk->nb_uncovered; i++)
				walk->applied[i] = (walk->uncovered[i]->tag == tag) == with;
			visit_plain(walk, with ? "one tag alone" : "one tag missing");
		}
	}
}

static void visit_some_subsets(struct walk *walk)
{
	set_all(walk, false);
	visit_plain(walk, "none");
	set_all(walk, true);
	visit_plain(walk, "all");
	for (unsigned i = 0; i < walk->nb_uncovered && !walk->stopped; i++) {
		set_all(walk, false);
		walk->applied[i] = true;
		if (walk->newest >= 0)
			walk->applied[walk->newest] = true;
		visit_plain(walk, "one alone");
		set_all(walk, true);
		walk->applied[i] = false;
		visit_plain(walk, "one missing");
	}
	visit_prefixes(walk, false);
	visit_prefixes(walk, true);
	visit_by_tag(walk);
	for (unsigned n = 0; n < walk->params->nb_random && !walk->stopped; n++) {
		for (unsigned i = 0; i < walk->nb_uncovered; i++)
			walk->applied[i] = sim_choose(CHOICE_STATE, 2) || (int)i == walk->newest;
		visit_plain(walk, "random subset");
	}
}

static void visit_tears(struct walk *walk)
{
	for (unsigned i = 0; i < walk->nb_uncovered && !walk->stopped; i++) {
		if ((walk->newest >= 0 && (int)i != walk->newest) || !can_tear(walk->uncovered[i]))
			continue;
		for (enum tear tear = TEAR_HEAD; tear < TEAR_KINDS; tear++) {
			set_all(walk, true);
			visit_subset(walk, "tear, rest there", i, tear, false);
			set_all(walk, false);
			walk->applied[i] = true;
			visit_subset(walk, "tear, rest missing", i, tear, false);
		}
	}
}

static void visit_moment(struct walk *walk)
{
	if (walk->nb_uncovered <= walk->params->max_exhaustive)
		visit_all_subsets(walk);
	else
		visit_some_subsets(walk);
	visit_tears(walk);
	for (unsigned i = 0; i < walk->nb_uncovered; i++)
		walk->applied[i] = (int)i == walk->newest;
	visit_subset(walk, "size ahead of data", 0, TEAR_NONE, true);
}

/* ---- the walk through time ---- */

static int compare_done(const void *a, const void *b)
{
	const struct sim_record *x = *(const struct sim_record *const *)a;
	const struct sim_record *y = *(const struct sim_record *const *)b;

	if (x->t_done != y->t_done)
		return x->t_done < y->t_done ? -1 : 1;
	return x->t_issue < y->t_issue ? -1 : 1;
}

static int compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* Moves the base to `now`: records covered since `before` become part of it. */
static void advance_base(struct walk *walk, const struct sim_record **order, unsigned nb,
			 uint64_t before, uint64_t now)
{
	for (unsigned i = 0; i < nb; i++) {
		const struct sim_record *record = order[i];

		if (record->t_covered > now || record->t_covered <= before)
			continue;
		if (record->op == IO_TRUNCATE) {
			/* Hash the tail before it goes. */
			struct sim_bytes *bytes = &walk->disk->files[record->file].bytes;

			ensure_sectors(walk, record->file, bytes->capacity / SIM_SECTOR);
		}
		sim_apply(&walk->disk->files[record->file].bytes, record);
		rehash_base(walk, record);
	}
}

static void collect_uncovered(struct walk *walk, const struct sim_record **order, unsigned nb)
{
	walk->nb_uncovered = walk->nb_metadata = 0;
	walk->newest = -1;
	for (unsigned i = 0; i < nb; i++) {
		const struct sim_record *record = order[i];

		if (record->t_issue > walk->now || record->t_covered <= walk->now)
			continue;
		if (record->t_issue == walk->now)
			walk->newest = (int)walk->nb_uncovered;
		walk->nb_metadata += sim_tag_is_metadata(record->tag);
		walk->uncovered[walk->nb_uncovered++] = record;
	}
}

static void walk_moments(struct walk *walk, const struct model *model)
{
	const struct history *history = walk->history;
	const struct sim_record **order = calloc(history->nb_log + 1, sizeof(*order));
	uint64_t *moments = calloc(history->nb_log + model->nb_flushes + 2, sizeof(*moments));
	unsigned nb = 0, nb_moments = 0;
	uint64_t before = 0;

	for (unsigned i = 0; i < history->nb_log; i++) {
		const struct sim_record *record = &history->log[i];

		if (!sim_op_changes(record->op) || record->dropped)
			continue;
		order[nb++] = record;
		moments[nb_moments++] = record->t_issue;
	}
	for (unsigned i = 0; i < model->nb_flushes; i++)
		moments[nb_moments++] = model->flushes[i].t_end;
	moments[nb_moments++] = history->t_end;
	qsort(order, nb, sizeof(*order), compare_done);
	qsort(moments, nb_moments, sizeof(*moments), compare_u64);

	for (unsigned i = 0; i < nb_moments && !walk->stopped; i++) {
		unsigned max = walk->params->max_moments;

		walk->now = moments[i];
		advance_base(walk, order, nb, before, walk->now);
		before = walk->now;
		if (max && nb_moments > max && sim_choose(CHOICE_STATE, nb_moments) >= max)
			continue;
		collect_uncovered(walk, order, nb);
		if (max && !walk->nb_metadata && sim_choose(CHOICE_STATE, 8))
			continue;
		if (max)
			walk->newest = -1;
		visit_moment(walk);
	}
	free(order);
	free(moments);
}

void crash_visit(struct sim_disk *disk, const struct history *history, const struct model *model,
		 const struct crash_params *params,
		 bool (*visit)(void *ctx, const struct crash_state *state), void *ctx)
{
	struct walk walk = {
		.disk = disk, .history = history, .params = params, .visit = visit, .ctx = ctx};

	walk.uncovered = calloc(history->nb_log + 1, sizeof(*walk.uncovered));
	walk.applied = calloc(history->nb_log + 1, sizeof(*walk.applied));
	for (unsigned i = 0; i < history->nb_files; i++) {
		const struct sim_bytes *bytes = &disk->files[i].bytes;
		struct sim_record whole = {.op = IO_WRITE, .file = i};

		sim_bytes_copy(&disk->files[i].bytes, &history->base[i]);
		whole.len = bytes->size;
		if (!disk->files[i].read_only)
			rehash_base(&walk, &whole);
	}
	walk_moments(&walk, model);
	for (unsigned i = 0; i < SIM_FILES_MAX; i++) {
		free(walk.sector_hashes[i]);
		free(walk.stamps[i]);
	}
	free(walk.uncovered);
	free(walk.applied);
}

char *crash_describe(const struct crash_state *state)
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	if (!out)
		return NULL;
	fprintf(out, "at time %llu, %s, %u of %u uncovered:\n", (unsigned long long)state->now,
		state->kind, state->nb_applied, state->nb_uncovered);
	for (unsigned i = 0; i < state->nb_uncovered; i++) {
		const struct sim_record *record = state->uncovered[i];

		fprintf(out, "    %c file %u %-8s %-8s %#llx+%llu issued %llu completed %lld\n",
			state->applied[i] ? '+' : '-', record->file, sim_op_name(record->op),
			sim_tag_name(record->tag), (unsigned long long)record->off,
			(unsigned long long)record->len, (unsigned long long)record->t_issue,
			(long long)record->t_done);
	}
	fclose(out);
	return text;
}
