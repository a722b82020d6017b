/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* error: what a failure carries and who owns it. */
#include "io/error.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void test_set_returns_the_negative_number(void **state)
{
	struct error *error = NULL;
	assert_int_equal(error_set(&error, ERROR_LOCKED, EAGAIN, "in use by %d", 42), -EAGAIN);
	assert_int_equal(error->class, ERROR_LOCKED);
	assert_int_equal(error->err, EAGAIN);
	assert_string_equal(error->msg, "in use by 42");
	error_free(error);
}

static void test_set_without_a_number_is_invalid(void **state)
{
	struct error *error = NULL;
	assert_int_equal(error_set(&error, ERROR_CORRUPT, 0, "bad"), -EINVAL);
	assert_int_equal(error->err, 0);
	error_free(error);
}

static void test_nobody_needs_to_listen(void **state)
{
	struct error *none = NULL;
	assert_int_equal(error_set(NULL, ERROR_OPEN, ENOENT, "lost"), -ENOENT);
	error_prefix(NULL, "context");
	error_prefix(&none, "context");
	assert_null(none);
	error_free(NULL);
}

static void test_prefixes_come_in_front(void **state)
{
	struct error *error = NULL;
	error_set(&error, ERROR_BACKING, ENOENT, "%s", "not found");
	error_prefix(&error, "backing file %d%%", 7);
	error_prefix(&error, "top.qcow2");
	assert_string_equal(error->msg, "top.qcow2: backing file 7%: not found");
	assert_int_equal(error->class, ERROR_BACKING);
	error_free(error);
}

static void test_control_characters_are_replaced(void **state)
{
	struct error *error = NULL;

	error_set(&error, ERROR_OPEN, ENOENT, "no \"%s\"", "a\nb\033[2J\177\303\244");
	error_prefix(&error, "%s", "x\ty");
	assert_string_equal(error->msg, "x?y: no \"a?b?[2J?\303\244\"");
	error_free(error);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_set_returns_the_negative_number),
		cmocka_unit_test(test_set_without_a_number_is_invalid),
		cmocka_unit_test(test_nobody_needs_to_listen),
		cmocka_unit_test(test_prefixes_come_in_front),
		cmocka_unit_test(test_control_characters_are_replaced),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
