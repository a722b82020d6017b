/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * lane_place: which clients make a lane go away, and when it comes back.
 */
#include "fuse/lane_place.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define REQUESTS 1000u

static struct lane_place place;
static _Atomic unsigned term;

static int setup(void **state)
{
	memset(&place, 0, sizeof(place));
	term = 0;
	return 0;
}

/* A window; whether the lane is away after it. */
static bool after(unsigned nb_crowds, uint64_t nb_others)
{
	lane_place_decide(&place, &term, nb_crowds, REQUESTS, nb_others);
	return place.away;
}

/* How many windows it is away. */
static unsigned count_away(void)
{
	unsigned nb = 0;

	while (place.away) {
		after(0, 0);
		nb++;
	}
	return nb;
}

static void test_stays_with_who_waits_for_each_answer(void **state)
{
	for (unsigned i = 0; i < 100; i++)
		assert_false(after(i % 2, 0));
}

static void test_stays_with_one_of_several(void **state)
{
	assert_false(after(LANE_WINDOW, REQUESTS));
	assert_false(after(LANE_WINDOW, REQUESTS / 4));
}

static void test_leaves_a_lone_crowd(void **state)
{
	assert_false(after(LANE_CROWDS_ENOUGH - 1, 0));
	assert_true(after(LANE_CROWDS_ENOUGH, 0));
	setup(state);
	assert_true(after(LANE_WINDOW, REQUESTS / 4 - 1));
}

static void test_looks_the_later_the_more_often_it_was_right(void **state)
{
	for (unsigned wanted = 1; wanted <= 64; wanted *= 2) {
		assert_true(after(LANE_WINDOW, 0));
		assert_int_equal(count_away(), wanted);
	}
	assert_true(after(LANE_WINDOW, 0));
	assert_int_equal(count_away(), 64);
}

static void test_looks_soon_again_after_a_window_at_home(void **state)
{
	for (unsigned i = 0; i < 5; i++) {
		assert_true(after(LANE_WINDOW, 0));
		count_away();
	}
	assert_false(after(0, REQUESTS)); /* of a client beside that one */
	assert_true(after(LANE_WINDOW, 0));
	assert_int_equal(count_away(), 32);
	assert_false(after(0, 0));
	assert_true(after(LANE_WINDOW, 0));
	assert_int_equal(count_away(), 1);
}

/* It is the client that stays, not the lane. */
static void test_knows_what_another_lane_has_found(void **state)
{
	for (unsigned i = 0; i < 5; i++) {
		assert_true(after(LANE_WINDOW, 0));
		count_away();
	}
	memset(&place, 0, sizeof(place));
	assert_true(after(LANE_WINDOW, 0));
	assert_int_equal(count_away(), 32);
}

static void test_comes_back_when_others_come(void **state)
{
	for (unsigned i = 0; i < 5; i++) {
		assert_true(after(LANE_WINDOW, 0));
		count_away();
	}
	assert_true(after(LANE_WINDOW, 0));
	assert_true(after(0, REQUESTS / 4 - 1));
	assert_false(after(0, REQUESTS / 4));
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_stays_with_who_waits_for_each_answer, setup),
		cmocka_unit_test_setup(test_stays_with_one_of_several, setup),
		cmocka_unit_test_setup(test_leaves_a_lone_crowd, setup),
		cmocka_unit_test_setup(test_looks_the_later_the_more_often_it_was_right, setup),
		cmocka_unit_test_setup(test_looks_soon_again_after_a_window_at_home, setup),
		cmocka_unit_test_setup(test_knows_what_another_lane_has_found, setup),
		cmocka_unit_test_setup(test_comes_back_when_others_come, setup),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
