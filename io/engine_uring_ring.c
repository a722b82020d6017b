/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * engine_uring_ring: the ring of an io_uring engine: made, made anew (U2), confined (U4), and the
 * files that are registered with it.
 */
#include "io/engine_uring_int.h"

#include "io/engine_call.h"
#include "io/file.h"
#include "io/uring_setup.h"

#include <assert.h>
#include <errno.h>
#include <unistd.h>

#define NB_CQ_ENTRIES 2048
#define NB_CQ_SPARE 32 /* completions of polls */

/* Kernels from 5.6 on know all of these. */
static int check_operations(struct io_uring *ring)
{
	static const int needed[] = {
		IORING_OP_READ,  IORING_OP_WRITE,     IORING_OP_READV,    IORING_OP_WRITEV,
		IORING_OP_FSYNC, IORING_OP_FALLOCATE, IORING_OP_POLL_ADD,
	};
	struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
	int ret = probe ? 0 : -ENOSYS;

	for (size_t i = 0; !ret && i < sizeof(needed) / sizeof(needed[0]); i++)
		if (!io_uring_opcode_supported(probe, needed[i]))
			ret = -ENOSYS;
	io_uring_free_probe(probe);
	return ret;
}

/* A file that cannot be registered is used by its descriptor; in a confined ring, by no one. */
bool uring_register_file(struct engine_uring *uring, int slot, int fd)
{
	if (!uring->files_registered)
		return false;
	if (io_uring_register_files_update(&uring->ring, (unsigned)slot, &fd, 1) == 1)
		return true;
	if (!uring->confined) {
		io_uring_unregister_files(&uring->ring);
		uring->files_registered = false;
	}
	return false;
}

void uring_close_ring(struct engine_uring *uring)
{
	if (!uring->have_ring)
		return;
	assert(!uring->nb_inflight);
	io_uring_queue_exit(&uring->ring);
	uring->have_ring = uring->poll_armed = uring->watch_armed = false;
}

/*
 * The calling thread's id. It is cached, because a system call per loop round is
 * not free; a forked child inherits the cache but has a fork generation of its own.
 */
static pid_t thread_id(void)
{
	static __thread pid_t tid;

	if (!tid)
		tid = gettid();
	return tid;
}

bool uring_owns_ring(const struct engine_uring *uring)
{
	return uring->owner_tid == thread_id() && uring->owner_generation == io_fork_generation();
}

/* False: not all of them, and some may have to be used by their descriptors. */
static bool register_files(struct engine_uring *uring)
{
	bool all;

	uring->files_registered = io_uring_register_files_sparse(&uring->ring, NB_SLOTS) == 0;
	all = uring_register_file(uring, SLOT_MAIL, uring->mail.fd);
	if (uring->cmd_fd >= 0)
		all &= uring_register_file(uring, SLOT_CMD, uring->cmd_fd);
	if (uring->watch_fd >= 0)
		all &= uring_register_file(uring, SLOT_WATCH, uring->watch_fd);
	for (int i = 0; i < NB_FILES; i++)
		if (uring->files[i])
			all &= uring_register_file(uring, i, uring->files[i]->fd);
	return all;
}

static int open_ring(struct engine_uring *uring)
{
	bool confined = uring->confined;
	int ret = uring_setup(&uring->ring, NB_CQ_ENTRIES + uring->max_cmds, uring->max_cmds,
			      confined);

	if (ret < 0)
		return ret;
	ret = check_operations(&uring->ring);
	if (ret == 0 && !register_files(uring) && confined) /* U4 */
		ret = -EMFILE;
	if (ret == 0 && confined)
		ret = uring_confine(&uring->ring, uring->max_cmds);
	if (ret < 0) {
		io_uring_queue_exit(&uring->ring);
		return ret;
	}
	uring->have_ring = true;
	uring->max_inflight = *uring->ring.cq.kring_entries - NB_CQ_SPARE - uring->max_cmds;
	return 0;
}

/* U2: the calling thread runs the reactor from now on. */
int uring_take_over(struct engine_uring *uring)
{
	uring_close_ring(uring);
	uring->owner_tid = thread_id();
	uring->owner_generation = io_fork_generation();
	return open_ring(uring);
}

/* ---- files ---- */

int uring_add_file(struct engine *engine, struct file *file)
{
	struct engine_uring *uring = (struct engine_uring *)engine;
	int slot = 0;

	file->fixed = -1;
	while (slot < NB_FILES && uring->files[slot])
		slot++;
	if (file->fd < 0 || slot == NB_FILES)
		return 0;
	if (uring->have_ring && !uring_owns_ring(uring))
		uring_close_ring(uring);
	if (uring->have_ring && !uring_register_file(uring, slot, file->fd) &&
	    uring->confined) /* U4 */
		return 0;
	uring->files[slot] = file;
	file->fixed = slot;
	return 0;
}

void uring_remove_file(struct engine *engine, struct file *file)
{
	struct engine_uring *uring = (struct engine_uring *)engine;

	if (file->fixed < 0)
		return;
	uring->files[file->fixed] = NULL;
	/* A registered file stays open until it is taken out, or the ring is gone. */
	if (uring->have_ring && uring_owns_ring(uring))
		uring_register_file(uring, file->fixed, -1);
	else
		uring_close_ring(uring);
	file->fixed = -1;
}

/* ---- confinement ---- */

bool engine_uring_can_be_confined(const struct engine *engine)
{
	const struct engine_uring *uring = (const struct engine_uring *)engine;

	return !engine_is_uring(engine) ||
	       (uring_can_be_confined(&uring->ring) && uring->files_registered);
}

int engine_uring_confine(struct engine *engine)
{
	struct engine_uring *uring = (struct engine_uring *)engine;

	if (!engine_is_uring(engine))
		return 0;
	if (!uring_can_be_confined(&uring->ring))
		return -EOPNOTSUPP;
	if (uring->nb_inflight || uring->queue.head || uring->cmds_head)
		return -EBUSY;
	uring->confined = true;
	return uring_take_over(uring);
}
