/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The part of cmocka's interface that the tests of io/ use, in one header, for
 * processors that no cmocka is installed for (run_aarch64.sh). The first failure
 * ends the program.
 */
#ifndef QCOW2FS_TEST_CROSS_CMOCKA_H
#define QCOW2FS_TEST_CROSS_CMOCKA_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct CMUnitTest {
	const char *name;
	void (*test)(void **state);
	int (*setup)(void **state);
	int (*teardown)(void **state);
};

#define cmocka_unit_test_setup_teardown(fn, setup, teardown) \
	{                                                    \
#fn, fn, setup, teardown                     \
	}
#define cmocka_unit_test_teardown(fn, teardown) \
	{                                       \
#fn, fn, NULL, teardown         \
	}
#define cmocka_unit_test(fn)        \
	{                           \
#fn, fn, NULL, NULL \
	}
#define print_message printf

static inline void check_or_exit(int holds, const char *what, const char *file, int line)
{
	if (holds)
		return;
	fflush(stdout);
	fprintf(stderr, "%s:%d: %s\n", file, line, what);
	exit(1);
}

#define CHECK(condition, what) check_or_exit(!!(condition), what, __FILE__, __LINE__)
#define assert_true(a) CHECK(a, #a)
#define assert_false(a) CHECK(!(a), "!(" #a ")")
#define assert_null(a) CHECK(!(a), #a " is NULL")
#define assert_non_null(a) CHECK(a, #a " is not NULL")
#define assert_int_equal(a, b) CHECK((uint64_t)(a) == (uint64_t)(b), #a " == " #b)
#define assert_int_not_equal(a, b) CHECK((uint64_t)(a) != (uint64_t)(b), #a " != " #b)
#define assert_ptr_equal(a, b) CHECK((const void *)(a) == (const void *)(b), #a " == " #b)
#define assert_ptr_not_equal(a, b) CHECK((const void *)(a) != (const void *)(b), #a " != " #b)
#define assert_string_equal(a, b) CHECK(strcmp(a, b) == 0, #a " equals " #b)
#define assert_memory_equal(a, b, bytes) CHECK(memcmp(a, b, bytes) == 0, #a " equals " #b)
#define assert_in_range(a, min, max)                                                \
	CHECK((uint64_t)(a) - (uint64_t)(min) <= (uint64_t)(max) - (uint64_t)(min), \
	      #a " in " #min ".." #max)

static inline int run_tests(const struct CMUnitTest *tests, size_t nb_tests)
{
	for (size_t i = 0; i < nb_tests; i++) {
		void *state = NULL;
		printf("  %s\n", tests[i].name);
		fflush(stdout);
		if (tests[i].setup)
			CHECK(tests[i].setup(&state) == 0, "setup");
		tests[i].test(&state);
		if (tests[i].teardown)
			CHECK(tests[i].teardown(&state) == 0, "teardown");
	}
	return 0;
}

#define cmocka_run_group_tests(tests, setup, teardown) \
	run_tests(tests, sizeof(tests) / sizeof((tests)[0]))

#endif
