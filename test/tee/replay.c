/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * replay: the crash states of what a real server has written (tee.c). Each must open for
 * writing; every sector must be what the guest had there at a moment that a successful fsync
 * has not passed yet; the check finds leaks at most; a repair leaves nothing to do and changes
 * no guest byte.
 *
 *   replay [-s SEED] [-m MOMENTS] LOG IMAGE [BASE]
 *
 * IMAGE is the image as it was before the server began. Of so many moments of the log (0:
 * of all) states are made, as in crash.h.
 */
#include "test/sim/choose.h"
#include "test/sim/crash.h"
#include "test/sim/judge.h"
#include "test/sim/run.h"
#include "test/sim/verdict.h"
#include "test/tee/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHUNK_BYTES (64u << 10)

/* What one sector of the guest held from some moment on. */
struct version {
	uint64_t hash, t_begin, t_end;
	int older;
};

struct replay {
	struct sim sim;
	const char *image_name;
	struct history history;
	struct model model; /* for its flushes */
	unsigned nb_sectors;
	uint8_t *guest; /* as it is after what was begun so far */
	int *newest;    /* of each sector, into versions */
	struct version *versions;
	unsigned nb_versions, max_versions;
	int *open_records; /* by id: index in the log, or first version; -1 */
	uint64_t *open_times;
	unsigned *open_counts;
	unsigned max_ids;

	struct hash_set seen;
	unsigned long nb_states, nb_judged, nb_leaky, nb_metadata;
	uint8_t *chunk;
	uint64_t view_hash; /* of all that was read last */
};

static void *must(void *memory)
{
	if (!memory)
		verdict_fatal("out of memory");
	return memory;
}

/* ---- the guest's history ---- */

static uint64_t hash_sector(const uint8_t *bytes)
{
	uint64_t hash = 0, word;

	for (unsigned i = 0; i < SIM_SECTOR; i += sizeof(word)) {
		memcpy(&word, bytes + i, sizeof(word));
		hash = (hash ^ word) * 0x9e3779b97f4a7c15ull;
		hash ^= hash >> 32;
	}
	return hash;
}

static void push_version(struct replay *replay, unsigned sector, uint64_t now, uint64_t t_end)
{
	if (replay->nb_versions == replay->max_versions) {
		replay->max_versions = replay->max_versions ? 2 * replay->max_versions : 4096;
		replay->versions = must(reallocarray(replay->versions, replay->max_versions,
						     sizeof(*replay->versions)));
	}
	replay->versions[replay->nb_versions] = (struct version){
		.hash = hash_sector(replay->guest + (size_t)sector * SIM_SECTOR),
		.t_begin = now,
		.t_end = t_end,
		.older = replay->newest[sector],
	};
	replay->newest[sector] = (int)replay->nb_versions++;
}

/* Newest version that has certainly happened before `floor`: what ended before it began is gone. */
static uint64_t settled_begin(const struct replay *replay, unsigned sector, uint64_t floor)
{
	uint64_t begin = 0;

	for (int i = replay->newest[sector]; i >= 0; i = replay->versions[i].older)
		if (replay->versions[i].t_end < floor && replay->versions[i].t_begin > begin)
			begin = replay->versions[i].t_begin;
	return begin;
}

static bool is_legal(const struct replay *replay, unsigned sector, uint64_t hash, uint64_t now,
		     uint64_t floor)
{
	uint64_t settled = settled_begin(replay, sector, floor);

	for (int i = replay->newest[sector]; i >= 0; i = replay->versions[i].older) {
		const struct version *v = &replay->versions[i];

		if (v->hash == hash && v->t_begin <= now && v->t_end >= settled)
			return true;
	}
	return false;
}

/* ---- reading the log ---- */

static void grow_ids(struct replay *replay, uint32_t id)
{
	unsigned old = replay->max_ids;

	if (id < old)
		return;
	replay->max_ids = 2 * id + 1024;
	replay->open_records =
		must(reallocarray(replay->open_records, replay->max_ids, sizeof(int)));
	replay->open_times =
		must(reallocarray(replay->open_times, replay->max_ids, sizeof(uint64_t)));
	replay->open_counts =
		must(reallocarray(replay->open_counts, replay->max_ids, sizeof(unsigned)));
	for (unsigned i = old; i < replay->max_ids; i++)
		replay->open_records[i] = -1;
}

static void on_issue(struct replay *replay, const struct tee_record *record, uint8_t *bytes,
		     uint64_t now)
{
	struct history *history = &replay->history;

	/* Room doubles: the log is as long as the next power of two. */
	if (!(history->nb_log & (history->nb_log - 1)))
		history->log = must(
			reallocarray(history->log, 2 * history->nb_log + 1, sizeof(*history->log)));
	history->log[history->nb_log] = (struct sim_record){.op = record->op,
							    .tag = record->tag,
							    .off = record->off,
							    .len = record->len,
							    .asked = record->len,
							    .bytes = bytes,
							    .t_issue = now,
							    .t_done = SIM_NEVER,
							    .t_covered = SIM_NEVER};
	replay->open_records[record->id] = (int)history->nb_log++;
}

static void on_done(struct replay *replay, const struct tee_record *record, uint64_t now)
{
	struct history *history = &replay->history;
	struct sim_record *done = &history->log[replay->open_records[record->id]];

	done->t_done = now;
	done->dropped = record->result < 0;
	if (done->op == IO_WRITE && record->result >= 0)
		done->len = (uint64_t)record->result;
	if (done->op != IO_FLUSH || record->result < 0)
		return;
	for (unsigned i = 0; i < history->nb_log; i++) {
		struct sim_record *other = &history->log[i];

		if (other->t_done < done->t_issue && other->t_covered == SIM_NEVER)
			other->t_covered = now;
	}
}

static void on_guest_begin(struct replay *replay, const struct tee_record *record,
			   const uint8_t *bytes, uint64_t now)
{
	unsigned first = (unsigned)(record->off / SIM_SECTOR);
	uint64_t end = record->off + record->len;

	replay->open_records[record->id] = (int)replay->nb_versions;
	replay->open_times[record->id] = now;
	replay->open_counts[record->id] = 0;
	if (record->op == TEE_GUEST_RESIZE)
		verdict_fatal("the log has a resize: the disk is to stay as large as it is");
	if (record->op == TEE_GUEST_FLUSH || !record->len)
		return;
	if (bytes)
		memcpy(replay->guest + record->off, bytes, record->len);
	else
		memset(replay->guest + record->off, 0, record->len);
	for (unsigned i = first; (uint64_t)i * SIM_SECTOR < end; i++) {
		push_version(replay, i, now, SIM_NEVER);
		replay->open_counts[record->id]++;
	}
}

static void on_guest_end(struct replay *replay, const struct tee_record *record, uint64_t now)
{
	unsigned nb = replay->open_counts[record->id];

	if (record->result < 0)
		return;
	for (unsigned i = 0; i < nb; i++)
		replay->versions[replay->open_records[record->id] + (int)i].t_end = now;
	/* Only flushes have no sectors. */
	if (!nb)
		model_flushed(&replay->model, replay->open_times[record->id], now);
}

static void read_log(struct replay *replay, const char *path)
{
	FILE *in = fopen(path, "rb");
	struct tee_record record;
	uint64_t now = 0;

	if (!in)
		verdict_fatal("%s: %s", path, strerror(errno));
	while (fread(&record, sizeof(record), 1, in) == 1) {
		uint8_t *bytes = record.nb_bytes ? must(malloc(record.nb_bytes)) : NULL;

		if (bytes && fread(bytes, 1, record.nb_bytes, in) != record.nb_bytes)
			verdict_fatal("%s ends within a record", path);
		now++;
		grow_ids(replay, record.id);
		switch ((enum tee_kind)record.kind) {
		case TEE_ISSUE:
			on_issue(replay, &record, bytes, now);
			continue;
		case TEE_DONE:
			on_done(replay, &record, now);
			break;
		case TEE_GUEST_BEGIN:
			on_guest_begin(replay, &record, bytes, now);
			break;
		case TEE_GUEST_END:
			on_guest_end(replay, &record, now);
			break;
		}
		free(bytes);
	}
	fclose(in);
	replay->history.t_end = now + 1;
	/* The states' own requests come later. */
	replay->sim.disk->now = now + 1;
}

/* ---- judging ---- */

/* Reads everything; with `now`, judges it. */
static void coroutine_fn read_view(struct replay *replay, uint64_t now, uint64_t floor)
{
	struct image_options options = {.writable = true};
	struct error *error = NULL;
	struct image *image;
	int err =
		image_open(&replay->sim.disk->opener, replay->image_name, &options, &image, &error);

	if (err) {
		verdict_fail("it does not open: %s", error ? error->msg : strerror(-err));
		error_free(error);
		return;
	}
	replay->view_hash = 0;
	for (unsigned i = 0; i < replay->nb_sectors && !err; i++) {
		const uint8_t *sector = replay->chunk + (size_t)i * SIM_SECTOR % CHUNK_BYTES;
		uint64_t off = (uint64_t)i * SIM_SECTOR, hash;
		uint64_t left = image_info(image)->virtual_size - off;

		if (off % CHUNK_BYTES == 0)
			err = image_read(image, off, replay->chunk,
					 left < CHUNK_BYTES ? left : CHUNK_BYTES, NULL);
		hash = hash_sector(sector);
		if (!err && now && !is_legal(replay, i, hash, now, floor)) {
			verdict_fail("sector %u holds what was never there, or no more", i);
			break;
		}
		replay->view_hash = mix64(replay->view_hash ^ hash);
	}
	if (err)
		verdict_fail("it cannot be read: %s", strerror(-err));
	if (image_close(image))
		verdict_fail("it cannot be closed");
}

static void keep_line(void *ctx, const char *line)
{
	if (strncmp(line, "leak", 4) != 0)
		snprintf(ctx, 200, "%s", line);
}

static bool coroutine_fn check_image(struct replay *replay, enum check_repair repair,
				     struct check_report *report)
{
	char line[200] = "";
	const struct check_options options = {.repair = repair, .say = keep_line, .ctx = line};
	int err = judge_check_file(replay->sim.disk, replay->image_name, &options, report, NULL);

	if (err)
		verdict_fail("the check fails: %s", strerror(-err));
	else if (report->corruptions || report->check_errors)
		verdict_fail("the check finds: %s", line);
	return !verdict_failed();
}

struct judging {
	struct replay *replay;
	uint64_t now, floor;
};

static void coroutine_fn judge_main(void *arg)
{
	struct judging *judging = arg;
	struct replay *replay = judging->replay;
	struct check_report report;
	uint64_t before;
	unsigned nb_changes;

	read_view(replay, judging->now, judging->floor);
	before = replay->view_hash;
	if (verdict_failed() || !check_image(replay, CHECK_ONLY, &report))
		return;
	replay->nb_leaky += report.leaks != 0;
	if (!check_image(replay, CHECK_REPAIR_LEAKS, &report))
		return;
	if (report.leaks)
		verdict_fail("a repair leaves leaks");
	read_view(replay, 0, 0);
	if (replay->view_hash != before)
		verdict_fail("a repair changes what the guest sees");
	nb_changes = replay->sim.disk->nb_changes;
	if (!verdict_failed() && check_image(replay, CHECK_REPAIR_LEAKS, &report) &&
	    replay->sim.disk->nb_changes != nb_changes)
		verdict_fail("a repair with nothing to do writes");
}

static bool visit(void *ctx, const struct crash_state *state)
{
	struct replay *replay = ctx;
	struct sim_disk *disk = replay->sim.disk;
	struct judging judging = {replay, state->now,
				  model_flush_floor(&replay->model, state->now)};
	unsigned mark = disk->nb_undo;
	char *text;

	replay->nb_states++;
	if (!hash_set_add(&replay->seen, state->hash ^ mix64(judging.floor)))
		return true;
	replay->nb_judged++;
	replay->nb_metadata += state->nb_uncovered_metadata != 0;
	disk->mode = SIM_DIRECT;
	reactor_run(disk->reactor, judge_main, &judging);
	sim_undo(disk, mark);
	if (!verdict_failed())
		return true;
	text = crash_describe(state);
	printf("VIOLATION: %s\n%s", verdict_text(), text ? text : "");
	free(text);
	return false;
}

/* ---- */

static void add_file(struct replay *replay, const char *path, bool read_only)
{
	FILE *in = fopen(path, "rb");
	uint8_t *bytes = must(malloc(SIM_FILE_BYTES_MAX));
	size_t nb = in ? fread(bytes, 1, SIM_FILE_BYTES_MAX, in) : 0;

	if (!in || nb == SIM_FILE_BYTES_MAX)
		verdict_fatal("%s cannot be read, or is too large", path);
	fclose(in);
	sim_add_file(replay->sim.disk, strrchr(path, '/') ? strrchr(path, '/') + 1 : path, bytes,
		     nb, read_only);
	free(bytes);
}

static void coroutine_fn take_guest_main(void *arg)
{
	struct replay *replay = arg;
	struct image_options options = {0};
	struct image *image;
	uint64_t size;

	if (image_open(&replay->sim.disk->opener, replay->image_name, &options, &image, NULL))
		verdict_fatal("the image does not open");
	size = image_info(image)->virtual_size;
	replay->nb_sectors = (unsigned)(size / SIM_SECTOR);
	replay->guest = must(malloc(size));
	if (image_read(image, 0, replay->guest, size, NULL))
		verdict_fatal("the image cannot be read");
	image_close(image);
}

/* The files, and what the guest sees at first. */
static void begin(struct replay *replay, char **paths, int nb_paths)
{
	struct sim_disk *disk;

	sim_create(&replay->sim);
	disk = replay->sim.disk;
	for (int i = 0; i < nb_paths; i++)
		add_file(replay, paths[i], i > 0);
	replay->image_name = disk->files[0].name;
	replay->chunk = must(malloc(CHUNK_BYTES));
	disk->mode = SIM_DIRECT;
	reactor_run(disk->reactor, take_guest_main, replay);
	model_init(&replay->model, 1, 1);
	replay->newest = must(calloc(replay->nb_sectors, sizeof(int)));
	for (unsigned i = 0; i < replay->nb_sectors; i++) {
		replay->newest[i] = -1;
		push_version(replay, i, 0, 0);
	}
	history_begin(&replay->history, disk);
}

static void finish(struct replay *replay)
{
	history_free(&replay->history);
	model_free(&replay->model);
	hash_set_free(&replay->seen);
	free(replay->guest);
	free(replay->newest);
	free(replay->versions);
	free(replay->open_records);
	free(replay->open_times);
	free(replay->open_counts);
	free(replay->chunk);
	sim_disk_reset(replay->sim.disk);
	sim_destroy(&replay->sim);
}

int main(int argc, char **argv)
{
	struct crash_params params = {.max_exhaustive = 5, .nb_random = 12, .max_moments = 200};
	struct replay replay = {0};
	uint64_t seed = 1;
	int option;

	while ((option = getopt(argc, argv, "s:m:")) != -1) {
		if (option == 's')
			seed = strtoull(optarg, NULL, 0);
		else if (option == 'm')
			params.max_moments = (unsigned)strtoul(optarg, NULL, 0);
		else
			return 2;
	}
	if (argc - optind < 2)
		return 2;
	choose_seed(seed);
	begin(&replay, argv + optind + 1, argc - optind - 1);
	read_log(&replay, argv[optind]);
	crash_visit(replay.sim.disk, &replay.history, &replay.model, &params, visit, &replay);
	printf("seed %llu: %u requests, %u versions of sectors, %u flushes; %lu states, %lu "
	       "judged, "
	       "%lu with uncovered metadata, %lu with leaks\n",
	       (unsigned long long)seed, replay.history.nb_log, replay.nb_versions,
	       replay.model.nb_flushes, replay.nb_states, replay.nb_judged, replay.nb_metadata,
	       replay.nb_leaky);
	finish(&replay);
	return verdict_failed();
}
