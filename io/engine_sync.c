/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * engine_sync: every request is executed inside submit(), for tools and fuzzers.
 * No threads; wait() only sleeps until a timer or another thread's wake().
 */
#include "io/engine.h"
#include "io/engine_call.h"
#include "io/engine_mail.h"
#include "io/file.h"

#include <errno.h>
#include <stdlib.h>

struct engine_sync {
	struct engine engine;
	struct io_mail mail;
};

static int sync_attach(struct engine *engine, struct reactor *reactor)
{
	return 0;
}

static int sync_add_file(struct engine *engine, struct file *file)
{
	file->fixed = -1;
	return 0;
}

static void sync_remove_file(struct engine *engine, struct file *file)
{
}

static void sync_submit(struct engine *engine, struct io_req *req)
{
	io_complete(req, io_call(req));
}

static void sync_wait(struct engine *engine, uint64_t timeout_ns)
{
	io_mail_wait(&((struct engine_sync *)engine)->mail, timeout_ns);
}

static void sync_wake(struct engine *engine)
{
	io_mail_ring(&((struct engine_sync *)engine)->mail);
}

static uint64_t sync_now_ns(struct engine *engine)
{
	return io_now_ns();
}

static void sync_destroy(struct engine *engine)
{
	io_mail_finish(&((struct engine_sync *)engine)->mail);
	free(engine);
}

static const struct engine_ops sync_ops = {
	.name = "sync",
	.attach = sync_attach,
	.add_file = sync_add_file,
	.remove_file = sync_remove_file,
	.submit = sync_submit,
	.wait = sync_wait,
	.wake = sync_wake,
	.now_ns = sync_now_ns,
	.destroy = sync_destroy,
};

int engine_sync_create(struct engine **ret_engine)
{
	struct engine_sync *sync = calloc(1, sizeof(*sync));
	int ret;

	if (!sync)
		return -ENOMEM;
	ret = io_mail_init(&sync->mail);
	if (ret < 0) {
		free(sync);
		return ret;
	}
	sync->engine.ops = &sync_ops;
	*ret_engine = &sync->engine;
	return 0;
}
