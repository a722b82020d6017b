/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * ops_writeback: background write-back, so that a killed server loses less than five
 * seconds of what nobody asked to be synced.
 *
 * The first write after a write-back arms a timer; when it is due, a coroutine flushes
 * every image written since. Nothing runs while nothing is written. All of it
 * belongs to the reactor.
 */
#include "fuse/ops_int.h"

#include <string.h>

#define WRITEBACK_DELAY_NS 2000000000ull

static void arm(struct writeback *writeback)
{
	struct reactor *reactor = writeback->ops->params.reactor;

	if (!writeback->timer.armed && !writeback->running && !writeback->ops->closing)
		timer_arm(reactor, &writeback->timer, reactor_now_ns(reactor) + WRITEBACK_DELAY_NS);
}

static void coroutine_fn write_back(void *arg)
{
	struct writeback *writeback = arg;
	struct ops *ops = writeback->ops;
	const struct tree *tree = ops->params.tree;
	bool again = false;

	for (unsigned i = 0; i < tree->nb_nodes; i++) {
		struct node *node = tree->nodes[i];
		unsigned nb_dropped;
		int res;

		if (!node->dirty)
			continue;
		node->dirty = false;
		res = image_flush(node->image);
		/* The next fsync reports it to a program; a failed flush stays failed. */
		if (res < 0 && log_limit_pass(&ops->error_limit, &nb_dropped))
			log_error("%s: write-back failed: %s", image_info(node->image)->path,
				  strerror(-res));
	}
	for (unsigned i = 0; i < tree->nb_nodes; i++)
		again |= tree->nodes[i]->dirty;
	writeback->running = false;
	if (again)
		arm(writeback);
}

static void due(struct timer *timer)
{
	struct writeback *writeback =
		(struct writeback *)((char *)timer - offsetof(struct writeback, timer));

	writeback->running = true;
	writeback->task = (struct task){.fn = write_back, .arg = writeback};
	reactor_spawn(writeback->ops->params.reactor, &writeback->task);
}

void writeback_init(struct writeback *writeback, struct ops *ops)
{
	*writeback = (struct writeback){.ops = ops, .timer = {.fn = due}};
}

void writeback_note(struct ops *ops, struct node *node)
{
	node->dirty = true;
	arm(&ops->writeback);
}

bool writeback_stop(struct writeback *writeback)
{
	if (writeback->timer.armed)
		timer_disarm(writeback->ops->params.reactor, &writeback->timer);
	return !writeback->running;
}
