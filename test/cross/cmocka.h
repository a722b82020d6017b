/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * cmocka.h for cross-compiled tests: the few macros that they use, so that a test
 * runs on another processor without that processor's libraries. The first
 * assertion that fails ends the program with status 1.
 */
#ifndef QCOW2FS_TEST_CROSS_CMOCKA_H
#define QCOW2FS_TEST_CROSS_CMOCKA_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define assert_true(c)                                                                             \
	do {                                                                                       \
		if (!(c)) {                                                                        \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #c);                    \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)
#define assert_false(c) assert_true(!(c))
#define assert_null(p) assert_true((p) == NULL)
#define assert_non_null(p) assert_true((p) != NULL)
#define assert_ptr_equal(a, b) assert_true((const void *)(a) == (const void *)(b))
#define assert_ptr_not_equal(a, b) assert_true((const void *)(a) != (const void *)(b))
#define assert_int_equal(a, b) assert_true((long long)(a) == (long long)(b))
#define assert_int_not_equal(a, b) assert_true((long long)(a) != (long long)(b))
#define assert_in_range(v, low, high) assert_true((v) >= (low) && (v) <= (high))
#define assert_memory_equal(a, b, len) assert_true(memcmp(a, b, len) == 0)
#define assert_string_equal(a, b) assert_true(strcmp(a, b) == 0)

struct CMUnitTest {
	const char *name;
	void (*run)(void **state);
};
#define cmocka_unit_test(function)                                                                 \
	{                                                                                          \
		#function, function                                                                \
	}

#define cmocka_run_group_tests(tests, setup, teardown)                                             \
	cmocka_run_tests(tests, sizeof(tests) / sizeof((tests)[0]))

static inline int cmocka_run_tests(const struct CMUnitTest *tests, size_t nb_tests)
{
	for (size_t i = 0; i < nb_tests; i++) {
		void *state = NULL;
		tests[i].run(&state);
		printf("%s: ok\n", tests[i].name);
	}
	return 0;
}

#endif
