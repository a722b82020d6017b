/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * test_rebase: recording another backing file where the first cluster is crowded, on the
 * simulated disk: wherever the power goes, one of the two names is there, whole. Headers with
 * room are in test_edits.
 */
#include "test/sim/edit.h"

#include "core/format.h"
#include "core/rebase.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define CLUSTER 4096u
#define SECTOR 512u
#define UNKNOWN_EXT 0x5ca1ab1eu
#define BASE "base.img"
/* The simulated disk finds files by the last part of their names. */
#define OTHER_NAME "some/folder/" BASE

static int coroutine_fn rebase_with_format(struct image *image)
{
	return rebase_record(image, OTHER_NAME, "raw", NULL);
}

static uint8_t *image_bytes(struct lab *lab)
{
	return lab->sim.disk->files[0].bytes.data;
}

/*
 * An overlay whose only extension is of an unknown type and ends, its end mark included, at
 * ext_end; the name of its backing file is at name_off.
 */
static void open_crowded(struct lab *lab, uint64_t ext_end, uint64_t name_off)
{
	struct qcow2_header *header;
	uint64_t start;
	uint8_t *bytes;

	lab_open(lab, "c4k-r16-backing");
	lab->explorer.params = (struct crash_params){.max_exhaustive = 6, .nb_random = 16};
	lab_prepare(lab, 1, NULL, 0, 1);
	bytes = image_bytes(lab);
	header = (struct qcow2_header *)bytes;
	start = be32_get(&header->header_length);
	memset(bytes + start, 0, CLUSTER - start);
	be32_put(bytes + start, UNKNOWN_EXT);
	be32_put(bytes + start + 4, (uint32_t)(ext_end - start - 16));
	memset(bytes + start + 8, 0xee, ext_end - start - 16);
	be64_put(&header->backing_file_offset, name_off);
	be32_put(&header->backing_file_size, strlen(BASE));
	memcpy(bytes + name_off, BASE, strlen(BASE));
}

static void rebases(uint64_t ext_end, uint64_t name_off)
{
	static const int errors[] = {EIO, ENOSPC};
	struct edit edit;
	struct lab lab;

	open_crowded(&lab, ext_end, name_off);
	edit_init(&edit, &lab);
	edit.change = rebase_with_format;
	for (uint64_t seed = 1; seed <= 3; seed++)
		edit_explore(&edit, seed);
	assert_string_equal(edit.before.text, "backing " BASE ", none;");
	assert_string_equal(edit.after.text, "backing " OTHER_NAME ", raw;");
	for (unsigned i = 0; i < 2; i++)
		edit_inject(&edit, errors[i]);
	assert_true(edit_starve(&edit) > 0);
	edit_finish(&edit);
	lab_close(&lab);
}

/* The extensions grow over the first sector's end, where the old name still is needed. */
static void test_old_name_in_the_way(void **state)
{
	rebases(SECTOR - 8, SECTOR);
	rebases(SECTOR - 8, SECTOR - 4);
}

/* ... and where it already is at the end of the cluster, or the new one goes. */
static void test_old_name_at_the_end(void **state)
{
	rebases(SECTOR - 8, CLUSTER - strlen(BASE));
	rebases(SECTOR - 64, CLUSTER - strlen(OTHER_NAME) - 4);
}

struct refusal {
	const char *name, *format;
};

static int coroutine_fn record(struct image *image, void *arg)
{
	const struct refusal *refusal = arg;

	return rebase_record(image, refusal->name, refusal->format, NULL);
}

static void refuses(uint64_t ext_end, const char *name, const char *format, int err)
{
	static uint8_t before[CLUSTER];
	struct lab lab;
	struct refusal refusal = {.name = name, .format = format};
	struct lab_change done;

	open_crowded(&lab, ext_end, CLUSTER - strlen(BASE));
	memcpy(before, image_bytes(&lab), CLUSTER);
	done = lab_change(&lab, record, &refusal);
	assert_int_equal(done.open_result, 0);
	assert_int_equal(done.result, err);
	assert_int_equal(done.close_result, 0);
	assert_memory_equal(image_bytes(&lab), before, CLUSTER);
	lab_close(&lab);
}

/* Nothing is written when there is no room, or what is asked for cannot be recorded. */
static void test_refused(void **state)
{
	char name[1025];

	memset(name, 'x', sizeof(name));
	name[1024] = '\0';
	refuses(SECTOR - 8, name, "raw", -EINVAL);
	refuses(SECTOR - 8, "", "raw", -EINVAL);
	refuses(SECTOR - 8, BASE, "a-format-nobody-has", -EINVAL);
	/* between the extensions and the old name */
	refuses(CLUSTER - 24, OTHER_NAME, NULL, -ENOSPC);
	/* the extensions themselves */
	refuses(CLUSTER - 8, BASE, "raw", -ENOSPC);
	/* beyond the first sector, and not to be moved by one write */
	refuses(CLUSTER / 2, BASE, "raw", -ENOSPC);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_old_name_in_the_way),
		cmocka_unit_test(test_old_name_at_the_end),
		cmocka_unit_test(test_refused),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
