/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * check: findings one by one, repairs, and what a power cut or a fault leaves of them.
 *
 * The images are made here, byte by byte, so that each test says exactly what is wrong;
 * test/it/check-vs-qemu compares some hundred images with qemu-img. Everything runs on the
 * simulated disk.
 */
#include "core/check_int.h"
#include "io/buf.h"

#include "test/sim/choose.h"
#include "test/sim/crash.h"
#include "test/sim/run.h"
#include "test/sim/verdict.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define NAME "image"
#define IMG_BYTES_MAX (3u << 20)
#define NB_DATA 12u

/* Where the parts of a fresh image are, in clusters. */
enum { AT_HEADER, AT_REFTABLE, AT_BLOCK, AT_L1, AT_L2, AT_DATA, AT_END = AT_DATA + NB_DATA };

struct img {
	uint8_t *data;
	uint64_t size;
	unsigned bits, order;
};

static uint64_t at(const struct img *img, uint64_t cluster)
{
	return cluster << img->bits;
}

static void img_put(struct img *img, uint64_t off, uint64_t value)
{
	be64_put(img->data + off, value);
}

static void img_refcount(struct img *img, uint64_t cluster, uint64_t refcount)
{
	check_refcount_put(img->data + at(img, AT_BLOCK), cluster, img->order, refcount);
}

/* The entry of guest cluster `index`. */
static uint64_t l2_off(const struct img *img, unsigned index)
{
	return at(img, AT_L2) + index * 8;
}

static void img_header(struct img *img)
{
	struct qcow2_header *header = (void *)img->data;

	be32_put(&header->magic, QCOW2_MAGIC);
	be32_put(&header->version, 3);
	be32_put(&header->cluster_bits, img->bits);
	be64_put(&header->size, 1ull << (2 * img->bits - 3));
	be32_put(&header->l1_size, 4);
	be64_put(&header->l1_table_offset, at(img, AT_L1));
	be64_put(&header->refcount_table_offset, at(img, AT_REFTABLE));
	be32_put(&header->refcount_table_clusters, 1);
	be32_put(&header->refcount_order, img->order);
	be32_put(&header->header_length, sizeof(*header));
}

/* A sound image with NB_DATA clusters of data, cluster i of it full of bytes i + 1. */
static struct img img_make(unsigned bits, unsigned order)
{
	struct img img = {.bits = bits, .order = order, .size = (uint64_t)AT_END << bits};

	img.data = calloc(1, IMG_BYTES_MAX);
	assert_non_null(img.data);
	img_header(&img);
	img_put(&img, at(&img, AT_REFTABLE), at(&img, AT_BLOCK));
	img_put(&img, at(&img, AT_L1), at(&img, AT_L2) | ENTRY_COPIED);
	for (unsigned i = 0; i < NB_DATA; i++) {
		img_put(&img, l2_off(&img, i), at(&img, AT_DATA + i) | ENTRY_COPIED);
		memset(img.data + at(&img, AT_DATA + i), i + 1, 1u << bits);
	}
	for (unsigned i = 0; i < AT_END; i++)
		img_refcount(&img, i, 1);
	return img;
}

/* A snapshot without tables of its own worth mentioning: an L1 that shares the L2 table. */
static void img_add_snapshot(struct img *img, uint32_t extra_bytes)
{
	uint64_t table = img->size, l1 = table + (1u << img->bits);
	struct qcow2_header *header = (void *)img->data;
	struct qcow2_snapshot_header *raw = (void *)(img->data + table);

	be32_put(&header->nb_snapshots, 1);
	be64_put(&header->snapshots_offset, table);
	be64_put(&raw->l1_table_offset, l1);
	be32_put(&raw->l1_size, 4);
	be16_put(&raw->id_str_size, 1);
	be16_put(&raw->name_size, 4);
	be32_put(&raw->vm_state_size, 77);
	be32_put(&raw->extra_data_size, extra_bytes);
	memcpy(img->data + table + sizeof(*raw) + extra_bytes, "1name", 5);
	img_put(img, l1, at(img, AT_L2));
	img_put(img, at(img, AT_L1), at(img, AT_L2));
	for (unsigned i = 0; i < NB_DATA; i++)
		img_put(img, l2_off(img, i), at(img, AT_DATA + i));
	for (unsigned i = AT_L2; i < AT_END; i++)
		img_refcount(img, i, 2);
	img_refcount(img, AT_END, 1);
	img_refcount(img, AT_END + 1, 1);
	img->size += 2u << img->bits;
}

/* ---- running ---- */

struct job {
	struct sim sim;
	struct check_options options;
	struct check_report report;
	uint64_t copied_wrong; /* found at last */
	uint64_t nb_clusters;  /* counters at last */
	struct file_stats stats;
	char line[200]; /* the first finding */
	int result;
	enum error_class class;
};

static void keep_first(void *ctx, const char *line)
{
	struct job *job = ctx;

	if (!job->line[0])
		snprintf(job->line, sizeof(job->line), "%s", line);
}

static struct file *job_open(struct job *job)
{
	struct opener *opener = &job->sim.disk->opener;
	struct file *file;

	assert_int_equal(
		opener->open(opener, OPENER_IMAGE, NULL, NAME, true, FILE_LOCK_NONE, &file, NULL),
		0);
	return file;
}

static void coroutine_fn job_main(void *arg)
{
	struct job *job = arg;
	struct error *error = NULL;
	struct file *file = job_open(job);

	job->options.say = keep_first;
	job->options.ctx = job;
	job->result = check_run(file, &job->options, &job->report, &error);
	assert_int_equal(!job->result, !error);
	job->class = error ? error->class : ERROR_SYSTEM;
	job->stats = file->stats;
	error_free(error);
	file_close(file);
}

static void job_start(struct job *job, const struct img *img)
{
	*job = (struct job){0};
	verdict_clear();
	choose_seed(1);
	sim_create(&job->sim);
	sim_add_file(job->sim.disk, NAME, img->data, img->size, false);
	job->sim.disk->mode = SIM_DIRECT;
}

static void job_check(struct job *job, enum check_repair repair)
{
	job->options.repair = repair;
	job->line[0] = 0;
	reactor_run(job->sim.reactor, job_main, job);
	assert_false(verdict_failed());
}

static void job_end(struct job *job)
{
	sim_destroy(&job->sim);
}

static const struct sim_bytes *job_bytes(const struct job *job)
{
	return &job->sim.disk->files[0].bytes;
}

static void assert_counts(const struct job *job, uint64_t leaks, uint64_t corruptions)
{
	if (job->result || job->report.leaks != leaks || job->report.corruptions != corruptions)
		fail_msg("result %d, %llu leaks, %llu corruptions: %s", job->result,
			 (unsigned long long)job->report.leaks,
			 (unsigned long long)job->report.corruptions, job->line);
	assert_int_equal(job->report.check_errors, 0);
}

/* Whether every guest cluster of the bytes holds what img_make() put there. */
static bool guest_is_intact(const struct sim_bytes *bytes, const struct img *img)
{
	uint64_t l1 = be64_get(bytes->data + at(img, AT_L1)) & L1_OFFSET_MASK;

	for (unsigned i = 0; i < NB_DATA; i++) {
		uint64_t off = be64_get(bytes->data + l1 + i * 8) & L2_OFFSET_MASK;

		for (unsigned j = 0; j < 1u << img->bits; j++)
			if (bytes->data[off + j] != i + 1)
				return false;
	}
	return true;
}

/* Checks `img`, whose findings are known; repairs it; afterwards nothing is wrong. */
static void check_and_repair(const struct img *img, enum check_repair repair, uint64_t leaks,
			     uint64_t corruptions)
{
	struct job job;

	job_start(&job, img);
	job_check(&job, CHECK_ONLY);
	assert_counts(&job, leaks, corruptions);
	assert_int_equal(job.stats.nb_writes, 0);
	assert_true(guest_is_intact(job_bytes(&job), img));
	job_check(&job, repair);
	assert_counts(&job, 0, 0);
	assert_int_equal(job.report.leaks_fixed, leaks);
	assert_int_equal(job.report.corruptions_fixed, corruptions);
	assert_true(guest_is_intact(job_bytes(&job), img));
	job_check(&job, repair);
	assert_counts(&job, 0, 0);
	assert_int_equal(job.stats.nb_writes, 0);
	job_end(&job);
	free(img->data);
}

/* ---- refcounts of every width, counters of every width ---- */

static void refcounts_of_every_width(void **state)
{
	for (unsigned order = 0; order <= 6; order++) {
		uint64_t max = UINT64_MAX >> (64 - (1u << order));
		uint8_t block[512];
		unsigned nb = 4096 >> order;

		memset(block, 0xff, sizeof(block));
		for (unsigned i = 0; i < nb; i++) {
			assert_int_equal(check_refcount_get(block, i, order), max);
			check_refcount_put(block, i, order, i & max);
		}
		for (unsigned i = 0; i < nb; i++)
			assert_int_equal(check_refcount_get(block, i, order), i & max);
	}
	/* Below a byte the least significant bits come first, above it is big-endian. */
	const uint8_t bytes[8] = {0xb1, 0x02, 0, 0, 0, 0, 0, 3};
	assert_int_equal(check_refcount_get(bytes, 0, 0), 1);
	assert_int_equal(check_refcount_get(bytes, 1, 0), 0);
	assert_int_equal(check_refcount_get(bytes, 3, 1), 2);
	assert_int_equal(check_refcount_get(bytes, 0, 2), 1);
	assert_int_equal(check_refcount_get(bytes, 1, 2), 0xb);
	assert_int_equal(check_refcount_get(bytes, 0, 4), 0xb102);
	assert_int_equal(check_refcount_get(bytes, 1, 5), 3);
	assert_int_equal(check_refcount_get(bytes, 0, 6), 0xb102000000000003);
}

static void counters_widen(void **state)
{
	struct check_refs refs;

	assert_int_equal(check_refs_init(&refs, 100), 0);
	assert_int_equal(check_refs_add(&refs, 7, 3), 0);
	assert_int_equal(check_refs_add(&refs, 8, 255), 0);
	assert_int_equal(refs.width, 1);
	assert_int_equal(check_refs_add(&refs, 8, 1), 0);
	assert_int_equal(refs.width, 2);
	assert_int_equal(check_refs_add(&refs, 9, 70000), 0);
	assert_int_equal(refs.width, 4);
	assert_int_equal(check_refs_get(&refs, 7), 3);
	assert_int_equal(check_refs_get(&refs, 8), 256);
	assert_int_equal(check_refs_get(&refs, 9), 70000);
	assert_int_equal(check_refs_add(&refs, 9, UINT32_MAX - 70000), 0);
	assert_int_equal(check_refs_add(&refs, 9, 1), -EOVERFLOW);
	check_refs_finish(&refs);
}

/* ---- findings ---- */

static void sound_images(void **state)
{
	for (unsigned order = 0; order <= 6; order++) {
		struct img img = img_make(order % 2 ? 12 : 9, order);
		struct job job;

		job_start(&job, &img);
		job_check(&job, CHECK_ONLY);
		assert_counts(&job, 0, 0);
		assert_int_equal(job.report.allocated_clusters, NB_DATA);
		assert_int_equal(job.report.fragmented_clusters, 0);
		assert_int_equal(job.report.image_end_offset, img.size);
		assert_int_equal(job.report.total_clusters, 1u << (img.bits - 3));
		/* A small file is one read. */
		assert_int_equal(job.stats.nb_reads, 1);
		job_check(&job, CHECK_REPAIR_ALL);
		assert_int_equal(job.stats.nb_writes, 0);
		job_end(&job);
		free(img.data);
	}
}

static void leak(void **state)
{
	for (unsigned order = 1; order <= 6; order++) {
		struct img img = img_make(9, order);

		img_refcount(&img, AT_DATA + 3, 2);
		img_put(&img, l2_off(&img, 3), at(&img, AT_DATA + 3));
		img_put(&img, l2_off(&img, NB_DATA), 0);
		check_and_repair(&img, order % 2 ? CHECK_REPAIR_LEAKS : CHECK_REPAIR_ALL, 1, 0);
	}
}

static void refcount_too_low(void **state)
{
	struct img img = img_make(9, 4);

	/* Two entries for one cluster, rightly without COPIED: only the refcount is wrong. */
	img_put(&img, l2_off(&img, 20), at(&img, AT_DATA + 3));
	img_put(&img, l2_off(&img, 3), at(&img, AT_DATA + 3));
	img_refcount(&img, AT_DATA + 3, 0);
	check_and_repair(&img, CHECK_REPAIR_ALL, 0, 1);
}

static void copied_flags(void **state)
{
	struct img img = img_make(9, 4);

	img_put(&img, at(&img, AT_L1), at(&img, AT_L2));
	img_put(&img, l2_off(&img, 1), at(&img, AT_DATA + 1));
	check_and_repair(&img, CHECK_REPAIR_ALL, 0, 2);
}

static void reserved_bits(void **state)
{
	struct img img = img_make(9, 4);

	img_put(&img, at(&img, AT_L1), at(&img, AT_L2) | ENTRY_COPIED | 1ull << 57);
	img_put(&img, l2_off(&img, 1), at(&img, AT_DATA + 1) | ENTRY_COPIED | 1ull << 60);
	img_put(&img, l2_off(&img, 30), 1ull << 58);
	img_put(&img, at(&img, AT_L1) + 8, 1ull << 63); /* flags without a table */
	check_and_repair(&img, CHECK_REPAIR_ALL, 0, 4);
}

static void misaligned_reserve(void **state)
{
	struct img img = img_make(12, 4);

	/* Zeros with a cluster in reserve that cannot be one: the zeros remain. */
	img_put(&img, l2_off(&img, 30), at(&img, AT_DATA) + 512 + L2_ZERO);
	check_and_repair(&img, CHECK_REPAIR_ALL, 0, 1 + 2 + 1); /* and what it overlaps */
}

static void refcount_block_used_twice(void **state)
{
	struct img img = img_make(9, 4);

	img_put(&img, at(&img, AT_REFTABLE) + 8, at(&img, AT_BLOCK));
	check_and_repair(&img, CHECK_REPAIR_ALL, 0, 2);
}

static void refcount_structures_lost(void **state)
{
	for (unsigned order = 0; order <= 6; order++) {
		struct img img = img_make(9, order);
		uint64_t off = at(&img, AT_REFTABLE);

		img_put(&img, off, 0);
		/* Nothing has a refcount, nor do the COPIED flags agree with that. */
		check_and_repair(&img, CHECK_REPAIR_ALL, 0, AT_END - 1 + NB_DATA + 1);
	}
}

static void incomplete_snapshot(void **state)
{
	static const uint32_t extra[] = {0, 8};

	for (unsigned i = 0; i < 2; i++) {
		struct img img = img_make(9, 4);
		struct job job;
		const struct qcow2_snapshot_extra *added;
		const uint8_t *table;

		img_add_snapshot(&img, extra[i]);
		job_start(&job, &img);
		job_check(&job, CHECK_ONLY);
		assert_counts(&job, 0, 1);
		job_check(&job, CHECK_REPAIR_ALL);
		assert_counts(&job, 0, 0);
		assert_true(guest_is_intact(job_bytes(&job), &img));
		table = job_bytes(&job)->data + be64_get(job_bytes(&job)->data + 64);
		added = (const void *)(table + 40);
		assert_int_equal(be32_get(table + 36), 16);
		assert_int_equal(be64_get(&added->vm_state_size_large), extra[i] ? 0 : 77);
		assert_int_equal(be64_get(&added->disk_size), be64_get(img.data + 24));
		assert_memory_equal(table + 56, "1name", 5);
		job_end(&job);
		free(img.data);
	}
}

/* Lets guest cluster 30 be a cluster of metadata, with a refcount that agrees. */
static void img_overlap(struct img *img, unsigned target)
{
	img_put(img, l2_off(img, 30), at(img, target));
	img_refcount(img, target, 2);
	if (target == AT_L2)
		img_put(img, at(img, AT_L1), at(img, AT_L2));
}

/* Three clusters of data in an external data file, the last of which are zeros. */
static struct img img_make_external(bool raw)
{
	struct img img = img_make(9, 4);
	struct qcow2_header *header = (void *)img.data;

	be64_put(&header->incompatible_features, INCOMPAT_DATA_FILE);
	be64_put(&header->autoclear_features, raw ? AUTOCLEAR_DATA_FILE_RAW : 0);
	for (unsigned i = 0; i < NB_DATA; i++) {
		img_put(&img, l2_off(&img, i), i < 3 ? at(&img, i) | ENTRY_COPIED : 0);
		img_refcount(&img, AT_DATA + i, 0);
	}
	img_put(&img, l2_off(&img, 2), at(&img, 2) | ENTRY_COPIED | L2_ZERO);
	img.size = at(&img, AT_DATA);
	return img;
}

/*
 * A cluster of an external data file is where the guest has it. Where the file is a raw image
 * there is nothing to guess; otherwise only zeros can be told to be right.
 */
static void elsewhere_in_a_data_file(void **state)
{
	for (unsigned raw = 0; raw < 2; raw++) {
		struct img img = img_make_external(raw);
		const uint64_t zero = raw ? at(&img, 2) | ENTRY_COPIED | L2_ZERO : L2_ZERO;
		const uint64_t data = at(&img, raw ? 1 : 7) | ENTRY_COPIED;
		const uint8_t *l2;
		struct job job;

		job_start(&job, &img);
		job_check(&job, CHECK_ONLY);
		assert_counts(&job, 0, 0);
		job_end(&job);
		img_put(&img, l2_off(&img, 1), at(&img, 7) | ENTRY_COPIED);
		img_put(&img, l2_off(&img, 2), at(&img, 8) | ENTRY_COPIED | L2_ZERO);
		job_start(&job, &img);
		job_check(&job, CHECK_ONLY);
		assert_counts(&job, 0, 2);
		assert_int_equal(job.report.misplaced, 2);
		assert_non_null(
			strstr(job.line, "0xe00 of the external data file belongs at 0x200"));
		job_check(&job, CHECK_REPAIR_ALL);
		assert_counts(&job, 0, raw ? 0 : 1);
		assert_int_equal(job.report.corruptions_fixed, raw ? 2 : 1);
		l2 = job_bytes(&job)->data + l2_off(&img, 0);
		assert_int_equal(be64_get(l2), ENTRY_COPIED);
		assert_int_equal(be64_get(l2 + 8), data);
		assert_int_equal(be64_get(l2 + 16), zero);
		job_check(&job, CHECK_REPAIR_ALL);
		assert_int_equal(job.stats.nb_writes, 0);
		job_end(&job);
		free(img.data);
	}
}

/* Metadata used as data is a corruption even so; the guest keeps what it reads there. */
static void overlap_that_refcounts_hide(void **state)
{
	static const unsigned targets[] = {AT_REFTABLE, AT_L1, AT_L2};

	for (unsigned i = 0; i < 3; i++) {
		struct img img = img_make(9, 4);
		struct job job;
		uint64_t moved;

		img_overlap(&img, targets[i]);
		job_start(&job, &img);
		job_check(&job, CHECK_ONLY);
		assert_counts(&job, 0, 1);
		assert_int_equal(job.report.overlaps, 1);
		job_check(&job, CHECK_REPAIR_ALL);
		assert_counts(&job, 0, 0);
		assert_true(guest_is_intact(job_bytes(&job), &img));
		moved = be64_get(job_bytes(&job)->data + l2_off(&img, 30)) & L2_OFFSET_MASK;
		assert_int_not_equal(moved, at(&img, targets[i]));
		assert_memory_equal(job_bytes(&job)->data + moved, img.data + at(&img, targets[i]),
				    512);
		job_check(&job, CHECK_REPAIR_ALL);
		assert_int_equal(job.stats.nb_writes, 0);
		job_end(&job);
		free(img.data);
	}
}

/* ---- bounds ---- */

static void coroutine_fn far_main(void *arg)
{
	struct job *job = arg;
	struct file *file = job_open(job);
	struct check check = {.file = file, .options = &job->options};

	job->result = check_pass(&check, &job->report, NULL);
	job->nb_clusters = check.refs.cap;
	job->stats = file->stats;
	check_finish(&check);
	file_close(file);
}

/* Offsets far beyond the file cost no memory, no I/O, and are counted one by one. */
static void far_offsets_cost_nothing(void **state)
{
	struct img img = img_make(9, 4);
	struct job job;

	for (unsigned i = 0; i < 64; i++)
		img_put(&img, l2_off(&img, i), (1ull << 55) + ((uint64_t)i << 40));
	for (unsigned i = 1; i < 4; i++)
		img_put(&img, at(&img, AT_L1) + 8 * i, (1ull << 54) + ((uint64_t)i << 30));
	for (unsigned i = 1; i < 64; i++)
		img_put(&img, at(&img, AT_REFTABLE) + 8 * i, (1ull << 60) + ((uint64_t)i << 30));
	job_start(&job, &img);
	reactor_run(job.sim.reactor, far_main, &job);
	assert_int_equal(job.result, 0);
	assert_int_equal(job.report.corruptions, 64 + 3 + 63);
	assert_int_equal(job.report.leaks, NB_DATA);
	assert_in_range(job.nb_clusters, AT_END, AT_END + 2);
	assert_int_equal(job.stats.nb_reads, 1);
	job_end(&job);
	free(img.data);
}

/* As many L1 entries and snapshots as can be, all for one L2 table: it is read once. */
static void shared_table_is_read_once(void **state)
{
	struct img img = img_make(9, 4);
	struct qcow2_header *header = (void *)img.data;
	struct job job;

	img.size = IMG_BYTES_MAX; /* too large to be read whole */
	be32_put(&header->l1_size, 64);
	for (unsigned i = 0; i < 64; i++)
		img_put(&img, at(&img, AT_L1) + 8 * i, at(&img, AT_L2));
	job_start(&job, &img);
	job_check(&job, CHECK_ONLY);
	assert_int_equal(job.result, 0);
	assert_int_equal(job.report.allocated_clusters, 64 * NB_DATA);
	/* header, refcount table, refcount block, L1, L2 */
	assert_in_range(job.stats.nb_reads, 1, 8);
	job_end(&job);
	free(img.data);
}

/* Snapshots that all claim the whole file as their L1 table end in an error, soon. */
static void overlapping_tables_are_bounded(void **state)
{
	struct img img = img_make(9, 4);
	struct qcow2_header *header = (void *)img.data;
	uint64_t table = IMG_BYTES_MAX - 1000 * 56;
	struct job job;

	img.size = IMG_BYTES_MAX;
	table &= ~511ull;
	be32_put(&header->nb_snapshots, 1000);
	be64_put(&header->snapshots_offset, table);
	for (unsigned i = 0; i < 1000; i++) {
		struct qcow2_snapshot_header *raw = (void *)(img.data + table + i * 56);

		be64_put(&raw->l1_table_offset, at(&img, AT_END + i));
		be32_put(&raw->l1_size, 1u << 22);
		be32_put(&raw->extra_data_size, 16);
	}
	job_start(&job, &img);
	job_check(&job, CHECK_ONLY);
	assert_int_equal(job.result, 0);
	assert_true(job.report.check_errors > 0);
	assert_in_range(job.stats.read_bytes, 0, 40ull * IMG_BYTES_MAX);
	job_end(&job);
	free(img.data);
}

static void refused_headers(void **state)
{
	static const struct {
		unsigned off;
		uint32_t value;
		enum error_class class;
	} cases[] = {
		{0, 1, ERROR_OPEN},          {4, 4, ERROR_UNSUPPORTED},  {20, 8, ERROR_OPEN},
		{20, 22, ERROR_OPEN},        {32, 3, ERROR_UNSUPPORTED}, {36, 0, ERROR_OPEN},
		{36, 1u << 31, ERROR_OPEN},  {44, 8, ERROR_OPEN},        {40, 1u << 31, ERROR_OPEN},
		{56, 1u << 20, ERROR_OPEN},  {52, 8, ERROR_OPEN},        {96, 7, ERROR_OPEN},
		{76, 64, ERROR_UNSUPPORTED}, {100, 100, ERROR_OPEN},     {100, 513, ERROR_OPEN},
		{60, 65537, ERROR_CORRUPT},  {12, 600, ERROR_OPEN},
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct img img = img_make(9, 4);
		struct job job;

		be32_put(img.data + cases[i].off, cases[i].value);
		job_start(&job, &img);
		job_check(&job, CHECK_REPAIR_ALL);
		if (!job.result || job.class != cases[i].class)
			fail_msg("field at %u: result %d, class %d", cases[i].off, job.result,
				 job.class);
		assert_int_equal(job.stats.nb_writes, 0);
		job_end(&job);
		free(img.data);
	}
}

/* ---- the dirty bit ---- */

static void coroutine_fn dirty_main(void *arg)
{
	struct job *job = arg;
	struct error *error = NULL;
	struct file *file = job_open(job);

	job->result = check_rebuild_refcounts(file, &error);
	job->class = error ? error->class : ERROR_SYSTEM;
	error_free(error);
	file_close(file);
}

static void dirty_image_is_rebuilt(void **state)
{
	struct img img = img_make(9, 4);
	struct job job;

	img_put(&img, 72, INCOMPAT_DIRTY);
	for (unsigned i = AT_DATA; i < AT_END; i++)
		img_refcount(&img, i, 0);
	job_start(&job, &img);
	reactor_run(job.sim.reactor, dirty_main, &job);
	assert_int_equal(job.result, 0);
	assert_int_equal(be64_get(job_bytes(&job)->data + 72), 0);
	assert_true(guest_is_intact(job_bytes(&job), &img));
	job_check(&job, CHECK_ONLY);
	assert_counts(&job, 0, 0);
	assert_false(job.report.dirty);
	job_end(&job);
	free(img.data);
}

static void dirty_and_damaged_is_refused(void **state)
{
	struct img img = img_make(12, 4);
	struct job job;

	img_put(&img, 72, INCOMPAT_DIRTY);
	img_put(&img, l2_off(&img, 1), (at(&img, AT_DATA + 1) + 512) | ENTRY_COPIED);
	job_start(&job, &img);
	reactor_run(job.sim.reactor, dirty_main, &job);
	assert_int_equal(job.result, -EIO);
	assert_int_equal(job.class, ERROR_CORRUPT);
	assert_int_equal(be64_get(job_bytes(&job)->data + 72), INCOMPAT_DIRTY);
	job_end(&job);
	free(img.data);
}

/* ---- power cuts and faults during a repair ---- */

/* Images with something to repair for every step. */
static struct img damaged(unsigned kind)
{
	struct img img = img_make(9, 4);

	switch (kind) {
	case 0: /* leaks, one of which wants its COPIED flag back */
		img_refcount(&img, AT_DATA + 3, 2);
		img_put(&img, l2_off(&img, 3), at(&img, AT_DATA + 3));
		img.size += 1024;
		img_refcount(&img, AT_END, 1);
		break;
	case 1: /* too low, in place */
		img_put(&img, l2_off(&img, 20), at(&img, AT_DATA + 3));
		img_refcount(&img, AT_DATA + 4, 0);
		img_refcount(&img, AT_DATA + 5, 3);
		img_put(&img, 72, INCOMPAT_DIRTY | INCOMPAT_CORRUPT);
		break;
	case 2: /* the structures are gone */
		img_put(&img, at(&img, AT_REFTABLE), 0);
		img_put(&img, 72, INCOMPAT_CORRUPT);
		break;
	case 3: /* entries to be mended */
		img_put(&img, at(&img, AT_L1), at(&img, AT_L2) | 1ull << 57);
		img_put(&img, l2_off(&img, 30), 1ull << 58);
		break;
	case 4: /* data in the L1 table */
		img_overlap(&img, AT_L1);
		break;
	default: /* a snapshot table to be replaced */
		img_add_snapshot(&img, 0);
	}
	return img;
}
#define NB_DAMAGED 6u

struct cut {
	struct job job;
	const struct img *img;
	uint64_t corruptions; /* before the repair, without COPIED flags */
	unsigned nb_states;
};

static void coroutine_fn count_main(void *arg)
{
	struct job *job = arg;
	struct file *file = job_open(job);
	struct check check = {.file = file, .options = &job->options};

	job->options = (struct check_options){0};
	job->result = check_pass(&check, &job->report, NULL);
	job->copied_wrong = check.copied_wrong;
	check_finish(&check);
	file_close(file);
}

/* Corruptions other than COPIED flags: those alone cannot change with a refcount at once. */
static uint64_t corruptions_but_copied(struct job *job)
{
	reactor_run(job->sim.reactor, count_main, job);
	assert_int_equal(job->result, 0);
	return job->report.corruptions - job->copied_wrong;
}

static bool judge_cut(void *ctx, const struct crash_state *state)
{
	struct cut *cut = ctx;
	struct job *job = &cut->job;
	unsigned mark = job->sim.disk->nb_undo;

	cut->nb_states++;
	if (corruptions_but_copied(job) > cut->corruptions)
		fail_msg("%llu corruptions after a power cut: %s",
			 (unsigned long long)job->report.corruptions, crash_describe(state));
	if (!guest_is_intact(job_bytes(job), cut->img))
		fail_msg("guest bytes changed: %s", crash_describe(state));
	job_check(job, CHECK_REPAIR_ALL);
	assert_counts(job, 0, 0);
	if (!guest_is_intact(job_bytes(job), cut->img))
		fail_msg("guest bytes changed by the second repair: %s", crash_describe(state));
	sim_undo(job->sim.disk, mark);
	return true;
}

static void power_cuts(void **state)
{
	const struct crash_params params = {.max_exhaustive = 10, .nb_random = 32};

	for (unsigned kind = 0; kind < NB_DAMAGED; kind++) {
		struct img img = damaged(kind);
		struct cut cut = {.img = &img};
		struct job *job = &cut.job;
		struct history history;
		struct model model;

		job_start(job, &img);
		cut.corruptions = corruptions_but_copied(job);
		job->sim.disk->mode = SIM_LOGGED;
		model_init(&model, 8, 8);
		history_begin(&history, job->sim.disk);
		job_check(job, CHECK_REPAIR_ALL);
		assert_counts(job, 0, 0);
		history_end(&history, job->sim.disk);
		job->sim.disk->mode = SIM_DIRECT;
		crash_visit(job->sim.disk, &history, &model, &params, judge_cut, &cut);
		printf("kind %u: %u states\n", kind, cut.nb_states);
		assert_true(cut.nb_states >= 4);
		history_free(&history);
		model_free(&model);
		job_end(job);
		free(img.data);
	}
}

/* Every request fails once: the repair says so, loses nothing, and succeeds when repeated. */
static void every_request_fails_once(void **state)
{
	for (unsigned kind = 0; kind < NB_DAMAGED; kind++) {
		struct img img = damaged(kind);
		unsigned nb_failed = 0;

		for (unsigned nth = 0;; nth++) {
			struct job job;

			job_start(&job, &img);
			job.sim.disk->mode = SIM_LOGGED;
			job.sim.disk->fault = (struct sim_fault){.at = nth, .count = 1, .err = EIO};
			job_check(&job, CHECK_REPAIR_ALL);
			if (!job.sim.disk->nb_faulted) {
				assert_counts(&job, 0, 0);
				job_end(&job);
				break;
			}
			nb_failed++;
			assert_int_equal(job.result, -EIO);
			assert_true(guest_is_intact(job_bytes(&job), &img));
			job.sim.disk->fault.count = 0;
			job_check(&job, CHECK_REPAIR_ALL);
			assert_counts(&job, 0, 0);
			assert_true(guest_is_intact(job_bytes(&job), &img));
			job_end(&job);
		}
		printf("kind %u: %u requests\n", kind, nb_failed);
		assert_true(nb_failed >= 3);
		free(img.data);
	}
}

/* Every buffer is missing once. */
static void every_buffer_is_missing_once(void **state)
{
	for (unsigned kind = 0; kind < NB_DAMAGED; kind++) {
		struct img img = damaged(kind);
		bool failed = true;

		for (unsigned nth = 1; failed; nth++) {
			struct job job;

			job_start(&job, &img);
			buf_fail_nth(nth);
			job_check(&job, CHECK_REPAIR_ALL);
			buf_fail_nth(0);
			failed = job.result;
			if (failed)
				assert_int_equal(job.result, -ENOMEM);
			else
				assert_counts(&job, 0, 0);
			assert_true(guest_is_intact(job_bytes(&job), &img));
			assert_true(failed || nth > 2);
			job_end(&job);
		}
		free(img.data);
	}
}

static int group_teardown(void **state)
{
	buf_trim();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(refcounts_of_every_width),
		cmocka_unit_test(counters_widen),
		cmocka_unit_test(sound_images),
		cmocka_unit_test(leak),
		cmocka_unit_test(refcount_too_low),
		cmocka_unit_test(copied_flags),
		cmocka_unit_test(reserved_bits),
		cmocka_unit_test(misaligned_reserve),
		cmocka_unit_test(refcount_block_used_twice),
		cmocka_unit_test(refcount_structures_lost),
		cmocka_unit_test(incomplete_snapshot),
		cmocka_unit_test(elsewhere_in_a_data_file),
		cmocka_unit_test(overlap_that_refcounts_hide),
		cmocka_unit_test(far_offsets_cost_nothing),
		cmocka_unit_test(shared_table_is_read_once),
		cmocka_unit_test(overlapping_tables_are_bounded),
		cmocka_unit_test(refused_headers),
		cmocka_unit_test(dirty_image_is_rebuilt),
		cmocka_unit_test(dirty_and_damaged_is_refused),
		cmocka_unit_test(power_cuts),
		cmocka_unit_test(every_request_fails_once),
		cmocka_unit_test(every_buffer_is_missing_once),
	};

	return cmocka_run_group_tests(tests, NULL, group_teardown);
}
