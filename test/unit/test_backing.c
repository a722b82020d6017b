/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * backing: which names are plain paths, and chains that are refused: too deep, in a
 * loop, of unknown formats, or leading further than a guess of the format may lead.
 */
#include "test/sim/disk.h"
#include "test/unit/hand_image.h"

#include "core/backing.h"

#define SIZE (8ull << 12)

static void test_plain_names(void **state)
{
	static const char *const plain[] = {
		"a",           "base.qcow2", "/abs/base.img", "../up", "./nbd:x",
		"dir/json:{}", "with space", "\xc3\xa4",      "/:",    "a/b:c",
		"~",           "%2f",
	};
	static const char *const others[] = {
		"",
		":",
		"a:b",
		"json:{}",
		"nbd:localhost:10809",
		"nbd://localhost/x",
		"file:base.img",
		"fat:rw:/tmp",
		"C:base",
		"new\nline",
		"tab\t",
		"esc\033[31m",
		"dir/\001",
		"del\177",
	};

	for (unsigned i = 0; i < NB_ELEMENTS(plain); i++)
		if (!backing_name_is_plain(plain[i]))
			fail_msg("\"%s\" is refused", plain[i]);
	for (unsigned i = 0; i < NB_ELEMENTS(others); i++)
		if (backing_name_is_plain(others[i]))
			fail_msg("\"%s\" is accepted", others[i]);
}

static void overlay(const char *name, const char *base, const char *format)
{
	hand_set_backing(hand_image(name, 3, 12, 6, SIZE), base, format);
}

static void coroutine_fn refuses(int err, const char *text)
{
	hand_refuses("a", &(struct image_options){0}, ERROR_BACKING, err, text);
}

CO_TEST(test_name_that_is_not_plain)
{
	overlay("a", "nbd://host\n/x", "raw");
	refuses(EACCES, "backing file \"nbd://host?/x\" is not a plain path");
}

CO_TEST(test_data_file_name_that_is_not_plain)
{
	uint8_t *bytes = hand_image("a", 3, 12, 6, SIZE);
	uint32_t off = sizeof(struct qcow2_header);

	be64_put(HAND_FIELD(bytes, incompatible_features), INCOMPAT_DATA_FILE);
	hand_add_extension(bytes, &off, EXT_DATA_FILE, "json:{}", 7);
	refuses(EACCES, "data file \"json:{}\" is not a plain path");
}

CO_TEST(test_data_file_without_a_name)
{
	uint8_t *bytes = hand_image("a", 3, 12, 6, SIZE);

	be64_put(HAND_FIELD(bytes, incompatible_features), INCOMPAT_DATA_FILE);
	refuses(ENOENT, "external data file is not recorded");
}

CO_TEST(test_missing_file)
{
	overlay("a", "b", "raw");
	refuses(ENOENT, "b: not on the simulated disk");
}

/* The user's word goes before the image's, and may be any path. */
CO_TEST(test_file_named_by_the_user)
{
	struct image *image;

	overlay("a", "nbd:x", "raw");
	sim_add_file(hand.disk, "c", "base", 4, true);
	image = hand_open("a", &(struct image_options){.backing_file = "c"});
	assert_int_equal(image_info(image)->depth, 2);
	assert_string_equal(image_file(image, 1)->name, "c");
	assert_int_equal(image_close(image), 0);
}

CO_TEST(test_no_backing)
{
	struct image *image;

	overlay("a", "missing", "raw");
	image = hand_open("a", &(struct image_options){.no_backing = true});
	assert_int_equal(image_info(image)->depth, 1);
	assert_int_equal(image_close(image), 0);
}

CO_TEST(test_format_other_than_raw_and_qcow2)
{
	overlay("a", "b", "vmdk");
	sim_add_file(hand.disk, "b", "base", 4, true);
	hand_refuses("a", &(struct image_options){0}, ERROR_UNSUPPORTED, ENOTSUP,
		     "backing file b of a format other than raw and qcow2");
}

/* As recorded: not even looked at. */
CO_TEST(test_recorded_raw_is_raw)
{
	struct image *image;

	overlay("a", "b", "raw");
	overlay("b", "c", "raw");
	image = hand_open("a", &(struct image_options){0});
	assert_int_equal(image_info(image)->depth, 2);
	assert_null(image_backing(image));
	assert_int_equal(image_close(image), 0);
}

/* A raw file has no metadata that could be given back. */
CO_TEST(test_quiet_image_over_a_raw_file)
{
	uint8_t byte = 1;
	struct image *image;

	overlay("a", "b", "raw");
	sim_add_file(hand.disk, "b", "base", 4, true);
	image = hand_open("a", &(struct image_options){0});
	image_trim(image);
	assert_int_equal(image_read(image, 2, &byte, 1, NULL), 0);
	assert_int_equal(byte, 's');
	assert_int_equal(image_close(image), 0);
}

/* ---- a chain of files that name themselves: files of the simulated disk have no identity ---- */

/* Takes the identity of every file of the simulated disk, so that no loop is noticed. */
static int (*open_simulated)(struct opener *, enum opener_role, const struct file *, const char *,
			     bool, enum file_lock, struct file **, struct error **);
static int open_without_identity(struct opener *opener, enum opener_role role,
				 const struct file *holder, const char *path, bool writable,
				 enum file_lock lock, struct file **ret_file, struct error **reterr)
{
	int ret = open_simulated(opener, role, holder, path, writable, lock, ret_file, reterr);

	if (!ret)
		(*ret_file)->ino = 0;
	return ret;
}

CO_TEST(test_sixteen_files_and_no_more)
{
	overlay("a", "a", "qcow2");
	open_simulated = hand.disk->opener.open;
	hand.disk->opener.open = open_without_identity;
	refuses(ELOOP, "the chain has more than 16 files");
	hand.disk->opener.open = open_simulated;
}

CO_TEST(test_loop)
{
	overlay("a", "b", "qcow2");
	overlay("b", "c", "qcow2");
	overlay("c", "b", "qcow2");
	refuses(ELOOP, "backing file b: the chain of backing files is a loop");
}

/* ---- guessed formats ---- */

CO_TEST(test_probed_file_is_opened)
{
	struct image *image;

	overlay("a", "b", NULL);
	hand_image("b", 3, 12, 6, SIZE);
	image = hand_open("a", &(struct image_options){0});
	assert_non_null(image_backing(image));
	assert_int_equal(image_close(image), 0);
}

CO_TEST(test_probed_file_may_refer_to_no_backing_file)
{
	overlay("a", "b", NULL);
	overlay("b", "c", "raw");
	sim_add_file(hand.disk, "c", "base", 4, true);
	refuses(EACCES, "backing file b has no recorded format and refers to a further file");
}

CO_TEST(test_probed_file_may_refer_to_no_data_file)
{
	uint32_t off = sizeof(struct qcow2_header);
	uint8_t *bytes;

	overlay("a", "b", NULL);
	bytes = hand_image("b", 3, 12, 6, SIZE);
	be64_put(HAND_FIELD(bytes, incompatible_features), INCOMPAT_DATA_FILE);
	hand_add_extension(bytes, &off, EXT_DATA_FILE, "c", 1);
	sim_add_file(hand.disk, "c", "data", 4, true);
	refuses(EACCES, "backing file b has no recorded format and refers to a data file");
}

/* With its format recorded, the same chain is fine. */
CO_TEST(test_recorded_file_may_refer_further)
{
	struct image *image;

	overlay("a", "b", "qcow2");
	overlay("b", "c", "raw");
	sim_add_file(hand.disk, "c", "base", 4, true);
	image = hand_open("a", &(struct image_options){0});
	assert_int_equal(image_info(image)->depth, 3);
	assert_int_equal(image_close(image), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_plain_names),
		HAND_TEST(test_name_that_is_not_plain),
		HAND_TEST(test_data_file_name_that_is_not_plain),
		HAND_TEST(test_data_file_without_a_name),
		HAND_TEST(test_missing_file),
		HAND_TEST(test_file_named_by_the_user),
		HAND_TEST(test_no_backing),
		HAND_TEST(test_format_other_than_raw_and_qcow2),
		HAND_TEST(test_recorded_raw_is_raw),
		HAND_TEST(test_quiet_image_over_a_raw_file),
		HAND_TEST(test_sixteen_files_and_no_more),
		HAND_TEST(test_loop),
		HAND_TEST(test_probed_file_is_opened),
		HAND_TEST(test_probed_file_may_refer_to_no_backing_file),
		HAND_TEST(test_probed_file_may_refer_to_no_data_file),
		HAND_TEST(test_recorded_file_may_refer_further),
	};

	return cmocka_run_group_tests(tests, hand_group_setup, NULL);
}
