/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * ops_quiet: what a burst has left in memory is given back when no request came for a while:
 * buffers, metadata, decompressed clusters.
 *
 * The first request after such a quiet time arms a timer, which looks when the last one came.
 * So a request costs a look at one flag, and a server that is idle is never woken.
 */
#include "fuse/ops_int.h"
#include "io/buf.h"

#include <stddef.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#define QUIET_NS 5000000000ull

static void give_back(struct ops *ops)
{
	for (struct tree_disk *disk = ops->params.tree->disks; disk; disk = disk->next) {
		struct image *image = disk->view ? view_image(disk->view) : disk->image;

		if (image)
			image_trim(image);
	}
	buf_trim();
	if (ops->quiet_transport->give_back)
		ops->quiet_transport->give_back(ops->quiet_transport);
#ifdef __GLIBC__
	malloc_trim(0);
#endif
}

static void look(struct timer *timer)
{
	struct ops *ops = (struct ops *)((char *)timer - offsetof(struct ops, quiet_timer));
	uint64_t due_ns = ops->last_request_ns + QUIET_NS, now_ns = stats_now_ns();

	if (ops->nb_active > 0)
		due_ns = now_ns + QUIET_NS;
	if (due_ns > now_ns) {
		timer_arm(ops->params.reactor, timer, due_ns);
		return;
	}
	ops->quiet_armed = false;
	give_back(ops);
}

static void coroutine_fn arm_main(void *arg)
{
	struct ops *ops = arg;

	if (ops->closing)
		return;
	ops->quiet_timer.fn = look;
	timer_arm(ops->params.reactor, &ops->quiet_timer, stats_now_ns() + QUIET_NS);
}

void quiet_arm(struct ops *ops, struct transport *transport)
{
	struct reactor *reactor = ops->params.reactor;

	if (atomic_exchange(&ops->quiet_armed, true))
		return;
	ops->quiet_transport = transport;
	ops->quiet_task = (struct task){.fn = arm_main, .arg = ops};
	if (reactor_is_current(reactor))
		reactor_spawn(reactor, &ops->quiet_task);
	else
		reactor_post(reactor, &ops->quiet_task);
}

void quiet_stop(struct ops *ops)
{
	timer_disarm(ops->params.reactor, &ops->quiet_timer);
}
