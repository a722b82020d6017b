/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * reader_choice: what makes threads read instead of the reactor, and what ends that.
 */
#include "fuse/reader_choice.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define ROUNDS_MAX 10000u
#define CROWDS_ENOUGH (LANE_CROWDS_ENOUGH / 2)

static struct reader_choice choice;

static int setup(void **state)
{
	memset(&choice, 0, sizeof(choice));
	return 0;
}

/* The rounds until threads read, nb_fit of each 32 fitting; ROUNDS_MAX: they do not. */
static unsigned count_rounds(unsigned nb_fit)
{
	for (unsigned i = 0; i < ROUNDS_MAX; i++)
		if (reader_choice_count_round(&choice, i % READER_WINDOW < nb_fit))
			return i + 1;
	return ROUNDS_MAX;
}

/* The samples until the reactor reads; nb_fit, nb_crowds of each 32 in succession. */
static unsigned count_samples(unsigned nb_fit, unsigned nb_crowds, unsigned nb_clients)
{
	for (unsigned i = 0; i < ROUNDS_MAX; i++) {
		const struct reader_sample sample = {
			.pid = 100 + i % nb_clients,
			.fits = i % READER_WINDOW < nb_fit,
			.crowd = i % READER_WINDOW < nb_crowds,
		};

		if (reader_choice_count_sample(&choice, &sample))
			return i + 1;
	}
	return ROUNDS_MAX;
}

static void test_threads_read_what_they_can_answer(void **state)
{
	assert_int_equal(count_rounds(READER_WINDOW), READER_WINDOW);
	assert_int_equal(count_samples(READER_WINDOW, 0, 1), ROUNDS_MAX);
	setup(state);
	assert_int_equal(count_rounds(READER_WINDOW - 1), READER_WINDOW);
}

static void test_reactor_reads_all_else(void **state)
{
	assert_int_equal(count_rounds(0), ROUNDS_MAX);
	setup(state);
	assert_int_equal(count_rounds(READER_WINDOW - 2), ROUNDS_MAX);
}

/* Left for the n-th time in succession, the reactor reads for longer: what it finds then is one. */
static void expect_to_be_away(unsigned term)
{
	for (unsigned i = 0; i < term * READER_WINDOW; i++)
		assert_false(reader_choice_count_round(&choice, false));
	assert_int_equal(count_rounds(READER_WINDOW), READER_WINDOW);
}

static void test_other_work_ends_it(void **state)
{
	assert_int_equal(count_samples(READER_WINDOW - 2, 0, 1), ROUNDS_MAX);
	setup(state);
	for (unsigned term = 1; term <= 32; term *= 2) {
		assert_int_equal(count_samples(READER_WINDOW - 3, 0, 1), READER_WINDOW);
		expect_to_be_away(term);
	}
}

static void test_lone_crowd_ends_it(void **state)
{
	for (unsigned term = 1; term <= 32; term *= 2) {
		assert_int_equal(count_samples(READER_WINDOW, CROWDS_ENOUGH, 1), READER_WINDOW);
		expect_to_be_away(term);
	}
	/* It has become one that waits: then it takes little to begin with. */
	assert_int_equal(count_samples(READER_WINDOW, CROWDS_ENOUGH - 1, 1), ROUNDS_MAX);
	setup(state);
	assert_int_equal(count_samples(READER_WINDOW, CROWDS_ENOUGH, 1), READER_WINDOW);
	expect_to_be_away(1);
}

static void test_crowd_of_several(void **state)
{
	assert_int_equal(count_samples(READER_WINDOW, 2 * CROWDS_ENOUGH - 1, 2), ROUNDS_MAX);
	setup(state);
	assert_int_equal(count_samples(READER_WINDOW, 2 * CROWDS_ENOUGH, 2), READER_WINDOW);
	expect_to_be_away(1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_threads_read_what_they_can_answer, setup),
		cmocka_unit_test_setup(test_reactor_reads_all_else, setup),
		cmocka_unit_test_setup(test_other_work_ends_it, setup),
		cmocka_unit_test_setup(test_lone_crowd_ends_it, setup),
		cmocka_unit_test_setup(test_crowd_of_several, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
