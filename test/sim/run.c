/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* run: performing guest operations on the simulated disk. See run.h. */
#include "test/sim/run.h"
#include "test/sim/choose.h"
#include "test/sim/memory.h"
#include "test/sim/verdict.h"

#include "core/compress_write.h"
#include "core/internal.h"
#include "io/co_sync.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define READ_CHUNK_BYTES (64u << 10)
#define CLIENTS_MAX 8u

static unsigned choose_coroutine(void *ctx, unsigned nb_choices)
{
	return sim_choose(CHOICE_SCHEDULE, nb_choices);
}

void sim_create(struct sim *sim)
{
	struct reactor_params params = {.nb_coroutines = 64};
	int err = sim_disk_create(&sim->disk);

	if (!err) {
		params.engine = &sim->disk->engine;
		err = reactor_create(&params, &sim->reactor);
	}
	if (err)
		verdict_fatal("no reactor: %s", strerror(-err));
	reactor_set_chooser(sim->reactor, choose_coroutine, NULL);
}

void sim_destroy(struct sim *sim)
{
	reactor_destroy(sim->reactor);
	*sim = (struct sim){0};
}

const char *run_describe(const struct guest_op *ops, unsigned nb_ops)
{
	static const char *const names[] = {"write",     "pack",    "read",     "zero",
					    "zero-keep", "discard", "allocate", "resize",
					    "flush",     "reopen",  "close",    "sleep"};
	static char text[2048];
	size_t used = 0;

	text[0] = '\0';
	for (unsigned i = 0; i < nb_ops && used < sizeof(text) - 64; i++) {
		const struct guest_op *op = &ops[i];

		used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%s", i ? ", " : "",
					 names[op->kind]);
		if (op->kind == GUEST_RESIZE || op->kind == GUEST_SLEEP)
			used += (size_t)snprintf(text + used, sizeof(text) - used, " %llu",
						 (unsigned long long)op->off);
		else if (op->kind != GUEST_FLUSH && op->kind != GUEST_REOPEN &&
			 op->kind != GUEST_CLOSE)
			used += (size_t)snprintf(text + used, sizeof(text) - used, " %llu+%llu",
						 (unsigned long long)op->off,
						 (unsigned long long)op->len);
	}
	return text;
}

static int coroutine_fn open_image(struct run *run)
{
	struct image_options options = {.writable = true, .l2_cache_bytes = run->l2_cache_bytes};
	struct error *error = NULL;
	int err =
		image_open(&run->sim->disk->opener, CELL_IMAGE_NAME, &options, &run->image, &error);

	if (err) {
		run->image = NULL;
		if (!run->may_fail)
			verdict_fail("the image does not open: %s",
				     error ? error->msg : strerror(-err));
		error_free(error);
	} else {
		run->image->ahead.nb_workers = 3; /* as a server's, which has threads */
	}
	run->sim->disk->fail_flush_seen = false;
	run->flush_failed = false;
	return err;
}

/*
 * A flush that reports success after a failed barrier has lied; one that had failed
 * before any barrier, storing metadata, may succeed when it is repeated.
 */
static void note_flush(struct run *run, uint64_t t_start, bool had_failed, int err)
{
	if (err) {
		run->flush_failed = true;
		return;
	}
	if (had_failed)
		verdict_fail("a flush succeeds although an earlier one has failed");
	memory_pause();
	model_flushed(run->model, t_start, sim_tick(run->sim->disk));
	memory_resume();
}

static int coroutine_fn close_image(struct run *run)
{
	uint64_t t_start = sim_tick(run->sim->disk);
	bool had_failed = run->sim->disk->fail_flush_seen;
	struct image *image = run->image;
	int err;

	run->image = NULL;
	packer_destroy(run->packer);
	run->packer = NULL;
	err = image_close(image);
	note_flush(run, t_start, had_failed, err);
	run->close_result = err;
	return err;
}

/* A buffer of the guest: its allocation is none of the code under test. */
static uint8_t *own_buffer(uint64_t len)
{
	uint8_t *buf;

	memory_pause();
	buf = malloc(len);
	memory_resume();
	if (!buf)
		abort();
	return buf;
}

static int coroutine_fn judged_read(struct run *run, struct image *image, uint64_t off,
				    uint64_t len)
{
	struct sim_disk *disk = run->sim->disk;
	uint8_t *buf = own_buffer(len);
	uint64_t t_start = sim_tick(disk), t_end;
	int err;

	memset(buf, 0x5a, len);
	err = image_read(image, off, buf, len, NULL);
	t_end = sim_tick(disk);
	for (uint64_t i = 0; i < len / SIM_SECTOR && !err && !verdict_failed(); i++) {
		unsigned lba = (unsigned)(off / SIM_SECTOR + i);
		content_t content;

		if (model_judge_sector(run->model, lba, buf + i * SIM_SECTOR, t_end, t_start, true,
				       &content))
			model_observe(run->model, lba, content, t_start, t_end);
	}
	free(buf);
	return err;
}

int coroutine_fn run_read_all(struct run *run, struct image *image)
{
	uint64_t size = image_info(image)->virtual_size;
	int err = 0;

	if (size > (uint64_t)run->model->max_sectors * SIM_SECTOR) {
		verdict_fail("the disk has %llu bytes", (unsigned long long)size);
		return -EINVAL;
	}
	for (uint64_t off = 0; off < size && !err; off += READ_CHUNK_BYTES) {
		uint64_t len = size - off < READ_CHUNK_BYTES ? size - off : READ_CHUNK_BYTES;

		err = judged_read(run, image, off, len);
	}
	return err;
}

/* The packer of the run, made for the first write through it. */
static int coroutine_fn pack(struct run *run, const struct guest_op *op, const void *buf)
{
	int err = run->packer ? 0 : packer_create(run->image, &run->packer);

	return err ? err : packer_write(run->packer, op->off, buf, op->len);
}

static int coroutine_fn perform_write(struct run *run, const struct guest_op *op)
{
	struct sim_disk *disk = run->sim->disk;
	struct model_op change;
	uint8_t *buf = own_buffer(op->len);
	int err;

	memory_pause();
	model_begin(run->model, &change, sim_tick(disk), op->off, op->len, buf);
	memory_resume();
	err = op->kind == GUEST_PACK ? pack(run, op, buf)
				     : image_write(run->image, op->off, buf, op->len);
	model_end(run->model, &change, sim_tick(disk), err == 0);
	/* Whoever still reads the buffer after the reply must be seen. */
	memset(buf, 0xd7, op->len);
	free(buf);
	return err;
}

static int coroutine_fn perform_zero(struct run *run, const struct guest_op *op)
{
	struct sim_disk *disk = run->sim->disk;
	struct model_op change;
	int err;

	memory_pause();
	model_begin(run->model, &change, sim_tick(disk), op->off, op->len, NULL);
	memory_resume();
	if (op->kind == GUEST_DISCARD)
		err = image_discard(run->image, op->off, op->len);
	else
		err = image_zero(run->image, op->off, op->len, op->kind == GUEST_ZERO_KEEP);
	model_end(run->model, &change, sim_tick(disk), err == 0);
	return err;
}

static int coroutine_fn perform_resize(struct run *run, const struct guest_op *op)
{
	struct sim_disk *disk = run->sim->disk;
	struct model_op change;
	int err;

	memory_pause();
	model_begin_resize(run->model, &change, sim_tick(disk), (unsigned)(op->off / SIM_SECTOR));
	memory_resume();
	err = image_resize(run->image, op->off);
	model_end(run->model, &change, sim_tick(disk), err == 0);
	return err;
}

static int coroutine_fn perform_flush(struct run *run)
{
	uint64_t t_start = sim_tick(run->sim->disk);
	bool had_failed = run->sim->disk->fail_flush_seen;
	int err = image_flush(run->image);

	note_flush(run, t_start, had_failed, err);
	return err;
}

static int coroutine_fn perform(struct run *run, const struct guest_op *op)
{
	int err;

	switch (op->kind) {
	case GUEST_WRITE:
	case GUEST_PACK:
		return perform_write(run, op);
	case GUEST_READ:
		return judged_read(run, run->image, op->off, op->len);
	case GUEST_ZERO:
	case GUEST_ZERO_KEEP:
	case GUEST_DISCARD:
		return perform_zero(run, op);
	case GUEST_ALLOCATE:
		return image_allocate(run->image, op->off, op->len);
	case GUEST_RESIZE:
		return perform_resize(run, op);
	case GUEST_FLUSH:
		return perform_flush(run);
	case GUEST_REOPEN:
		/* What a failed close has lost is not modelled: the run ends there. */
		err = close_image(run);
		if (!err)
			run->open_result = err = open_image(run);
		return err;
	case GUEST_CLOSE:
		return close_image(run);
	case GUEST_SLEEP:
		co_sleep(op->off);
		return 0;
	}
	return -EINVAL;
}

static void trace(const struct run *run, unsigned index, const char *what, int err)
{
	if (run->sim->disk->trace)
		printf("%8llu %s operation %u: %s%s%s\n", (unsigned long long)run->sim->disk->now,
		       what, index, run_describe(&run->ops[index], 1), err ? " = " : "",
		       err ? strerror(-err) : "");
}

struct client {
	struct task task;
	struct run *run;
	struct co_group *group;
	unsigned index;
};

static void coroutine_fn client_main(void *arg)
{
	struct client *client = arg;
	struct run *run = client->run;
	unsigned step = run->nb_clients ? run->nb_clients : 1;

	for (unsigned i = client->index; i < run->nb_ops && run->image; i += step) {
		int err;

		trace(run, i, "begin", 0);
		err = perform(run, &run->ops[i]);
		trace(run, i, "end", err);
		run->results[i] = err;
		run->nb_failed += err != 0;
		if (err && !run->may_fail)
			verdict_fail("operation %u (%s) fails: %s", i,
				     run_describe(&run->ops[i], 1), strerror(-err));
	}
	co_group_leave(client->group, 0);
}

static void coroutine_fn run_main(void *arg)
{
	struct run *run = arg;
	struct client clients[CLIENTS_MAX];
	unsigned nb = run->nb_clients ? run->nb_clients : 1;
	struct co_group group;

	run->open_result = open_image(run);
	if (run->open_result)
		return;
	co_group_init(&group, CLIENTS_MAX);
	for (unsigned i = 0; i < nb; i++) {
		clients[i] = (struct client){.task = {.fn = client_main, .arg = &clients[i]},
					     .run = run,
					     .group = &group,
					     .index = i};
		co_group_spawn(&group, &clients[i].task);
	}
	co_group_join(&group);
	if (!run->image)
		return;
	if (!run->no_final_read && !verdict_failed()) {
		int err = run_read_all(run, run->image);

		run->nb_failed += err != 0;
		if (err && !run->may_fail)
			verdict_fail("reading back fails: %s", strerror(-err));
	}
	close_image(run);
	run->nb_failed += run->close_result != 0;
	if (run->close_result && !run->may_fail)
		verdict_fail("closing fails: %s", strerror(-run->close_result));
	if (reactor_nb_coroutines(run->sim->reactor) != 1)
		verdict_fail("%u coroutines are left after closing",
			     reactor_nb_coroutines(run->sim->reactor) - 1);
}

void run_execute(struct run *run)
{
	run->sim->disk->mode = SIM_LOGGED;
	run->nb_failed = 0;
	run->close_result = 0;
	memset(run->results, 0, sizeof(run->results));
	reactor_run(run->sim->reactor, run_main, run);
}
