/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The tree of files: names, attributes, and what st_blocks may say.
 */
#include "fuse/tree.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* An image is what image_info() says of it: here, the facts themselves. */
const struct image_info *image_info(const struct image *image)
{
	return (const struct image_info *)image;
}

static struct image_info facts = {
	.virtual_size = 10u << 20,
	.cluster_size = 65536,
	.writable = true,
};
static struct image *const image = (struct image *)&facts;

static const struct tree_owner owner = {.uid = 7, .gid = 8};
static const struct stat host = {
	.st_mode = S_IFREG | 0644,
	.st_mtim = {.tv_sec = 1000, .tv_nsec = 5},
};

static struct node *add(struct tree *tree, const char *name, const struct stat *st)
{
	struct node *node;

	assert_int_equal(tree_add_file(tree, tree_root(tree), name, image, st, &node), 0);
	return node;
}

static void test_names(void **state)
{
	static const struct {
		const char *given, *path, *name;
	} cases[] = {
		{NULL, "a.qcow2", "a.raw"},   {NULL, "/x/y/a.qcow2", "a.raw"},
		{NULL, "a.QCOW2", "a.raw"},   {NULL, "a.qcow", "a.raw"},
		{NULL, "a.img", "a.raw"},     {NULL, "a.img.qcow2", "a.img.raw"},
		{NULL, "a", "a.raw"},         {NULL, ".qcow2", ".qcow2.raw"},
		{"n", "/x/a.qcow2", "n.raw"}, {"n.img", "a.qcow2", "n.img.raw"},
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char *name = tree_name_for(cases[i].given, cases[i].path);

		assert_string_equal(name, cases[i].name);
		free(name);
	}
}

static void test_lookup_and_order(void **state)
{
	struct tree tree;
	struct node *a, *b, *node;

	assert_int_equal(tree_init(&tree, &owner), 0);
	a = add(&tree, "a.raw", &host);
	b = add(&tree, "b.raw", &host);
	assert_int_equal(tree_root(&tree)->ino, TREE_ROOT_INO);
	assert_ptr_equal(tree_lookup(&tree, tree_root(&tree), "b.raw"), b);
	assert_null(tree_lookup(&tree, tree_root(&tree), "c.raw"));
	assert_null(tree_lookup(&tree, a, "a.raw"));
	assert_ptr_equal(tree_get(&tree, a->ino), a);
	assert_null(tree_get(&tree, 0));
	assert_null(tree_get(&tree, b->ino + 1));
	assert_ptr_equal(tree_next_child(&tree, tree_root(&tree), 1), a);
	assert_ptr_equal(tree_next_child(&tree, tree_root(&tree), a->ino + 1), b);
	assert_null(tree_next_child(&tree, tree_root(&tree), b->ino + 1));
	assert_int_equal(tree_add_file(&tree, tree_root(&tree), "a.raw", image, &host, &node),
			 -EEXIST);
	tree_finish(&tree);
}

static void test_many_nodes(void **state)
{
	struct tree tree;

	assert_int_equal(tree_init(&tree, &owner), 0);
	for (unsigned i = 0; i < 100; i++) {
		char name[16];

		snprintf(name, sizeof(name), "%u", i);
		assert_int_equal(add(&tree, name, &host)->ino, i + 2);
	}
	assert_int_equal(tree_lookup(&tree, tree_root(&tree), "99")->ino, 101);
	tree_finish(&tree);
}

static void test_snapshot_names(void **state)
{
	static const struct {
		const char *id, *snapshot, *name;
	} cases[] = {
		{"1", "before", "1-before.raw"},
		{"2", "", "2-.raw"},
		{"a/b", "c/../d\n", "a_b-c_.._d_.raw"},
	};
	char long_name[1000], *name;

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		name = tree_snapshot_name(cases[i].id, cases[i].snapshot);
		assert_string_equal(name, cases[i].name);
		free(name);
	}
	memset(long_name, 'x', sizeof(long_name) - 1);
	long_name[sizeof(long_name) - 1] = '\0';
	name = tree_snapshot_name("1", long_name);
	assert_int_equal(strlen(name), 255);
	assert_string_equal(name + 251, ".raw");
	free(name);
}

static void test_snapshots_are_read_only_files(void **state)
{
	struct tree tree;
	struct node *base, *dir, *node;
	struct stat st;

	assert_int_equal(tree_init(&tree, &owner), 0);
	base = add(&tree, "disk.raw", &host);
	assert_int_equal(tree_add_dir(&tree, "snapshots", &dir), 0);
	assert_int_equal(tree_add_dir(&tree, "disk.raw", &node), -EEXIST);
	assert_int_equal(tree_add_view(&tree, dir, "1-a.raw", base, 512, 5, NULL, &node), 0);
	assert_int_equal(tree_add_view(&tree, dir, "1-a.raw", base, 512, 5, NULL, &node), -EEXIST);
	node = tree_lookup(&tree, dir, "1-a.raw");
	assert_null(tree_lookup(&tree, tree_root(&tree), "1-a.raw"));
	node_stat(node, 0, &st);
	assert_int_equal(st.st_mode, S_IFREG | 0400);
	assert_int_equal(st.st_size, 512);
	assert_int_equal(st.st_mtim.tv_nsec, 5);
	assert_false(node->writable);
	assert_null(tree_next_child(&tree, dir, node->ino + 1));
	tree_finish(&tree);
}

static void test_single_file_is_the_root(void **state)
{
	struct tree tree;
	struct node *node;
	struct stat st;

	tree_init_single(&tree, &owner);
	assert_int_equal(tree_add_file(&tree, NULL, "", image, &host, &node), 0);
	assert_int_equal(node->ino, TREE_ROOT_INO);
	assert_ptr_equal(tree_root(&tree), node);
	node_stat(node, 100, &st);
	assert_true(S_ISREG(st.st_mode));
	tree_finish(&tree);
}

static void test_stat(void **state)
{
	struct tree tree;
	struct node *node;
	struct stat st;

	assert_int_equal(tree_init(&tree, &owner), 0);
	node = add(&tree, "a", &host);
	node_stat(node, 100, &st);
	assert_int_equal(st.st_mode, S_IFREG | 0600);
	assert_int_equal(st.st_uid, 7);
	assert_int_equal(st.st_gid, 8);
	assert_int_equal(st.st_size, 10u << 20);
	assert_int_equal(st.st_blocks, 100);
	assert_int_equal(st.st_blksize, 65536);
	assert_int_equal(st.st_mtim.tv_sec, 1000);
	assert_int_equal(st.st_mtim.tv_nsec, 5);
	node_touch(node, 0, 1);
	node_stat(node, 100, &st);
	assert_true(st.st_mtim.tv_sec > 1000);
	assert_int_equal(st.st_mtim.tv_sec, st.st_ctim.tv_sec);
	node->mtime_ns = -1;
	node_stat(node, 100, &st);
	assert_int_equal(st.st_mtim.tv_sec, -1);
	assert_int_equal(st.st_mtim.tv_nsec, 999999999);
	node_stat(tree_root(&tree), 0, &st);
	assert_true(S_ISDIR(st.st_mode));
	assert_int_equal(st.st_mode & 0222, 0);
	tree_finish(&tree);
}

static mode_t mode_of(const struct tree_owner *who, mode_t host_mode, bool writable)
{
	struct stat st = {.st_mode = S_IFREG | host_mode};
	struct tree tree;
	struct node *node;
	mode_t mode;

	facts.writable = writable;
	assert_int_equal(tree_init(&tree, who), 0);
	node = add(&tree, "a", &st);
	mode = node->mode;
	facts.writable = true;
	tree_finish(&tree);
	return mode;
}

static void test_permissions(void **state)
{
	const struct tree_owner open_to_all = {.has_umask = true, .umask = 022};

	assert_int_equal(mode_of(&owner, 0644, true), 0600);
	assert_int_equal(mode_of(&owner, 0644, false), 0400);
	assert_int_equal(mode_of(&owner, 0444, true), 0400);
	assert_int_equal(mode_of(&owner, 0200, true), 0200);
	assert_int_equal(mode_of(&open_to_all, 0644, true), 0644);
	assert_int_equal(mode_of(&open_to_all, 0644, false), 0444);
	assert_int_equal(mode_of(&open_to_all, 0600, true), 0644);
}

static void test_block_size_is_bounded(void **state)
{
	static const struct {
		uint32_t cluster_size;
		unsigned blksize;
	} cases[] = {{512, 64u << 10}, {128u << 10, 128u << 10}, {2u << 20, 1u << 20}};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct tree tree;
		struct stat st;

		facts.cluster_size = cases[i].cluster_size;
		assert_int_equal(tree_init(&tree, &owner), 0);
		node_stat(add(&tree, "a", &host), 0, &st);
		assert_int_equal(st.st_blksize, cases[i].blksize);
		tree_finish(&tree);
	}
	facts.cluster_size = 65536;
}

static void test_blocks_tell_tar_the_truth(void **state)
{
	/* Never 0 while there may be data, */
	assert_int_equal(tree_clamp_sectors(0, 1u << 20), 1);
	/* below the size while there may be a hole, */
	assert_int_equal(tree_clamp_sectors(4000, 1u << 20), 2047);
	assert_int_equal(tree_clamp_sectors(2048, 1u << 20), 2047);
	/* the estimate in between, */
	assert_int_equal(tree_clamp_sectors(17, 1u << 20), 17);
	/* and at the edges. */
	assert_int_equal(tree_clamp_sectors(100, 512), 1);
	assert_int_equal(tree_clamp_sectors(100, 0), 0);
}

static void test_parts(void **state)
{
	struct tree tree;
	struct node *whole, *first, *second, *inner;

	assert_int_equal(tree_init(&tree, &owner), 0);
	whole = add(&tree, "disk.raw", &host);
	assert_int_equal(tree_add_part(&tree, whole, "disk.p1.raw", 1000, 500), 0);
	assert_int_equal(tree_add_part(&tree, whole, "disk.p2.raw", 1500, 500), 0);
	assert_int_equal(tree_add_part(&tree, whole, "disk.p5.raw", 1600, 10), 0);
	assert_int_equal(tree_add_part(&tree, whole, "disk.p5.raw", 1, 1), -EEXIST);
	first = tree_lookup(&tree, tree_root(&tree), "disk.p1.raw");
	second = tree_lookup(&tree, tree_root(&tree), "disk.p2.raw");
	inner = tree_lookup(&tree, tree_root(&tree), "disk.p5.raw");
	assert_true(node_shows(first, 1499, 1) && node_shows(second, 1499, 2));
	assert_false(node_shows(first, 1500, 1) || node_shows(first, 0, 1000));
	assert_true(node_shows(whole, 1ull << 40, 1));
	assert_int_equal(node_begin_writing(first), 0);
	assert_int_equal(node_begin_writing(first), 0);
	assert_int_equal(node_begin_writing(second), 0);
	assert_int_equal(node_begin_writing(whole), -EBUSY);
	assert_int_equal(node_begin_writing(inner), -EBUSY);
	node_end_writing(second);
	assert_int_equal(node_begin_writing(inner), 0);
	assert_int_equal(node_begin_writing(second), -EBUSY);
	node_end_writing(inner);
	node_end_writing(first);
	assert_int_equal(node_begin_writing(whole), -EBUSY);
	node_end_writing(first);
	assert_int_equal(node_begin_writing(whole), 0);
	assert_int_equal(node_begin_writing(first), -EBUSY);
	whole->mtime_ns = first->mtime_ns = second->mtime_ns = 0;
	node_touch(second, 0, 1);
	assert_true(whole->mtime_ns && second->mtime_ns && !first->mtime_ns);
	tree_finish(&tree);
}

/* What truncates while it opens must not be taken for a truncation because others open, too. */
static void test_opens_that_overtake_a_truncation(void **state)
{
	struct node node = {.write_open_ns = 0};

	assert_false(node_was_opened_within(&node, 10, 5));
	node.write_open_ns = 100;
	assert_true(node_was_opened_within(&node, 10, 100));
	assert_true(node_was_opened_within(&node, 10, 109));
	assert_false(node_was_opened_within(&node, 10, 110));
	assert_true(node_was_opened_within(&node, 10, 99));
}

static void test_partition_names(void **state)
{
	static const char *const cases[][2] = {
		{"disk.raw", "disk.p7.raw"}, {"a.b.raw", "a.b.p7.raw"}, {"x", "x.p7.raw"},
		{"x.img", "x.img.p7.raw"},   {".raw", ".raw.p7.raw"},
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char *name = tree_partition_name(cases[i][0], 7);

		assert_string_equal(name, cases[i][1]);
		free(name);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parts),
		cmocka_unit_test(test_opens_that_overtake_a_truncation),
		cmocka_unit_test(test_partition_names),
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_lookup_and_order),
		cmocka_unit_test(test_many_nodes),
		cmocka_unit_test(test_snapshot_names),
		cmocka_unit_test(test_snapshots_are_read_only_files),
		cmocka_unit_test(test_single_file_is_the_root),
		cmocka_unit_test(test_stat),
		cmocka_unit_test(test_permissions),
		cmocka_unit_test(test_block_size_is_bounded),
		cmocka_unit_test(test_blocks_tell_tar_the_truth),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
