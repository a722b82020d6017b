/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Which combinations of a new image's parameters are legal, and what is said of the others.
 */
#include "core/create.h"

#include "core/format.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static char long_name[BACKING_NAME_MAX + 2];

static struct create_params defaults(void)
{
	struct create_params params = CREATE_DEFAULTS;

	params.virtual_size = 1 << 20;
	return params;
}

/* The message names the option, so that it tells what to change. */
static void refuses(const struct create_params *params, const char *text)
{
	struct error *error = NULL;

	assert_int_equal(create_check_params(params, &error), -EINVAL);
	assert_non_null(error);
	if (!strstr(error->msg, text))
		fail_msg("\"%s\" does not say \"%s\"", error->msg, text);
	error_free(error);
}

static void accepts(const struct create_params *params)
{
	struct error *error = NULL;

	assert_int_equal(create_check_params(params, &error), 0);
	assert_null(error);
}

#define WITH(change, check, ...)                          \
	do {                                              \
		struct create_params params = defaults(); \
		change;                                   \
		check(&params, ##__VA_ARGS__);            \
	} while (0)

static void test_sizes(void **state)
{
	WITH(params.cluster_bits = 9, accepts);
	WITH(params.cluster_bits = 21, accepts);
	WITH(params.cluster_bits = 8, refuses, "cluster_size");
	WITH(params.cluster_bits = 22, refuses, "cluster_size");
	WITH(params.refcount_order = 6, accepts);
	WITH(params.refcount_order = 7, refuses, "refcount_bits");
	WITH((params.extended_l2 = true, params.cluster_bits = 14), accepts);
	WITH((params.extended_l2 = true, params.cluster_bits = 13), refuses, "extended_l2");
}

static void test_version_2_has_less(void **state)
{
	WITH(params.version = 2, accepts);
	WITH(params.version = 1, refuses, "version");
	WITH(params.version = 4, refuses, "version");
	WITH((params.version = 2, params.refcount_order = 3), refuses, "refcount_bits");
	WITH((params.version = 2, params.lazy_refcounts = true), refuses, "lazy_refcounts");
	WITH((params.version = 2, params.extended_l2 = true), refuses, "extended_l2");
	WITH((params.version = 2, params.zstd = true), refuses, "zstd");
	WITH((params.version = 2, params.data_name = "d"), refuses, "data_file");
}

static void test_names(void **state)
{
	memset(long_name, 'x', sizeof(long_name) - 1);
	WITH((params.backing_name = "b", params.backing_format = "raw"), accepts);
	WITH(params.backing_name = "", refuses, "backing file's name");
	WITH(params.backing_name = long_name, refuses, "backing file's name");
	WITH(params.backing_name = long_name + 1, accepts);
	WITH((params.backing_name = "b", params.backing_format = "sixteen letters!"), refuses,
	     "format is too long");
	WITH(params.backing_format = "raw", refuses, "needs a backing file");
	WITH(params.data_name = "", refuses, "data file's name");
	WITH(params.data_name = long_name, refuses, "data file's name");
	WITH((params.data_name = "d", params.data_raw = true), accepts);
	WITH(params.data_raw = true, refuses, "data_file_raw needs data_file");
	WITH((params.data_name = "d", params.data_raw = true, params.backing_name = "b"), refuses,
	     "data_file_raw excludes");
}

static void test_preallocation(void **state)
{
	WITH(params.preallocation = PREALLOC_FULL, accepts);
	WITH((params.preallocation = PREALLOC_METADATA, params.backing_name = "b"), refuses,
	     "preallocation");
	WITH((params.preallocation = PREALLOC_METADATA, params.backing_name = "b",
	      params.extended_l2 = true),
	     accepts);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_version_2_has_less),
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_preallocation),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
