/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * functions CASE ENGINE: tries the functions of the library in the working folder, where
 * test/it/library has put a.qcow2 (4 MiB; the first MiB is 0x11, then 64 KiB of 0x22,
 * compressed; snapshot "one"), top.qcow2 (an empty overlay of it), leaky.qcow2 and flat.raw.
 * It knows the library by its public header and is linked with it in each way.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <qcow2fs.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KIB 1024u
#define MIB (1024u * KIB)
#define DISK_BYTES (4ull * MIB)

#define CHECK(condition)                                                                \
	do {                                                                            \
		if (!(condition)) {                                                     \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
			exit(1);                                                        \
		}                                                                       \
	} while (0)
#define EQUAL(value, expected)                                                               \
	do {                                                                                 \
		long long value_ = (value), expected_ = (expected);                          \
		if (value_ != expected_) {                                                   \
			fprintf(stderr, "%s:%d: %s is %lld, not %lld\n", __FILE__, __LINE__, \
				#value, value_, expected_);                                  \
			exit(1);                                                             \
		}                                                                            \
	} while (0)

static uint32_t engine;

static struct qf_context *make_context(void)
{
	struct qf_context_options options = {.size = sizeof(options), .engine = engine};
	struct qf_context *context;

	EQUAL(qf_context_create(&options, &context), 0);
	return context;
}

static struct qf_image *open_image(struct qf_context *context, const char *path, uint32_t flags)
{
	struct qf_open_options options = {.size = sizeof(options), .flags = flags};
	struct qf_image *image;
	char *message = NULL;

	if (qf_open(context, path, &options, &image, &message) < 0) {
		fprintf(stderr, "%s\n", message);
		exit(1);
	}
	return image;
}

static void check_bytes(const uint8_t *buf, size_t len_bytes, uint8_t expected)
{
	for (size_t i = 0; i < len_bytes; i++)
		if (buf[i] != expected) {
			fprintf(stderr, "byte %zu is %#x, not %#x\n", i, buf[i], expected);
			exit(1);
		}
}

static void check_range(struct qf_image *image, uint64_t off, size_t len_bytes, uint8_t expected)
{
	uint8_t *buf = malloc(len_bytes);

	memset(buf, 0x5a, len_bytes);
	EQUAL(qf_pread(image, buf, len_bytes, off), 0);
	check_bytes(buf, len_bytes, expected);
	free(buf);
}

/* ---- contexts ---- */

static void contexts(void)
{
	static const char *const names[] = {NULL, "io_uring", "threads", "sync"};
	struct {
		struct qf_context_options known;
		uint32_t later;
	} options = {.known = {.size = sizeof(options), .engine = engine}};
	struct qf_context *context, *second;
	struct qf_image *image;

	EQUAL(strcmp(qf_version(), VERSION), 0);
	EQUAL(qf_context_create(&options.known, &context), 0);
	if (names[engine])
		EQUAL(strcmp(qf_context_engine(context), names[engine]), 0);
	EQUAL(qf_context_create(NULL, &second), 0);
	image = open_image(context, "a.qcow2", 0);
	EQUAL(qf_context_destroy(context), -EBUSY);
	EQUAL(qf_close(image), 0);
	EQUAL(qf_context_destroy(context), 0);
	EQUAL(qf_context_destroy(second), 0);
	EQUAL(qf_context_destroy(NULL), 0);

	options.later = 1;
	EQUAL(qf_context_create(&options.known, &context), -E2BIG);
	options.known.size = sizeof(options.known) - 4;
	EQUAL(qf_context_create(&options.known, &context), -EINVAL);
	options.known.size = sizeof(options.known);
	options.known.engine = 4;
	EQUAL(qf_context_create(&options.known, &context), -EINVAL);
	options.known.engine = engine;
	options.known.nb_workers = 65;
	EQUAL(qf_context_create(&options.known, &context), -EINVAL);
	options.known.nb_workers = 1;
	options.known.nb_requests = 4097;
	EQUAL(qf_context_create(&options.known, &context), -EINVAL);
	options.known.nb_requests = 1;
	EQUAL(qf_context_create(&options.known, &context), 0);
	image = open_image(context, "a.qcow2", QF_OPEN_WRITABLE);
	check_range(image, 0, MIB, 0x11);
	/* Closing waits for work that is beside the one request. */
	EQUAL(qf_pwrite(image, "x", 1, 2 * MIB), 0);
	EQUAL(qf_discard(image, 2 * MIB, MIB), 0);
	EQUAL(qf_close(image), 0);
	EQUAL(qf_context_destroy(context), 0);
}

/* ---- opening ---- */

static void refuse(struct qf_context *context, const char *path,
		   const struct qf_open_options *options, int expected, const char *words)
{
	struct qf_image *image;
	char *message = NULL;

	EQUAL(qf_open(context, path, options, &image, &message), expected);
	CHECK(message);
	if (!strstr(message, words)) {
		fprintf(stderr, "no word of '%s': %s\n", words, message);
		exit(1);
	}
	free(message);
	EQUAL(qf_open(context, path, options, &image, NULL), expected);
}

static void opening(void)
{
	struct qf_open_options o = {.size = sizeof(o)};
	struct qf_context *context = make_context();
	struct qf_image *image;

	refuse(context, "missing.qcow2", NULL, -ENOENT, "No such file");
	refuse(context, "flat.raw", NULL, -EINVAL, "not a qcow2 image");
	o.size = 8;
	refuse(context, "a.qcow2", &o, -EINVAL, "Invalid");
	o.size = sizeof(o);
	o.flags = QF_OPEN_WRITABLE | QF_OPEN_FORCE_SHARE;
	refuse(context, "a.qcow2", &o, -EINVAL, "Invalid");
	o.flags = QF_OPEN_WRITABLE;
	o.snapshot = "one";
	refuse(context, "a.qcow2", &o, -EINVAL, "Invalid");
	o.flags = 1u << 31;
	refuse(context, "a.qcow2", &o, -EINVAL, "Invalid");
	o.flags = 0;
	o.names = 4;
	refuse(context, "a.qcow2", &o, -EINVAL, "Invalid");
	o.names = QF_NAMES_NONE;
	o.snapshot = NULL;
	refuse(context, "top.qcow2", &o, -EPERM, "a.qcow2");
	o.names = 0;
	o.snapshot = "two";
	refuse(context, "a.qcow2", &o, -ENOENT, "two");

	image = open_image(context, "a.qcow2", QF_OPEN_WRITABLE);
	o.snapshot = NULL;
	refuse(context, "a.qcow2", &o, -EAGAIN, "in use");
	o.flags = QF_OPEN_FORCE_SHARE;
	EQUAL(qf_close(open_image(context, "a.qcow2", QF_OPEN_FORCE_SHARE)), 0);
	EQUAL(qf_close(image), 0);
	EQUAL(qf_close(NULL), 0);
	EQUAL(qf_context_destroy(context), 0);
}

static void ways_to_open(void)
{
	struct qf_open_options o = {.size = sizeof(o), .backing_file = "flat.qcow2"};
	struct qf_context *context = make_context();
	struct qf_image *image;

	image = open_image(context, "top.qcow2", 0);
	check_range(image, 0, MIB, 0x11);
	EQUAL(qf_close(image), 0);
	image = open_image(context, "top.qcow2", QF_OPEN_NO_BACKING);
	check_range(image, 0, MIB, 0);
	EQUAL(qf_close(image), 0);
	EQUAL(qf_open(context, "top.qcow2", &o, &image, NULL), 0);
	check_range(image, 0, MIB, 0x33);
	EQUAL(qf_close(image), 0);
	image = open_image(context, "flat.raw", QF_OPEN_RAW | QF_OPEN_PAGE_CACHE);
	check_range(image, 0, MIB, 0x33);
	EQUAL(qf_close(image), 0);
	o = (struct qf_open_options){.size = sizeof(o), .snapshot = "one"};
	EQUAL(qf_open(context, "a.qcow2", &o, &image, NULL), 0);
	check_range(image, MIB, 64 * KIB, 0);
	EQUAL(qf_close(image), 0);
	o = (struct qf_open_options){
		.size = sizeof(o), .names = QF_NAMES_BENEATH, .l2_cache_bytes = 4096};
	EQUAL(qf_open(context, "top.qcow2", &o, &image, NULL), 0);
	check_range(image, MIB, 64 * KIB, 0x22);
	EQUAL(qf_close(image), 0);
	EQUAL(qf_context_destroy(context), 0);
}

/* ---- facts ---- */

static void info(void)
{
	struct {
		struct qf_info known;
		uint64_t later;
	} facts = {.known = {.size = sizeof(facts)}, .later = 1};
	struct qf_context *context = make_context();
	struct qf_image *image = open_image(context, "top.qcow2", QF_OPEN_WRITABLE);

	EQUAL(qf_get_info(image, &facts.known), 0);
	EQUAL(facts.later, 0);
	EQUAL(facts.known.size, sizeof(facts));
	EQUAL(facts.known.flags, QF_INFO_WRITABLE);
	EQUAL(facts.known.virtual_size, DISK_BYTES);
	EQUAL(facts.known.cluster_size, 64 * KIB);
	CHECK(facts.known.block_size && facts.known.block_size <= 4096);
	EQUAL(facts.known.version, 3);
	EQUAL(facts.known.refcount_bits, 16);
	EQUAL(facts.known.depth, 2);
	EQUAL(facts.known.nb_snapshots, 0);
	EQUAL(strcmp(facts.known.backing_file, "a.qcow2"), 0);
	EQUAL(strcmp(facts.known.backing_format, "qcow2"), 0);
	CHECK(!facts.known.data_file);
	facts.known.size = 12;
	EQUAL(qf_get_info(image, &facts.known), -EINVAL);
	EQUAL(qf_close(image), 0);

	image = open_image(context, "flat.raw", QF_OPEN_RAW);
	facts.known.size = sizeof(facts.known);
	EQUAL(qf_get_info(image, &facts.known), 0);
	EQUAL(facts.known.flags, QF_INFO_RAW);
	EQUAL(facts.known.version, 0);
	EQUAL(qf_close(image), 0);
	EQUAL(qf_context_destroy(context), 0);
}

static void snapshots(void)
{
	struct qf_snapshot snapshot = {.size = sizeof(snapshot)};
	struct qf_context *context = make_context();
	struct qf_image *image = open_image(context, "a.qcow2", 0);

	EQUAL(qf_get_snapshot(image, 0, &snapshot), 0);
	EQUAL(strcmp(snapshot.id, "1"), 0);
	EQUAL(strcmp(snapshot.name, "one"), 0);
	EQUAL(snapshot.virtual_size, DISK_BYTES);
	EQUAL(snapshot.vm_state_bytes, 0);
	CHECK(snapshot.date_sec > 1500000000);
	EQUAL(qf_get_snapshot(image, 1, &snapshot), -ENOENT);
	snapshot.size = 4;
	EQUAL(qf_get_snapshot(image, 0, &snapshot), -EINVAL);
	EQUAL(qf_close(image), 0);
	EQUAL(qf_context_destroy(context), 0);
}

/* ---- the blocking form ---- */

static void blocking(void)
{
	struct qf_context *context = make_context();
	struct qf_image *image = open_image(context, "a.qcow2", QF_OPEN_WRITABLE);
	size_t len_bytes = 3 * MIB - 7; /* more than one step, and not aligned */
	uint8_t *buf = malloc(len_bytes);

	memset(buf, 0x44, len_bytes);
	EQUAL(qf_pwrite(image, buf, len_bytes, MIB + 3), 0);
	EQUAL(qf_flush(image), 0);
	check_range(image, 0, MIB, 0x11);
	check_range(image, MIB, 3, 0x22);
	check_range(image, MIB + 3, len_bytes, 0x44);
	EQUAL(qf_zero(image, 2 * MIB, 64 * KIB + 1), 0);
	check_range(image, 2 * MIB, 64 * KIB + 1, 0);
	check_range(image, 2 * MIB + 64 * KIB + 1, 512, 0x44);
	EQUAL(qf_discard(image, 3 * MIB, 128 * KIB), 0);
	check_range(image, 3 * MIB, 128 * KIB, 0);
	EQUAL(qf_close(image), 0);

	image = open_image(context, "a.qcow2", 0);
	check_range(image, 2 * MIB, 64 * KIB + 1, 0);
	check_range(image, 3 * MIB + 128 * KIB, 64 * KIB, 0x44);
	EQUAL(qf_close(image), 0);
	EQUAL(qf_context_destroy(context), 0);
	free(buf);
}

static void limits(void)
{
	struct qf_context *context = make_context();
	struct qf_image *image = open_image(context, "top.qcow2", QF_OPEN_WRITABLE);
	struct qf_extent extent;
	uint8_t buf[1024] = {0};

	EQUAL(qf_pread(image, buf, 1024, DISK_BYTES - 1024), 0);
	EQUAL(qf_pread(image, buf, 1024, DISK_BYTES - 1023), -EINVAL);
	EQUAL(qf_pread(image, buf, 1024, UINT64_MAX), -EINVAL);
	EQUAL(qf_pread(image, buf, 0, DISK_BYTES), 0);
	EQUAL(qf_pread(image, buf, 0, DISK_BYTES + 1), -EINVAL);
	EQUAL(qf_pwrite(image, buf, 1024, DISK_BYTES - 1023), -ENOSPC);
	EQUAL(qf_zero(image, DISK_BYTES - 1, 2), -ENOSPC);
	EQUAL(qf_zero(image, 1, 0), 0);
	EQUAL(qf_discard(image, 1, UINT64_MAX), -ENOSPC);
	EQUAL(qf_map(image, DISK_BYTES, 1, &extent), -EINVAL);
	EQUAL(qf_map(image, 0, 0, &extent), -EINVAL);
	EQUAL(qf_close(image), 0);

	image = open_image(context, "top.qcow2", 0);
	EQUAL(qf_pwrite(image, buf, 1024, 0), -EROFS);
	EQUAL(qf_zero(image, 0, 1024), -EROFS);
	EQUAL(qf_discard(image, 0, 1024), -EROFS);
	EQUAL(qf_resize(image, MIB), -EROFS);
	EQUAL(qf_flush(image), 0);
	EQUAL(qf_close(image), 0);
	EQUAL(qf_context_destroy(context), 0);
}

static void expect_extent(struct qf_image *image, uint64_t off, uint64_t len_bytes,
			  enum qf_extent_kind kind, uint32_t depth)
{
	struct qf_extent extent;
	uint64_t done = 0;

	while (done < len_bytes) {
		EQUAL(qf_map(image, off + done, len_bytes - done, &extent), 0);
		EQUAL(extent.guest_off, off + done);
		EQUAL(extent.kind, kind);
		EQUAL(extent.depth, depth);
		EQUAL(extent.flags & QF_EXTENT_HAS_HOST_OFF, kind == QF_EXTENT_DATA);
		CHECK(extent.len_bytes && extent.len_bytes <= len_bytes - done);
		done += extent.len_bytes;
	}
}

static void map(void)
{
	struct qf_context *context = make_context();
	struct qf_image *image = open_image(context, "top.qcow2", QF_OPEN_WRITABLE);
	uint8_t *buf = calloc(1, 64 * KIB);

	EQUAL(qf_pwrite(image, buf, 64 * KIB, 64 * KIB), 0);
	EQUAL(qf_zero(image, 2 * MIB, 64 * KIB), 0);
	expect_extent(image, 0, 64 * KIB, QF_EXTENT_DATA, 1);
	expect_extent(image, 64 * KIB, 64 * KIB, QF_EXTENT_DATA, 0);
	expect_extent(image, MIB, 64 * KIB, QF_EXTENT_COMPRESSED, 1);
	expect_extent(image, 2 * MIB, 64 * KIB, QF_EXTENT_ZERO, 0);
	expect_extent(image, 3 * MIB, MIB, QF_EXTENT_HOLE, 1);
	EQUAL(qf_close(image), 0);
	EQUAL(qf_context_destroy(context), 0);
	free(buf);
}

static void resize(void)
{
	struct qf_info facts = {.size = sizeof(facts)};
	struct qf_context *context = make_context();
	struct qf_image *image = open_image(context, "top.qcow2", QF_OPEN_WRITABLE);

	EQUAL(qf_resize(image, 8 * MIB - 1), 0);
	EQUAL(qf_get_info(image, &facts), 0);
	EQUAL(facts.virtual_size, 8 * MIB);
	check_range(image, 7 * MIB, MIB, 0);
	EQUAL(qf_resize(image, MIB), 0);
	EQUAL(qf_get_info(image, &facts), 0);
	EQUAL(facts.virtual_size, MIB);
	EQUAL(qf_resize(image, UINT64_MAX), -EFBIG);
	check_range(image, 0, MIB, 0x11);
	EQUAL(qf_close(image), 0);
	EQUAL(qf_context_destroy(context), 0);
}

/* ---- requests ---- */

#define NB 64u

static struct qf_context *callback_context;
static atomic_uint nb_done;

static void count_done(struct qf_request *request)
{
	struct qf_request again = *request;

	/* On the context's thread: nothing may wait for that one here. */
	EQUAL(request->result, 0);
	EQUAL(qf_pread(again.image, request->read_buf, 512, 0), -EDEADLK);
	EQUAL(qf_resize(again.image, MIB), -EDEADLK);
	EQUAL(qf_close(again.image), -EDEADLK);
	EQUAL(qf_context_destroy(callback_context), -EDEADLK);
	EQUAL(qf_check(callback_context, "leaky.qcow2", NULL,
		       &(struct qf_check_report){.size = sizeof(struct qf_check_report)}, NULL),
	      -EDEADLK);
	/* Once more, from within. */
	if (request->user) {
		request->user = NULL;
		EQUAL(qf_submit(request), 0);
	} else {
		atomic_fetch_add(&nb_done, 1);
	}
}

static void callbacks(void)
{
	struct qf_request *requests = calloc(NB, sizeof(*requests));
	struct qf_context *context = make_context();
	struct qf_image *image = open_image(context, "a.qcow2", QF_OPEN_WRITABLE);
	uint8_t *buf = malloc(NB * 4096);

	callback_context = context;
	memset(buf, 0x66, NB * 4096);
	for (unsigned i = 0; i < NB; i++) {
		requests[i] = (struct qf_request){
			.image = image,
			.op = i % 2 ? QF_OP_READ : QF_OP_WRITE,
			.guest_off = i / 2 * 65536ull,
			.len_bytes = 4096,
			.read_buf = buf + i * 4096,
			.done = count_done,
			.user = requests,
		};
		EQUAL(qf_submit(&requests[i]), 0);
	}
	while (atomic_load(&nb_done) < NB)
		usleep(1000);
	for (unsigned i = 0; i < NB; i += 2)
		check_range(image, i / 2 * 65536ull, 4096, 0x66);
	EQUAL(qf_close(image), 0);
	EQUAL(qf_context_destroy(context), 0);
	free(requests);
	free(buf);
}

static void mark_done(struct qf_request *request)
{
	EQUAL(request->result, 0);
	*(atomic_uint *)request->user += 1;
}

static void close_waits(void)
{
	struct qf_request *requests = calloc(NB, sizeof(*requests));
	struct qf_context *context = make_context();
	struct qf_image *image = open_image(context, "top.qcow2", QF_OPEN_WRITABLE);
	uint8_t *buf = malloc(3 * MIB);
	atomic_uint done = 0;

	memset(buf, 0x77, 3 * MIB);
	for (unsigned i = 0; i < NB; i++) {
		requests[i] = (struct qf_request){.image = image,
						  .op = QF_OP_WRITE,
						  .guest_off = i * 512,
						  .len_bytes = 3 * MIB,
						  .write_buf = buf,
						  .done = mark_done,
						  .user = &done};
		EQUAL(qf_submit(&requests[i]), 0);
	}
	EQUAL(qf_close(image), 0);
	EQUAL(atomic_load(&done), NB);
	image = open_image(context, "top.qcow2", 0);
	check_range(image, 0, 3 * MIB + (NB - 1) * 512, 0x77);
	EQUAL(qf_close(image), 0);
	EQUAL(qf_context_destroy(context), 0);
	free(requests);
	free(buf);
}

static bool readable(struct qf_queue *queue, int timeout_ms)
{
	struct pollfd waiting = {.fd = qf_queue_fd(queue), .events = POLLIN};

	return poll(&waiting, 1, timeout_ms) == 1;
}

static void queue_one(void)
{
	struct qf_context *context = make_context();
	struct qf_image *image = open_image(context, "a.qcow2", QF_OPEN_WRITABLE);
	struct qf_request *requests = calloc(NB, sizeof(*requests)), *reaped[NB];
	struct qf_extent extent;
	struct qf_queue *queue;
	unsigned nb = 0;

	EQUAL(qf_queue_create(&queue), 0);
	EQUAL(qf_reap(queue, reaped, 0, 0), -EINVAL);
	EQUAL(qf_reap(queue, reaped, NB, 0), 0);
	EQUAL(qf_reap(queue, reaped, NB, 20), 0);
	CHECK(!readable(queue, 0));
	for (unsigned i = 0; i < 3; i++) {
		requests[i] =
			(struct qf_request){.image = image, .op = QF_OP_FLUSH, .queue = queue};
		EQUAL(qf_submit(&requests[i]), 0);
	}
	EQUAL(qf_close(open_image(context, "flat.qcow2", 0)), 0);
	CHECK(readable(queue, -1));
	while (nb < 2)
		nb += qf_reap(queue, reaped + nb, 2 - nb, -1);
	CHECK(readable(queue, -1)); /* one is left */
	EQUAL(qf_reap(queue, reaped + 2, NB, -1), 1);
	CHECK(!readable(queue, 0));
	for (unsigned i = 0; i < 3; i++)
		CHECK(reaped[i] == &requests[i] && !reaped[i]->result);

	requests[0] = (struct qf_request){.image = image,
					  .op = QF_OP_MAP,
					  .guest_off = MIB,
					  .len_bytes = 65536,
					  .extent = &extent,
					  .queue = queue};
	EQUAL(qf_submit(&requests[0]), 0);
	EQUAL(qf_reap(queue, reaped, 1, -1), 1);
	EQUAL(extent.kind, QF_EXTENT_COMPRESSED);
	requests[0].op = QF_OP_DISCARD;
	EQUAL(qf_submit(&requests[0]), 0);
	EQUAL(qf_reap(queue, reaped, 1, -1), 1);
	EQUAL(requests[0].result, 0);
	check_range(image, MIB, 65536, 0);
	requests[0].op = QF_OP_ZERO;
	requests[0].guest_off = 0;
	EQUAL(qf_submit(&requests[0]), 0);
	EQUAL(qf_reap(queue, reaped, 1, -1), 1);
	EQUAL(requests[0].result, 0);
	check_range(image, 0, 65536, 0);
	requests[0].guest_off = DISK_BYTES;
	EQUAL(qf_submit(&requests[0]), 0);
	EQUAL(qf_reap(queue, reaped, 1, -1), 1);
	EQUAL(requests[0].result, -ENOSPC);

	requests[0].op = 6;
	EQUAL(qf_submit(&requests[0]), -EINVAL);
	requests[0].op = QF_OP_FLUSH;
	requests[0].flags = 1;
	EQUAL(qf_submit(&requests[0]), -EINVAL);
	requests[0].flags = 0;
	requests[0].queue = NULL;
	EQUAL(qf_submit(&requests[0]), -EINVAL);
	requests[0].queue = queue;
	requests[0].image = NULL;
	EQUAL(qf_submit(&requests[0]), -EINVAL);

	EQUAL(qf_close(image), 0);
	qf_queue_destroy(queue);
	qf_queue_destroy(NULL);
	EQUAL(qf_context_destroy(context), 0);
	free(requests);
}

/* ---- one context, one queue, many threads ---- */

#define NB_THREADS 4u
#define NB_ROUNDS 50u

static struct qf_image *shared_image;
static struct qf_queue *shared_queue;
static atomic_uint nb_reaped;

/* Writes sectors of its own, with a sector's number as contents, and takes whatever is ready. */
static void *thread_main(void *arg)
{
	unsigned number = (unsigned)(uintptr_t)arg;
	struct qf_request *reaped[8];

	for (unsigned round = 0; round < NB_ROUNDS; round++) {
		struct qf_request *request = calloc(1, sizeof(*request));
		unsigned sector = round * NB_THREADS + number;
		uint8_t *buf = malloc(512);
		int nb;

		memset(buf, sector + 1, 512);
		*request = (struct qf_request){.image = shared_image,
					       .op = QF_OP_WRITE,
					       .guest_off = sector * 512,
					       .len_bytes = 512,
					       .write_buf = buf,
					       .queue = shared_queue,
					       .user = buf};
		EQUAL(qf_submit(request), 0);
		nb = qf_reap(shared_queue, reaped, 8, round % 2);
		for (int i = 0; i < nb; i++) {
			EQUAL(reaped[i]->result, 0);
			free(reaped[i]->user);
			free(reaped[i]);
		}
		atomic_fetch_add(&nb_reaped, nb);
	}
	return NULL;
}

static void threads(void)
{
	struct qf_context *context = make_context();
	pthread_t ids[NB_THREADS];
	struct qf_request *reaped;
	uint8_t sector[512];

	shared_image = open_image(context, "top.qcow2", QF_OPEN_WRITABLE);
	EQUAL(qf_queue_create(&shared_queue), 0);
	for (unsigned i = 0; i < NB_THREADS; i++)
		EQUAL(pthread_create(&ids[i], NULL, thread_main, (void *)(uintptr_t)i), 0);
	for (unsigned i = 0; i < NB_THREADS; i++)
		EQUAL(pthread_join(ids[i], NULL), 0);
	while (atomic_load(&nb_reaped) < NB_THREADS * NB_ROUNDS) {
		EQUAL(qf_reap(shared_queue, &reaped, 1, -1), 1);
		free(reaped->user);
		free(reaped);
		nb_reaped++;
	}
	for (unsigned i = 0; i < NB_THREADS * NB_ROUNDS; i++) {
		EQUAL(qf_pread(shared_image, sector, 512, i * 512), 0);
		check_bytes(sector, 512, i + 1);
	}
	EQUAL(qf_close(shared_image), 0);
	qf_queue_destroy(shared_queue);
	EQUAL(qf_context_destroy(context), 0);
}

/* ---- checking ---- */

static void count_line(void *user, const char *line)
{
	CHECK(*line && !strchr(line, '\n'));
	++*(unsigned *)user;
}

static void check(void)
{
	struct qf_check_report report = {.size = sizeof(report)};
	unsigned nb_lines = 0;
	struct qf_check_options options = {
		.size = sizeof(options), .say = count_line, .user = &nb_lines};
	struct qf_context *context = make_context();
	struct qf_image *image;
	char *message;

	EQUAL(qf_check(context, "a.qcow2", NULL, &report, NULL), 0);
	EQUAL(report.leaks + report.corruptions + report.check_errors + report.flags, 0);
	EQUAL(report.total_clusters, 64);
	EQUAL(report.allocated_clusters, 17);
	EQUAL(report.compressed_clusters, 1);
	CHECK(report.image_end_offset >= MIB);
	EQUAL(qf_check(context, "leaky.qcow2", &options, &report, NULL), 0);
	EQUAL(report.leaks, 16);
	CHECK(nb_lines >= 1);
	options.repair = QF_REPAIR_LEAKS;
	EQUAL(qf_check(context, "leaky.qcow2", &options, &report, NULL), 0);
	EQUAL(report.leaks_fixed, 16);
	EQUAL(report.leaks, 0);
	EQUAL(qf_check(context, "leaky.qcow2", NULL, &report, NULL), 0);
	EQUAL(report.leaks, 0);
	EQUAL(qf_check(context, "flat.raw", NULL, &report, &message), -EINVAL);
	CHECK(strstr(message, "not a qcow2 image"));
	free(message);
	options.repair = 3;
	EQUAL(qf_check(context, "a.qcow2", &options, &report, NULL), -EINVAL);
	options.repair = QF_REPAIR_ALL;
	options.flags = QF_OPEN_FORCE_SHARE;
	EQUAL(qf_check(context, "a.qcow2", &options, &report, NULL), -EINVAL);
	options.repair = QF_REPAIR_NOTHING;
	image = open_image(context, "a.qcow2", QF_OPEN_WRITABLE);
	EQUAL(qf_check(context, "a.qcow2", &options, &report, NULL), 0);
	EQUAL(qf_check(context, "a.qcow2", NULL, &report, NULL), -EAGAIN);
	EQUAL(qf_close(image), 0);
	report.size = 8;
	EQUAL(qf_check(context, "a.qcow2", NULL, &report, NULL), -EINVAL);
	EQUAL(qf_context_destroy(context), 0);
}

static const struct {
	const char *name;
	void (*run)(void);
} cases[] = {
	{"contexts", contexts},
	{"opening", opening},
	{"ways_to_open", ways_to_open},
	{"info", info},
	{"snapshots", snapshots},
	{"blocking", blocking},
	{"limits", limits},
	{"map", map},
	{"resize", resize},
	{"callbacks", callbacks},
	{"close_waits", close_waits},
	{"queue", queue_one},
	{"threads", threads},
	{"check", check},
};

int main(int argc, char **argv)
{
	if (argc == 2) {
		for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
			puts(cases[i].name);
		return 0;
	}
	CHECK(argc == 3);
	engine = atoi(argv[2]);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (!strcmp(cases[i].name, argv[1])) {
			cases[i].run();
			return 0;
		}
	return 2;
}
