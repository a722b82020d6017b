/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * trial: see trial.h. Everything runs in one coroutine on the caller's thread.
 */
#include "test/hostile/trial.h"

#include "core/check.h"
#include "core/image.h"
#include "io/buf.h"
#include "io/reactor.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <time.h>

#define READ_BYTES (128u << 10)
#define READ_BUDGET (4u << 20)
#define MAP_STEPS_MAX 2000u
#define SNAPSHOTS_TRIED 4u
#define WRITES 10u

/* One trial under way. */
struct run {
	struct trial *trial;
	const struct bundle *bundle;
	uint8_t *buf; /* READ_BYTES */
	bool sound;   /* the check found nothing but leaks */
	struct check_report report;
	uint64_t phase_start_ns;

	/* comparing */
	const uint8_t *flat;
	uint64_t flat_bytes, nb_failed;
	int64_t result;
};

/* ---- bundles ---- */

void bundle_add(struct bundle *bundle, const char *name, struct seed *seed)
{
	if (bundle->nb_extras == BUNDLE_EXTRAS_MAX)
		broken("too many files");
	snprintf(bundle->extra_names[bundle->nb_extras], sizeof(bundle->extra_names[0]), "%s",
		 name);
	bundle->extras[bundle->nb_extras++] = *seed;
	seed->data = NULL;
}

void bundle_free(struct bundle *bundle)
{
	seed_free(&bundle->image);
	for (unsigned i = 0; i < bundle->nb_extras; i++)
		seed_free(&bundle->extras[i]);
	bundle->nb_extras = 0;
}

static void install(struct run *run)
{
	const struct bundle *bundle = run->bundle;

	disk_add(run->trial->disk, TRIAL_IMAGE, bundle->image.data, bundle->image.stored,
		 bundle->image.size);
	for (unsigned i = 0; i < bundle->nb_extras; i++)
		disk_add(run->trial->disk, bundle->extra_names[i], bundle->extras[i].data,
			 bundle->extras[i].stored, bundle->extras[i].size);
}

/* ---- limits ---- */

static uint64_t cpu_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return now.tv_sec * 1000000000ull + now.tv_nsec;
}

/* What a user waits for is a phase, not all of them together. */
static void end_phase(const struct run *run, uint64_t now_ns)
{
	struct tally *tally = run->trial->tally;
	uint64_t spent_ns = now_ns - run->phase_start_ns;

	if (spent_ns <= tally->slowest_ns)
		return;
	tally->slowest_ns = spent_ns;
	tally->slowest_phase = tally->phase;
	memcpy(tally->slowest, run->bundle->name, sizeof(tally->slowest));
}

/* Names what comes now, `passes` times over all tables. SIGPROF ends the process when that takes
 * too long. */
static void phase_of_passes(struct run *run, const char *name, unsigned passes)
{
	struct itimerval limit = {.it_value.tv_sec = name ? run->trial->phase_sec * passes : 0};
	uint64_t now_ns = cpu_ns();

	if (run->trial->tally->phase)
		end_phase(run, now_ns);
	run->trial->tally->phase = name;
	run->phase_start_ns = now_ns;
	setitimer(ITIMER_PROF, &limit, NULL);
}

static void phase(struct run *run, const char *name)
{
	phase_of_passes(run, name, 1);
}

/* A repair looks at everything again after each of its steps. */
#define REPAIR_PASSES 3u

uint64_t trial_peak_bytes(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (uint64_t)usage.ru_maxrss << 10;
}

/* What the process has used at most, without the bytes of the image and of its copy. */
static void check_memory(struct run *run)
{
	struct tally *tally = run->trial->tally;
	uint64_t images = run->bundle->image.stored, peak = trial_peak_bytes();

	for (unsigned i = 0; i < run->bundle->nb_extras; i++)
		images += run->bundle->extras[i].stored;
	for (unsigned i = 0; i < run->trial->disk->nb_files; i++)
		images += run->trial->disk->files[i].stored;
	peak -= images < peak ? images : peak;
	if (peak > tally->peak_bytes)
		tally->peak_bytes = peak;
	if (run->trial->check_memory && peak > TRIAL_MEMORY_BYTES)
		broken("%s: %llu MiB of memory in phase %s", run->bundle->name,
		       (unsigned long long)peak >> 20, tally->phase);
}

/* ---- reading ---- */

static struct image *coroutine_fn open_image(struct run *run, const struct image_options *options)
{
	struct error *error = NULL;
	struct image *image = NULL;
	int ret = image_open(&run->trial->disk->opener, TRIAL_IMAGE, options, &image, &error);

	if (ret && (!error || !error->msg || !*error->msg || strchr(error->msg, '\n')))
		broken("%s: refused without one clear line", run->bundle->name);
	for (const char *c = error ? error->msg : ""; *c; c++)
		if ((unsigned char)*c < 0x20 || *c == 0x7f)
			broken("%s: the message holds a control byte", run->bundle->name);
	error_free(error);
	return ret ? NULL : image;
}

/* Follows the map; true when everything that was looked at could be read. */
static bool coroutine_fn read_mapped(struct run *run, struct image *image)
{
	uint64_t size = image_info(image)->virtual_size, pos = 0, budget = READ_BUDGET;
	bool fine = true;

	for (unsigned i = 0; i < MAP_STEPS_MAX && pos < size; i++) {
		struct map_extent extent;

		if (image_map(image, pos, size - pos, &extent)) {
			fine = false;
			pos += image_info(image)->cluster_size;
			continue;
		}
		if (extent.guest_off != pos || !extent.len_bytes || extent.len_bytes > size - pos)
			broken("%s: the map leaves its range", run->bundle->name);
		if (extent.kind != MAP_HOLE && budget) {
			uint64_t n = extent.len_bytes < READ_BYTES ? extent.len_bytes : READ_BYTES;

			if (image_read(image, pos, run->buf, n, NULL))
				fine = false;
			budget -= n < budget ? n : budget;
		}
		pos += extent.len_bytes;
	}
	return fine;
}

static bool coroutine_fn read_ends(struct run *run, struct image *image)
{
	uint64_t size = image_info(image)->virtual_size;
	uint64_t n = size < READ_BYTES ? size : READ_BYTES, off;
	int ret = image_read(image, 0, run->buf, n, NULL);

	if (!ret)
		ret = image_read(image, size - n, run->buf, n, NULL);
	image_seek(image, 0, UINT64_MAX, true, &off);
	image_seek(image, 0, UINT64_MAX, false, &off);
	image_host_sectors(image);
	return !ret;
}

static void coroutine_fn read_image(struct run *run)
{
	struct image_options options = {0};
	struct tally *tally = run->trial->tally;
	unsigned nb_snapshots;
	struct image *image;
	bool fine;

	phase(run, "open");
	image = open_image(run, &options);
	if (!image)
		return;
	tally->nb_opened++;
	phase(run, "read");
	fine = read_ends(run, image);
	fine = read_mapped(run, image) && fine;
	tally->nb_read_ok += fine;
	nb_snapshots = image_nb_snapshots(image);
	for (unsigned i = 0; i < nb_snapshots && i < SNAPSHOTS_TRIED; i++) {
		struct image_snapshot snapshot;
		struct image *other;

		phase(run, "snapshot");
		image_get_snapshot(image, i, &snapshot);
		options.snapshot = snapshot.id;
		other = open_image(run, &options);
		if (!other)
			continue;
		read_ends(run, other);
		read_mapped(run, other);
		image_close(other);
	}
	image_close(image);
}

/* ---- checking ---- */

static int coroutine_fn check_image(struct run *run, enum check_repair repair)
{
	struct check_options options = {.repair = repair};
	struct disk_file *file = &run->trial->disk->files[0];
	struct error *error = NULL;
	struct file *handle;
	int ret;

	if (file_create_virtual(run->trial->reactor, TRIAL_IMAGE, file, file->size, 512,
				repair != CHECK_ONLY, &handle))
		broken("no memory");
	ret = check_run(handle, &options, &run->report, &error);
	if (ret && !error)
		broken("%s: the check fails without a word", run->bundle->name);
	error_free(error);
	file_close(handle);
	return ret;
}

static bool is_sound(const struct check_report *report)
{
	return !report->corruptions && !report->check_errors && !report->corrupt;
}

/* ---- writing ---- */

/* A generator of its own, so that a trial is a function of the image alone. */
static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void coroutine_fn write_one(struct run *run, struct image *image, uint64_t *random)
{
	uint64_t size = image_info(image)->virtual_size;
	uint64_t len = 1 + next_random(random) % 3000, off;

	if (size < len)
		return;
	off = next_random(random) % ((size < 65536 ? size : 65536) - len + 1);
	if (next_random(random) % 4 == 0)
		off = size - len;
	memset(run->buf, (int)len, len);
	switch (next_random(random) % 6) {
	case 0:
		image_discard(image, off, len);
		return;
	case 1:
		image_zero(image, off, len, next_random(random) & 1);
		return;
	case 2:
		image_allocate(image, off, len);
		return;
	}
	if (image_write(image, off, run->buf, len) || !run->sound)
		return;
	memset(run->buf, ~(int)len, len);
	if (image_read(image, off, run->buf, len, NULL))
		broken("%s: what was written cannot be read", run->bundle->name);
	for (uint64_t i = 0; i < len; i++)
		if (run->buf[i] != (uint8_t)len)
			broken("%s: what was written at %llu is lost", run->bundle->name,
			       (unsigned long long)off);
	run->trial->tally->nb_written++;
}

static void coroutine_fn change_image(struct run *run, struct image *image)
{
	uint64_t size = image_info(image)->virtual_size, random = 0x9e3779b97f4a7c15ull ^ size;

	phase(run, "write");
	for (unsigned i = 0; i < WRITES; i++)
		write_one(run, image, &random);
	image_flush(image);
	phase(run, "resize");
	if (!image_resize(image, size + 70000))
		write_one(run, image, &random);
	image_resize(image, size / 2);
	phase(run, "write");
	for (unsigned i = 0; i < WRITES / 2; i++)
		write_one(run, image, &random);
	phase(run, "close");
	image_close(image);
}

static void coroutine_fn write_image(struct run *run)
{
	const struct image_options options = {.writable = true};
	struct image *image;

	phase(run, "open for writing");
	image = open_image(run, &options);
	if (!image)
		return;
	run->trial->tally->nb_writable++;
	change_image(run, image);
	phase(run, "check after writing");
	if (run->sound && (check_image(run, CHECK_ONLY) || !is_sound(&run->report)))
		broken("%s: was sound, and is damaged after writing", run->bundle->name);
}

/* ---- all of it ---- */

static void coroutine_fn run_all(void *arg)
{
	struct run *run = arg;

	read_image(run);
	check_memory(run);
	phase(run, "check");
	run->sound = !check_image(run, CHECK_ONLY) && is_sound(&run->report);
	check_memory(run);
	run->trial->tally->nb_sound += run->sound;
	write_image(run);
	check_memory(run);
	phase_of_passes(run, "repair", REPAIR_PASSES);
	check_image(run, CHECK_REPAIR_LEAKS);
	phase_of_passes(run, "repair all", REPAIR_PASSES);
	check_image(run, CHECK_REPAIR_ALL);
	phase(run, "check after repair");
	check_image(run, CHECK_ONLY);
	check_memory(run);
	phase(run, NULL);
}

static void begin(struct run *run, struct trial *trial, const struct bundle *bundle)
{
	*run = (struct run){.trial = trial, .bundle = bundle, .buf = malloc(READ_BYTES)};
	if (!run->buf)
		broken("no memory");
	trial->tally->phase = NULL;
	disk_clear(trial->disk);
	install(run);
}

void trial_run(struct trial *trial, const struct bundle *bundle)
{
	struct run run;

	begin(&run, trial, bundle);
	reactor_run(trial->reactor, run_all, &run);
	free(run.buf);
	trial->tally->nb_trials++;
}

/* ---- comparing ---- */

static void coroutine_fn run_compare(void *arg)
{
	const struct image_options options = {0};
	struct run *run = arg;
	struct image *image = open_image(run, &options);
	uint64_t size, step = 4096;

	run->result = -EINVAL;
	if (!image)
		return;
	size = image_info(image)->virtual_size;
	run->result = 0;
	/* A disk that ends within a sector ends with it there, and before it elsewhere. */
	if (size / 512 != run->flat_bytes / 512 && (size + 511) / 512 != run->flat_bytes / 512)
		run->result = 1;
	if (size > run->flat_bytes)
		size = run->flat_bytes;
	for (uint64_t pos = 0; pos < size && !run->result; pos += step) {
		uint64_t n = size - pos < step ? size - pos : step;

		if (image_read(image, pos, run->buf, n, NULL)) {
			run->nb_failed += n;
			continue;
		}
		for (uint64_t i = 0; i < n; i++)
			run->result += run->buf[i] != run->flat[pos + i];
	}
	image_close(image);
}

int64_t trial_compare(struct trial *trial, const struct bundle *bundle, const uint8_t *flat,
		      uint64_t flat_bytes, uint64_t *ret_nb_failed)
{
	struct run run;

	begin(&run, trial, bundle);
	run.flat = flat;
	run.flat_bytes = flat_bytes;
	reactor_run(trial->reactor, run_compare, &run);
	free(run.buf);
	*ret_nb_failed = run.nb_failed;
	return run.result;
}

static void coroutine_fn run_size(void *arg)
{
	const struct image_options options = {0};
	struct run *run = arg;
	struct image *image = open_image(run, &options);

	run->result = -EINVAL;
	if (!image)
		return;
	run->result = image_info(image)->virtual_size;
	image_close(image);
}

int64_t trial_size(struct trial *trial, const struct bundle *bundle)
{
	struct run run;

	begin(&run, trial, bundle);
	reactor_run(trial->reactor, run_size, &run);
	free(run.buf);
	return run.result;
}
