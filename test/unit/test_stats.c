/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Latency buckets and percentiles.
 */
#include "fuse/stats.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void test_each_latency_is_in_its_bucket(void **state)
{
	unsigned last = 0;

	for (uint64_t ns = 0; ns < 1u << 20; ns++) {
		unsigned bucket = stats_bucket(ns);

		assert_true(bucket == last || bucket == last + 1);
		assert_true(ns < stats_bucket_end_ns(bucket));
		if (bucket > 0)
			assert_true(ns >= stats_bucket_end_ns(bucket - 1));
		last = bucket;
	}
}

static void test_buckets_are_narrow(void **state)
{
	for (unsigned i = 5; i < STATS_BUCKETS - 1; i++) {
		uint64_t start = stats_bucket_end_ns(i - 1), end = stats_bucket_end_ns(i);

		assert_true(end > start);
		assert_true((end - start) * 4 <= start);
	}
}

static void test_huge_latency_is_in_the_last_bucket(void **state)
{
	assert_int_equal(stats_bucket(UINT64_MAX), STATS_BUCKETS - 1);
}

static void test_percentiles(void **state)
{
	struct stats *stats = calloc(1, sizeof(*stats));
	const struct stats_counter *reads = &stats->counters[STATS_READ];

	assert_int_equal(stats_percentile_ns(reads, 50), 0);
	for (unsigned i = 0; i < 90; i++)
		stats_note(stats, STATS_READ, 0, 4096, 1000);
	for (unsigned i = 0; i < 10; i++)
		stats_note(stats, STATS_READ, i ? 0 : -5, 0, 100000);
	assert_true(stats_percentile_ns(reads, 50) > 1000);
	assert_true(stats_percentile_ns(reads, 50) <= 1280);
	assert_true(stats_percentile_ns(reads, 90) <= 1280);
	assert_int_equal(stats_percentile_ns(reads, 99), 100000);
	assert_int_equal(reads->nb, 100);
	assert_int_equal(reads->bytes, 90 * 4096);
	assert_int_equal(reads->nb_errors, 1);
	assert_int_equal(reads->max_ns, 100000);
	free(stats);
}

static void test_json(void **state)
{
	struct stats *stats = calloc(1, sizeof(*stats));
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	stats_note(stats, STATS_WRITE, 0, 512, 2000);
	stats_print_json(stats, out);
	fclose(out);
	assert_int_equal(text[0], '{');
	assert_int_equal(text[len - 1], '}');
	assert_non_null(strstr(text, "\"write\": {\"count\": 1, \"errors\": 0, \"bytes\": 512, "
				     "\"latency_us\": {\"p50\": 2.0,"));
	assert_non_null(strstr(text, "\"read\": {\"count\": 0,"));
	free(text);
	free(stats);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_latency_is_in_its_bucket),
		cmocka_unit_test(test_buckets_are_narrow),
		cmocka_unit_test(test_huge_latency_is_in_the_last_bucket),
		cmocka_unit_test(test_percentiles),
		cmocka_unit_test(test_json),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
