/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * engine: see engine.h. Everything but a skipped flush goes to the inner engine.
 */
#include "tool/engine.h"

#include <errno.h>
#include <stdlib.h>

static struct engine *inner_of(struct engine *engine)
{
	return ((struct engine_tool *)engine)->inner;
}

static int tool_attach(struct engine *engine, struct reactor *reactor)
{
	struct engine *inner = inner_of(engine);

	return inner->ops->attach(inner, reactor);
}

static int tool_add_file(struct engine *engine, struct file *file)
{
	struct engine *inner = inner_of(engine);

	return inner->ops->add_file(inner, file);
}

static void tool_remove_file(struct engine *engine, struct file *file)
{
	struct engine *inner = inner_of(engine);

	inner->ops->remove_file(inner, file);
}

static void tool_submit(struct engine *engine, struct io_req *req)
{
	struct engine *inner = inner_of(engine);

	if (req->op == IO_FLUSH && ((struct engine_tool *)engine)->skip_flushes)
		io_complete(req, 0);
	else
		inner->ops->submit(inner, req);
}

static void tool_wait(struct engine *engine, uint64_t timeout_ns)
{
	struct engine *inner = inner_of(engine);

	inner->ops->wait(inner, timeout_ns);
}

static void tool_wake(struct engine *engine)
{
	struct engine *inner = inner_of(engine);

	inner->ops->wake(inner);
}

static uint64_t tool_now_ns(struct engine *engine)
{
	struct engine *inner = inner_of(engine);

	return inner->ops->now_ns(inner);
}

static void tool_destroy(struct engine *engine)
{
	struct engine *inner = inner_of(engine);

	inner->ops->destroy(inner);
	free(engine);
}

static const struct engine_ops tool_ops = {
	.name = "tool",
	.attach = tool_attach,
	.add_file = tool_add_file,
	.remove_file = tool_remove_file,
	.submit = tool_submit,
	.wait = tool_wait,
	.wake = tool_wake,
	.now_ns = tool_now_ns,
	.destroy = tool_destroy,
};

int engine_tool_create(struct engine_tool **ret_engine)
{
	struct engine_tool *tool = calloc(1, sizeof(*tool));
	const char *why;
	int ret;

	if (!tool)
		return -ENOMEM;
	tool->engine.ops = &tool_ops;
	ret = engine_create_by_name("auto", &tool->inner, &why);
	if (ret) {
		free(tool);
		return ret;
	}
	*ret_engine = tool;
	return 0;
}
