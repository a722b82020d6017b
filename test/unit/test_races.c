/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * test_races: the windows that locks, pins and the quarantine close, each held open on
 * purpose: the simulated disk keeps back a request of one kind until nothing else can
 * complete, while other clients do what would hurt.
 */
#include "test/sim/choose.h"
#include "test/sim/lab.h"
#include "test/sim/verdict.h"

#include "core/format.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define NB_SEEDS 12u
#define SECOND_NS 1000000000ull

typedef bool hold_fn(void *ctx, const struct io_req *req);

static bool is_data_write(void *ctx, const struct io_req *req)
{
	return req->op == IO_WRITE && (req->tag == IO_TAG_DATA || req->tag == IO_TAG_COW);
}

static bool is_cluster_write(void *ctx, const struct io_req *req)
{
	return is_data_write(ctx, req) && req->len_bytes == 4096;
}

static bool is_copy(void *ctx, const struct io_req *req)
{
	return req->op == IO_WRITE && req->tag == IO_TAG_COW;
}

static bool is_data_read(void *ctx, const struct io_req *req)
{
	return req->op == IO_READ && req->tag == IO_TAG_DATA;
}

static bool is_new_table(void *ctx, const struct io_req *req)
{
	return (req->op == IO_WRITE || req->op == IO_ZERO) && req->tag == IO_TAG_L2;
}

static bool is_l1_read(void *ctx, const struct io_req *req)
{
	return req->op == IO_READ && req->tag == IO_TAG_L1;
}

static bool is_punch(void *ctx, const struct io_req *req)
{
	return req->op == IO_PUNCH;
}

#define TRAFFIC_CLIENTS 6u
#define TRAFFIC_OPS 42u /* per client */

/* The operations under several seeds; client i of n performs i, i + n, ... */
static void race(const char *cell, hold_fn *hold, bool punches, const struct guest_op *ops,
		 unsigned nb_ops, unsigned nb_clients)
{
	struct lab lab;

	lab_open(&lab, cell);
	for (uint64_t seed = 1; seed <= lab_nb_seeds(NB_SEEDS); seed++) {
		lab_prepare(&lab, seed, ops, nb_ops, nb_clients);
		lab.sim.disk->no_fallocate = !punches;
		lab.sim.disk->hold = hold;
		lab_explore(&lab);
		lab.sim.disk->hold = NULL;
		lab_no_violation(&lab);
		assert_int_equal(lab.run.nb_failed, 0);
	}
	lab_close(&lab);
}

#define RACE(cell, hold, punches, nb_clients, ...)                                        \
	do {                                                                              \
		const struct guest_op ops[] = {__VA_ARGS__};                              \
		race(cell, hold, punches, ops, sizeof(ops) / sizeof(ops[0]), nb_clients); \
	} while (0)

/*
 * The operations of two clients, while others keep the disk busy with `traffic`, so that what is
 * held back stays back.
 */
static void race_in_traffic(const char *cell, hold_fn *hold, bool punches, struct guest_op traffic,
			    const struct guest_op *first, unsigned nb_first,
			    const struct guest_op *second, unsigned nb_second)
{
	struct guest_op ops[TRAFFIC_CLIENTS * TRAFFIC_OPS];

	for (unsigned i = 0; i < TRAFFIC_CLIENTS * TRAFFIC_OPS; i++)
		ops[i] = traffic;
	for (unsigned i = 0; i < nb_first; i++)
		ops[TRAFFIC_CLIENTS * i] = first[i];
	for (unsigned i = 0; i < nb_second; i++)
		ops[TRAFFIC_CLIENTS * i + 1] = second[i];
	race(cell, hold, punches, ops, TRAFFIC_CLIENTS * TRAFFIC_OPS, TRAFFIC_CLIENTS);
}

#define C4K 4096u

/* A flush beside an allocating write must not show the new cluster before its data. */
static void test_entry_shows_no_cluster_without_its_data(void **state)
{
	RACE("c4k-r16-compressed", is_data_write, true, 2, {GUEST_WRITE, 0, C4K},
	     {GUEST_READ, C4K, C4K}, {GUEST_FLUSH, 0, 0}, {GUEST_FLUSH, 0, 0}, {GUEST_FLUSH, 0, 0},
	     {GUEST_READ, 5 * C4K, C4K}, {GUEST_FLUSH, 0, 0}, {GUEST_FLUSH, 0, 0},
	     {GUEST_FLUSH, 0, 0}, {GUEST_READ, C4K, C4K}, {GUEST_FLUSH, 0, 0}, {GUEST_FLUSH, 0, 0});
}

/* A slow read of a cluster that is discarded, freed and wanted by somebody else. */
static void test_read_under_way_keeps_its_cluster(void **state)
{
	const struct guest_op reader[] = {{GUEST_READ, 0, C4K}};
	const struct guest_op others[] = {
		{GUEST_DISCARD, 0, C4K},     {GUEST_FLUSH, 0, 0},
		{GUEST_WRITE, 5 * C4K, C4K}, {GUEST_FLUSH, 0, 0},
		{GUEST_WRITE, 7 * C4K, C4K}, {GUEST_FLUSH, 0, 0},
		{GUEST_WRITE, 9 * C4K, C4K},
	};

	race_in_traffic("c4k-r16-v3", is_data_read, false, (struct guest_op){GUEST_WRITE, C4K, 512},
			reader, 1, others, 7);
}

/* A late punch of a freed cluster that others would like to have. */
static void test_punch_comes_before_reuse(void **state)
{
	RACE("c512-r16-v3", is_punch, true, 2, {GUEST_DISCARD, 0, 512}, {GUEST_SLEEP, 1, 0},
	     {GUEST_FLUSH, 0, 0}, {GUEST_SLEEP, 2, 0}, {GUEST_FLUSH, 0, 0}, {GUEST_SLEEP, 3, 0},
	     {GUEST_WRITE, 4096, 512}, {GUEST_WRITE, 8192, 512}, {GUEST_WRITE, 12288, 512},
	     {GUEST_WRITE, 16384, 512}, {GUEST_FLUSH, 0, 0}, {GUEST_FLUSH, 0, 0});
}

/* Changes of one kind to file number `file`. */
static unsigned count_changes(const struct lab *lab, enum io_op op, unsigned file)
{
	const struct sim_disk *disk = lab->sim.disk;
	unsigned nb = 0;

	for (unsigned i = 0; i < disk->nb_log; i++)
		nb += disk->log[i].op == op && disk->log[i].file == file;
	return nb;
}

/*
 * In an external data file a cluster never moves: the punch of what was discarded may meet a
 * write that is there again, its data under way and its entry not changed yet.
 */
static void test_punch_of_a_data_file_spares_what_is_written_again(void **state)
{
	const struct guest_op traffic = {GUEST_READ, C4K, 512};
	const struct guest_op rewriter[] = {
		{GUEST_DISCARD, 0, C4K}, {GUEST_FLUSH, 0, 0},      {GUEST_READ, C4K, 512},
		{GUEST_WRITE, 0, C4K},   {GUEST_READ, 0, C4K},     {GUEST_READ, C4K, 512},
		{GUEST_READ, 0, C4K},    {GUEST_DISCARD, 0, C4K},  {GUEST_FLUSH, 0, 0},
		{GUEST_READ, C4K, 512},  {GUEST_WRITE, 512, 1024},
	};

	/* The write begins while the release waits for reads that have begun before. */
	race_in_traffic("c4k-r16-data", is_data_write, true, traffic, rewriter, 11, NULL, 0);
}

/* ... and it begins when the discard cannot come undone any more. */
static void test_punch_of_a_data_file_follows_the_durable_discard(void **state)
{
	static const struct guest_op ops[] = {
		{GUEST_DISCARD, 0, 2 * C4K}, {GUEST_READ, C4K, C4K}, {GUEST_FLUSH, 0, 0}};
	uint64_t t_durable = 0;
	unsigned nb_punches = 0;
	struct lab lab;

	lab_open(&lab, "c4k-r16-data");
	lab_prepare(&lab, 1, ops, 3, 1);
	run_execute(&lab.run);
	lab_no_violation(&lab);
	for (unsigned i = 0; i < lab.sim.disk->nb_log; i++) {
		const struct sim_record *record = &lab.sim.disk->log[i];

		if (record->op == IO_WRITE && record->tag == IO_TAG_L2 && !t_durable)
			t_durable = record->t_covered;
		if (record->op != IO_PUNCH)
			continue;
		assert_int_equal(record->file, 1);
		assert_true(t_durable && record->t_issue > t_durable);
		nb_punches++;
	}
	assert_true(nb_punches > 0);
	lab_close(&lab);
}

/* In a raw one zeros are there at once, as holes. */
static void test_raw_data_file_gets_holes(void **state)
{
	static const struct guest_op ops[] = {
		{GUEST_DISCARD, 0, 8192}, {GUEST_WRITE, 1024, 512}, {GUEST_FLUSH, 0, 0}};
	struct lab lab;

	lab_open(&lab, "c512-r16-dataraw");
	lab_prepare(&lab, 1, ops, 3, 1);
	run_execute(&lab.run);
	lab_no_violation(&lab);
	assert_int_equal(lab.run.nb_failed, 0);
	assert_true(count_changes(&lab, IO_PUNCH, 1) > 0);
	assert_true(sector_is_zero(lab.sim.disk->files[1].bytes.data));
	lab_close(&lab);
}

/* A discard while a partial write copies the rest of a cluster from the backing file. */
static void test_discard_waits_for_a_copying_write(void **state)
{
	const struct guest_op traffic = {GUEST_READ, 5 * C4K, 512};
	const struct guest_op writer[] = {{GUEST_WRITE, 6 * C4K, 512}};
	/* Late enough for the write to have read what it copies. */
	const struct guest_op others[] = {
		traffic,
		traffic,
		traffic,
		traffic,
		traffic,
		traffic,
		traffic,
		traffic,
		{GUEST_DISCARD, 6 * C4K, C4K},
		{GUEST_READ, 6 * C4K, C4K},
	};

	race_in_traffic("c4k-r16-backing", is_cluster_write, true, traffic, writer, 1, others, 10);
}

/* A write while preallocation copies the cluster from the backing file. */
static void test_write_waits_for_a_copying_allocation(void **state)
{
	RACE("c4k-r16-backing", is_copy, true, 2, {GUEST_ALLOCATE, 5 * C4K, C4K},
	     {GUEST_WRITE, 5 * C4K + 512, 1024}, {GUEST_FLUSH, 0, 0}, {GUEST_FLUSH, 0, 0});
}

/* Two writes that need the same L2 table, which is not there yet. */
static void test_one_table_for_two_writers(void **state)
{
	RACE("c512-r16-v3", is_new_table, true, 2, {GUEST_RESIZE, 4608 * 512, 0},
	     {GUEST_READ, 0, 512}, {GUEST_WRITE, 1000 * 1024, 512}, {GUEST_WRITE, 1010 * 1024, 512},
	     {GUEST_FLUSH, 0, 0}, {GUEST_FLUSH, 0, 0});
}

/*
 * A write that is under way when the disk shrinks: it ends before, or finds no room. It must
 * not come back when the disk grows again.
 */
static void test_shrinking_waits_for_a_write_under_way(void **state)
{
	static const struct guest_op ops[] = {
		{GUEST_WRITE, 20 * C4K, C4K}, {GUEST_READ, 0, 512},
		{GUEST_READ, 0, 512},         {GUEST_RESIZE, 16 * C4K, 0},
		{GUEST_READ, 0, 512},         {GUEST_SLEEP, SECOND_NS, 0},
		{GUEST_READ, 0, 512},         {GUEST_RESIZE, 24 * C4K, 0},
		{GUEST_READ, 0, 512},         {GUEST_READ, 20 * C4K, C4K},
	};
	unsigned nb_written = 0;
	struct lab lab;

	lab_open(&lab, "c4k-r16-v3");
	for (uint64_t seed = 1; seed <= lab_nb_seeds(NB_SEEDS); seed++) {
		lab_prepare(&lab, seed, ops, sizeof(ops) / sizeof(ops[0]), 2);
		lab.run.may_fail = true;
		lab.sim.disk->hold = is_data_write;
		lab_run(&lab);
		lab.sim.disk->hold = NULL;
		lab_no_violation(&lab);
		nb_written += lab.run.results[0] == 0;
	}
	assert_true(nb_written > 0);
	lab_close(&lab);
}

/* A new L2 table, dirty entries and raised refcounts when the L1 table moves. */
static void test_l1_moves_with_everything_dirty(void **state)
{
	RACE("c512-r16-v3", NULL, true, 1, {GUEST_WRITE, 0, 1024}, {GUEST_RESIZE, 1024 * 1024, 0},
	     {GUEST_WRITE, 500 * 1024, 4096}, {GUEST_RESIZE, 4608 * 512, 0},
	     {GUEST_WRITE, 1000 * 1024, 4096}, {GUEST_FLUSH, 0, 0});
}

/*
 * ... and while a data file gets back the space of what was discarded, for which the tables are
 * looked at: with a cache of one slice, again and again.
 */
static void test_l1_moves_beside_the_release_of_a_data_file(void **state)
{
	static const struct guest_op ops[] = {
		{GUEST_WRITE, 0, 64 * 1024}, {GUEST_DISCARD, 0, 512},
		{GUEST_DISCARD, 33792, 512}, {GUEST_DISCARD, 1024, 512},
		{GUEST_DISCARD, 34816, 512}, {GUEST_DISCARD, 2048, 512},
		{GUEST_DISCARD, 35840, 512}, {GUEST_RESIZE, 4608 * 512, 0}};
	struct lab lab;

	lab_open(&lab, "c512-r16-data");
	for (uint64_t seed = 1; seed <= lab_nb_seeds(100); seed++) {
		lab_prepare(&lab, seed, ops, sizeof(ops) / sizeof(ops[0]), 1);
		lab.run.l2_cache_bytes = 1;
		lab.sim.disk->hold = is_l1_read;
		lab_run(&lab);
		lab.sim.disk->hold = NULL;
		lab_no_violation(&lab);
		assert_int_equal(lab.run.nb_failed, 0);
	}
	lab_close(&lab);
}

/* The L1 table alone is stored last, and before the flush returns. */
static void test_flush_includes_the_l1_table(void **state)
{
	RACE("c512-r16-v3", NULL, true, 1, {GUEST_WRITE, 40 * 1024, 512}, {GUEST_FLUSH, 0, 0},
	     {GUEST_WRITE, 0, 512});
}

/* A larger refcount table must be durable before the header names it. */
static void test_header_names_no_table_that_is_not_there(void **state)
{
	const struct guest_op ops[] = {{GUEST_WRITE, 3910 * 512, 100 * 512}};
	struct lab lab;

	lab_open(&lab, "c512-r64-grown");
	lab_prepare(&lab, 1, ops, 1, 1);
	lab_explore(&lab);
	assert_int_not_equal(be64_get(lab.sim.disk->files[0].bytes.data + 48),
			     be64_get(lab.image.image.data + 48));
	lab_close(&lab);
}

static bool is_data_or_block(void *ctx, const struct io_req *req)
{
	return req->op == IO_WRITE && (req->tag == IO_TAG_DATA || req->tag == IO_TAG_REFBLOCK);
}

/* A flush that extends the file while a larger refcount table is being written behind its end. */
static void test_extending_cuts_off_no_new_refcount_table(void **state)
{
	const uint64_t first = 3910 * 512, last = 4009 * 512;
	struct guest_op ops[42];
	unsigned nb = 0;
	struct lab lab;

	for (unsigned i = 0; i < 14; i++) {
		ops[nb++] = (struct guest_op){GUEST_WRITE, first + i * 5 * 512ull, 5 * 512};
		ops[nb++] = (struct guest_op){GUEST_WRITE, last - i * 512ull, 512};
		ops[nb++] = (struct guest_op){GUEST_FLUSH, 0, 0};
	}
	lab_open(&lab, "c512-r64-grown");
	for (uint64_t seed = 1; seed <= lab_nb_seeds(200); seed++) {
		lab_prepare(&lab, seed, ops, nb, 3);
		lab.sim.disk->hold = is_data_or_block;
		lab_run(&lab);
		lab.sim.disk->hold = NULL;
		lab_no_violation(&lab);
		assert_int_equal(lab.run.nb_failed, 0);
	}
	lab_close(&lab);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_entry_shows_no_cluster_without_its_data),
		cmocka_unit_test(test_read_under_way_keeps_its_cluster),
		cmocka_unit_test(test_punch_comes_before_reuse),
		cmocka_unit_test(test_punch_of_a_data_file_spares_what_is_written_again),
		cmocka_unit_test(test_punch_of_a_data_file_follows_the_durable_discard),
		cmocka_unit_test(test_raw_data_file_gets_holes),
		cmocka_unit_test(test_discard_waits_for_a_copying_write),
		cmocka_unit_test(test_write_waits_for_a_copying_allocation),
		cmocka_unit_test(test_one_table_for_two_writers),
		cmocka_unit_test(test_shrinking_waits_for_a_write_under_way),
		cmocka_unit_test(test_l1_moves_with_everything_dirty),
		cmocka_unit_test(test_l1_moves_beside_the_release_of_a_data_file),
		cmocka_unit_test(test_flush_includes_the_l1_table),
		cmocka_unit_test(test_extending_cuts_off_no_new_refcount_table),
		cmocka_unit_test(test_header_names_no_table_that_is_not_there),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
