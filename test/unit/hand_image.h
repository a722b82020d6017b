/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * hand_image: for unit tests of the core: qcow2 images put together by hand, field by
 * field, on the simulated disk. A test body runs in a coroutine (CO_TEST) with an empty
 * disk; it may damage what it likes before it opens the image.
 *
 * Layout, in clusters: header, refcount table, refcount block, L1 table, L2 table, then
 * whatever the test wants. Refcounts are 16 bits wide.
 */
#ifndef QCOW2FS_TEST_UNIT_HAND_IMAGE_H
#define QCOW2FS_TEST_UNIT_HAND_IMAGE_H

#include "test/sim/choose.h"
#include "test/sim/run.h"
#include "test/sim/verdict.h"

#include "core/internal.h"
#include "io/buf.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { HAND_REFTABLE = 1, HAND_REFBLOCK, HAND_L1, HAND_L2, HAND_DATA };

#define NB_ELEMENTS(array) (sizeof(array) / sizeof((array)[0]))
#define HAND_FIELD(bytes, field) ((bytes) + offsetof(struct qcow2_header, field))

static struct sim hand;
static uint64_t hand_seed = 1;

static inline int hand_group_setup(void **state)
{
	const char *text = getenv("QF_SEED");

	if (text)
		hand_seed = strtoull(text, NULL, 0);
	print_message("seed %llu\n", (unsigned long long)hand_seed);
	return 0;
}

static inline int hand_setup(void **state)
{
	verdict_clear();
	choose_seed(hand_seed);
	sim_create(&hand);
	return 0;
}

static inline int hand_teardown(void **state)
{
	assert_int_equal(reactor_nb_coroutines(hand.reactor), 0);
	sim_destroy(&hand);
	buf_trim();
	if (verdict_failed())
		print_error("%s\n", verdict_text());
	return verdict_failed();
}

/* A test whose body is a coroutine of hand.reactor. */
#define CO_TEST(name)                                         \
	static void coroutine_fn name##_body(void *arg);      \
	static void name(void **state)                        \
	{                                                     \
		reactor_run(hand.reactor, name##_body, NULL); \
	}                                                     \
	static void coroutine_fn name##_body(void *arg)

#define HAND_TEST(name) cmocka_unit_test_setup_teardown(name, hand_setup, hand_teardown)

/*
 * Adds an image whose file has nb_clusters (> HAND_DATA); all guest clusters are
 * unallocated. Returns its bytes, which stay where they are unless the file grows.
 */
static inline uint8_t *hand_image(const char *name, unsigned version, unsigned cluster_bits,
				  unsigned nb_clusters, uint64_t virtual_size)
{
	uint64_t size = 1ull << cluster_bits;
	struct sim_file *file = sim_add_file(hand.disk, name, NULL, 0, false);
	uint8_t *bytes;

	sim_bytes_resize(&file->bytes, nb_clusters * size);
	bytes = file->bytes.data;
	be32_put(HAND_FIELD(bytes, magic), QCOW2_MAGIC);
	be32_put(HAND_FIELD(bytes, version), version);
	be32_put(HAND_FIELD(bytes, cluster_bits), cluster_bits);
	be64_put(HAND_FIELD(bytes, size), virtual_size);
	be32_put(HAND_FIELD(bytes, l1_size), 1);
	be64_put(HAND_FIELD(bytes, l1_table_offset), HAND_L1 * size);
	be64_put(HAND_FIELD(bytes, refcount_table_offset), HAND_REFTABLE * size);
	be32_put(HAND_FIELD(bytes, refcount_table_clusters), 1);
	if (version >= 3) {
		be32_put(HAND_FIELD(bytes, refcount_order), 4);
		be32_put(HAND_FIELD(bytes, header_length), sizeof(struct qcow2_header));
	}
	be64_put(bytes + HAND_REFTABLE * size, HAND_REFBLOCK * size);
	for (unsigned i = 0; i < HAND_DATA; i++)
		be16_put(bytes + HAND_REFBLOCK * size + i * 2, 1);
	be64_put(bytes + HAND_L1 * size, HAND_L2 * size | ENTRY_COPIED);
	return bytes;
}

static inline void hand_set_l2(uint8_t *bytes, unsigned index, uint64_t entry)
{
	unsigned cluster_bits = be32_get(HAND_FIELD(bytes, cluster_bits));

	be64_put(bytes + ((uint64_t)HAND_L2 << cluster_bits) + index * 8, entry);
}

/* Appends a header extension to the end of those there are; they begin at `*off`. */
static inline void hand_add_extension(uint8_t *bytes, uint32_t *off, uint32_t type,
				      const void *data, uint32_t len_bytes)
{
	be32_put(bytes + *off, type);
	be32_put(bytes + *off + 4, len_bytes);
	memcpy(bytes + *off + 8, data, len_bytes);
	*off += 8 + ((len_bytes + 7) & ~7u);
}

/* Records a backing file, and its format unless that is NULL. */
static inline void hand_set_backing(uint8_t *bytes, const char *name, const char *format)
{
	uint32_t off = sizeof(struct qcow2_header);

	if (format)
		hand_add_extension(bytes, &off, EXT_BACKING_FORMAT, format, strlen(format));
	hand_add_extension(bytes, &off, EXT_END, "", 0);
	be64_put(HAND_FIELD(bytes, backing_file_offset), off);
	be32_put(HAND_FIELD(bytes, backing_file_size), strlen(name));
	memcpy(bytes + off, name, strlen(name));
}

/* The file alone, for functions below struct image. */
static inline struct file *hand_open_file(const char *name)
{
	struct file *file = NULL;

	assert_int_equal(hand.disk->opener.open(&hand.disk->opener, OPENER_IMAGE, NULL, name, true,
						FILE_LOCK_NONE, &file, NULL),
			 0);
	return file;
}

static inline struct image *coroutine_fn hand_open(const char *name,
						   const struct image_options *options)
{
	struct error *error = NULL;
	struct image *image = NULL;

	if (image_open(&hand.disk->opener, name, options, &image, &error))
		fail_msg("%s: %s", name, error->msg);
	return image;
}

/* `error` is of that class and number and says `text`; frees it. */
static inline void hand_expect_error(struct error *error, enum error_class class, int err,
				     const char *text)
{
	assert_non_null(error);
	if (!strstr(error->msg, text))
		fail_msg("\"%s\" does not say \"%s\"", error->msg, text);
	assert_int_equal(error->class, class);
	assert_int_equal(error->err, err);
	error_free(error);
}

/* Opening it fails like that. */
static inline void coroutine_fn hand_refuses(const char *name, const struct image_options *options,
					     enum error_class class, int err, const char *text)
{
	struct error *error = NULL;
	struct image *image = NULL;

	assert_int_equal(image_open(&hand.disk->opener, name, options, &image, &error), -err);
	assert_null(image);
	hand_expect_error(error, class, err, text);
}

/* Requests that use up all stacks of hand.reactor, from begin to end. */
#define HAND_NB_STACKS 64u

struct hand_crowd {
	struct task tasks[HAND_NB_STACKS];
	struct co_queue queue;
	bool ends;
};

static inline void coroutine_fn hand_crowd_run(void *arg)
{
	struct hand_crowd *crowd = arg;

	while (!crowd->ends)
		co_queue_wait(&crowd->queue);
}

static inline void hand_crowd_begin(struct hand_crowd *crowd)
{
	*crowd = (struct hand_crowd){0};
	for (unsigned i = 0; i < HAND_NB_STACKS; i++) {
		crowd->tasks[i] = (struct task){.fn = hand_crowd_run, .arg = crowd};
		reactor_spawn(hand.reactor, &crowd->tasks[i]);
	}
}

static inline void coroutine_fn hand_crowd_end(struct hand_crowd *crowd)
{
	crowd->ends = true;
	co_queue_wake_all(&crowd->queue);
	while (reactor_nb_coroutines(hand.reactor) > 1)
		co_sleep(1000);
}

#endif
