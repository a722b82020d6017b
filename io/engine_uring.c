/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * engine_uring: requests through io_uring, one io_uring_enter per loop round.
 *
 * submit() only puts the request into the engine's own FIFO; wait() moves it into
 * the submission queue. So a full queue delays and never fails.
 *
 * Invariants:
 *  U1 At most max_inflight requests are with the kernel, fewer than the completion
 *     queue holds: it cannot overflow.
 *  U2 The ring belongs to the thread that made it (IORING_SETUP_SINGLE_ISSUER binds
 *     it to that task). When another thread takes the reactor over, or the process
 *     was forked, the ring is idle and is made anew, and the files registered again.
 *  U3 While the engine sleeps, a poll on the eventfd of `mail` is armed, and one on what is
 *     watched.
 *  U4 Through a confined ring goes what uring_setup.c permits, and registered files only. A
 *     file that could not be registered is served by workers.
 *
 * Commands of files (engine_uring.h) have a FIFO and a share of the completion queue of
 * their own, and are told from requests by the lowest bit of what comes back.
 *
 * Without a ring (it could not be made again in a sandbox, say) requests are made as
 * plain system calls: slow, but nothing is lost.
 */
#include "io/engine_uring.h"

#include "io/engine_call.h"
#include "io/engine_mail.h"
#include "io/file.h"
#include "io/reactor.h"
#include "io/sanitizer.h"
#include "io/uring_setup.h"
#include "io/worker.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NB_CQ_ENTRIES 2048
#define NB_CQ_SPARE 32 /* completions of polls */

/* Registered: files of images (further ones are used by their descriptors), and three more. */
#define NB_FILES 510
#define SLOT_MAIL NB_FILES /* the eventfd of `mail` */
#define SLOT_CMD (NB_FILES + 1)
#define SLOT_WATCH (NB_FILES + 2)
#define NB_SLOTS (NB_FILES + 3)

#define SQE128_BYTES 128
/* In the user data of a completion: it is a command's, or the watch's. */
#define CMD_MARK 1u
#define WATCH_MARK 2u

static const struct engine_ops uring_ops;

struct request_list {
	struct io_req *head, *tail;
};

struct engine_uring {
	struct engine engine;
	struct reactor *reactor;
	struct io_mail mail; /* wake-ups, and requests that a worker executes */

	struct io_uring ring;
	bool have_ring;
	bool confined;   /* U4 */
	pid_t owner_tid; /* U2 */
	unsigned owner_generation;
	bool files_registered;
	bool poll_armed; /* U3 */
	bool poll_once;  /* the kernel has no multishot poll */
	bool watch_armed;
	int watch_fd; /* in SLOT_WATCH, -1: none */

	unsigned nb_inflight, max_inflight; /* U1 */
	struct request_list queue;          /* submitted by the reactor, not yet in the ring */
	struct file *files[NB_FILES];

	struct uring_cmd *cmds_head, *cmds_tail; /* not yet in the ring */
	unsigned max_cmds;                       /* 0: the ring takes none */
	int cmd_fd;                              /* in SLOT_CMD, -1: none */
};

/* ---- the ring ---- */

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
static bool register_file(struct engine_uring *uring, int slot, int fd)
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

static void close_ring(struct engine_uring *uring)
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

static bool owns_ring(const struct engine_uring *uring)
{
	return uring->owner_tid == thread_id() && uring->owner_generation == io_fork_generation();
}

/* False: not all of them, and some may have to be used by their descriptors. */
static bool register_files(struct engine_uring *uring)
{
	bool all;

	uring->files_registered = io_uring_register_files_sparse(&uring->ring, NB_SLOTS) == 0;
	all = register_file(uring, SLOT_MAIL, uring->mail.fd);
	if (uring->cmd_fd >= 0)
		all &= register_file(uring, SLOT_CMD, uring->cmd_fd);
	if (uring->watch_fd >= 0)
		all &= register_file(uring, SLOT_WATCH, uring->watch_fd);
	for (int i = 0; i < NB_FILES; i++)
		if (uring->files[i])
			all &= register_file(uring, i, uring->files[i]->fd);
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
static int take_over(struct engine_uring *uring)
{
	close_ring(uring);
	uring->owner_tid = thread_id();
	uring->owner_generation = io_fork_generation();
	return open_ring(uring);
}

/* ---- files ---- */

static int uring_attach(struct engine *engine, struct reactor *reactor)
{
	((struct engine_uring *)engine)->reactor = reactor;
	return 0;
}

static int uring_add_file(struct engine *engine, struct file *file)
{
	struct engine_uring *uring = (struct engine_uring *)engine;
	int slot = 0;

	file->fixed = -1;
	while (slot < NB_FILES && uring->files[slot])
		slot++;
	if (file->fd < 0 || slot == NB_FILES)
		return 0;
	if (uring->have_ring && !owns_ring(uring))
		close_ring(uring);
	if (uring->have_ring && !register_file(uring, slot, file->fd) && uring->confined) /* U4 */
		return 0;
	uring->files[slot] = file;
	file->fixed = slot;
	return 0;
}

static void uring_remove_file(struct engine *engine, struct file *file)
{
	struct engine_uring *uring = (struct engine_uring *)engine;

	if (file->fixed < 0)
		return;
	uring->files[file->fixed] = NULL;
	/* A registered file stays open until it is taken out, or the ring is gone. */
	if (uring->have_ring && owns_ring(uring))
		register_file(uring, file->fixed, -1);
	else
		close_ring(uring);
	file->fixed = -1;
}

/* ---- requests ---- */

static void list_append(struct request_list *list, struct io_req *req)
{
	req->next = NULL;
	if (list->tail)
		list->tail->next = req;
	else
		list->head = req;
	list->tail = req;
}

static struct io_req *list_take(struct request_list *list)
{
	struct io_req *req = list->head;

	list->head = req->next;
	if (!list->head)
		list->tail = NULL;
	return req;
}

static void job_execute(void *arg)
{
	struct io_req *req = arg;

	req->result = io_call(req);
}

static void job_done(struct worker_job *job)
{
	struct io_req *req = job->arg;

	io_mail_post(&((struct engine_uring *)req->priv)->mail, req);
}

/* Large copies to and from memory, and what the ring cannot do, are a worker's. */
static void execute_elsewhere(struct engine_uring *uring, struct io_req *req)
{
	struct worker_pool *pool = reactor_workers(uring->reactor);

	if (!pool) {
		io_complete(req, io_call(req));
		return;
	}
	req->priv = uring;
	req->job = (struct worker_job){.fn = job_execute, .arg = req, .done = job_done};
	worker_submit(pool, &req->job);
}

static void uring_submit(struct engine *engine, struct io_req *req)
{
	struct engine_uring *uring = (struct engine_uring *)engine;

	if (io_call_try(req))
		return;
	if (req->file->path == FILE_MEMORY || req->op == IO_TRUNCATE ||
	    (uring->confined && req->file->fixed < 0)) /* U4 */
		execute_elsewhere(uring, req);
	else
		list_append(&uring->queue, req);
}

static void prepare_rw(struct io_uring_sqe *sqe, const struct io_req *req, int fd)
{
	if (req->op == IO_READ && req->nb_iov == 1)
		io_uring_prep_read(sqe, fd, req->iov->iov_base, (unsigned)req->iov->iov_len,
				   req->host_off);
	else if (req->op == IO_READ)
		io_uring_prep_readv(sqe, fd, req->iov, (unsigned)req->nb_iov, req->host_off);
	else if (req->nb_iov == 1)
		io_uring_prep_write(sqe, fd, req->iov->iov_base, (unsigned)req->iov->iov_len,
				    req->host_off);
	else
		io_uring_prep_writev(sqe, fd, req->iov, (unsigned)req->nb_iov, req->host_off);
}

static void prepare(struct engine_uring *uring, struct io_uring_sqe *sqe, struct io_req *req)
{
	bool fixed = uring->files_registered && req->file->fixed >= 0;
	int fd = fixed ? req->file->fixed : req->file->fd;
	off_t off = (off_t)req->host_off, len = (off_t)req->len_bytes;

	switch (req->op) {
	case IO_READ:
	case IO_WRITE:
		prepare_rw(sqe, req, fd);
		break;
	case IO_FLUSH:
		io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
		break;
	case IO_PUNCH:
		io_uring_prep_fallocate(sqe, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off,
					len);
		break;
	case IO_ZERO:
		io_uring_prep_fallocate(sqe, fd, FALLOC_FL_ZERO_RANGE, off, len);
		break;
	case IO_ALLOC:
	case IO_TRUNCATE: /* never: see uring_submit() */
		io_uring_prep_fallocate(sqe, fd, 0, off, len);
		break;
	}
	if (fixed)
		sqe->flags |= IOSQE_FIXED_FILE;
	/* A cached copy of this size would run inside the enter; a kernel worker takes it. */
	if (req->file->path == FILE_BUFFERED && req->len_bytes > IO_CALL_INLINE_BYTES)
		sqe->flags |= IOSQE_ASYNC;
	io_uring_sqe_set_data(sqe, req);
}

/* ---- commands ---- */

static void prepare_cmd(const struct engine_uring *uring, struct io_uring_sqe *sqe,
			const struct uring_cmd *cmd)
{
	assert(cmd->args_bytes <= URING_CMD_ARGS_MAX);
	memset(sqe, 0, SQE128_BYTES);
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = uring->cmd_fd;
	if (uring->files_registered) {
		sqe->fd = SLOT_CMD;
		sqe->flags |= IOSQE_FIXED_FILE;
	}
	sqe->cmd_op = cmd->op;
	sqe->addr = (uintptr_t)cmd->iov;
	sqe->len = cmd->nb_iov;
	memcpy(sqe->cmd, cmd->args, cmd->args_bytes);
	if (cmd->in_worker)
		sqe->flags |= IOSQE_ASYNC;
	sqe->user_data = (uintptr_t)cmd | CMD_MARK;
}

void engine_uring_submit_cmd(struct engine *engine, struct uring_cmd *cmd)
{
	struct engine_uring *uring = (struct engine_uring *)engine;

	cmd->next = NULL;
	if (uring->cmds_tail)
		uring->cmds_tail->next = cmd;
	else
		uring->cmds_head = cmd;
	uring->cmds_tail = cmd;
}

static void fill_ring_with_cmds(struct engine_uring *uring)
{
	while (uring->cmds_head) {
		struct uring_cmd *cmd = uring->cmds_head;
		struct io_uring_sqe *sqe = io_uring_get_sqe(&uring->ring);

		if (!sqe)
			return;
		uring->cmds_head = cmd->next;
		if (!uring->cmds_head)
			uring->cmds_tail = NULL;
		prepare_cmd(uring, sqe, cmd);
	}
}

int engine_uring_reserve_cmds(struct engine *engine, unsigned nb_cmds)
{
	struct engine_uring *uring = (struct engine_uring *)engine;
	int ret;

	if (engine->ops != &uring_ops)
		return -EOPNOTSUPP;
	uring->max_cmds = nb_cmds;
	ret = take_over(uring);
	if (ret < 0)
		uring->max_cmds = 0;
	return ret;
}

bool engine_uring_takes_cmds(struct engine *engine)
{
	struct engine_uring *uring = (struct engine_uring *)engine;

	if (engine->ops != &uring_ops || !uring->max_cmds)
		return false;
	if (!owns_ring(uring))
		take_over(uring);
	return uring->have_ring;
}

int engine_uring_set_cmd_file(struct engine *engine, int fd)
{
	struct engine_uring *uring = (struct engine_uring *)engine;

	uring->cmd_fd = fd;
	if (!uring->have_ring || !owns_ring(uring) || register_file(uring, SLOT_CMD, fd))
		return 0;
	return uring->confined ? -EMFILE : 0;
}

/* ---- confinement ---- */

bool engine_uring_can_be_confined(const struct engine *engine)
{
	const struct engine_uring *uring = (const struct engine_uring *)engine;

	return engine->ops != &uring_ops || uring_can_be_confined(&uring->ring);
}

int engine_uring_confine(struct engine *engine)
{
	struct engine_uring *uring = (struct engine_uring *)engine;

	if (engine->ops != &uring_ops)
		return 0;
	if (!uring_can_be_confined(&uring->ring))
		return -EOPNOTSUPP;
	if (uring->nb_inflight || uring->queue.head || uring->cmds_head)
		return -EBUSY;
	uring->confined = true;
	return take_over(uring);
}

/* ---- a loop round ---- */

/* U3. The eventfd's completions carry no request. */
static void arm_poll(struct engine_uring *uring)
{
	struct io_uring_sqe *sqe = uring->poll_armed ? NULL : io_uring_get_sqe(&uring->ring);
	int fd = uring->files_registered ? SLOT_MAIL : uring->mail.fd;

	if (!sqe)
		return;
	if (uring->poll_once)
		io_uring_prep_poll_add(sqe, fd, POLLIN);
	else
		io_uring_prep_poll_multishot(sqe, fd, POLLIN);
	if (uring->files_registered)
		sqe->flags |= IOSQE_FIXED_FILE;
	io_uring_sqe_set_data(sqe, NULL);
	uring->poll_armed = true;
}

/* One shot: while the descriptor is looked at anyway, its wake-ups cost nothing. */
static void arm_watch(struct engine_uring *uring)
{
	struct io_uring_sqe *sqe;
	int fd;

	if (!uring->mail.watch || uring->watch_armed)
		return;
	sqe = io_uring_get_sqe(&uring->ring);
	if (!sqe)
		return;
	fd = uring->mail.watch->fd;
	if (fd != uring->watch_fd && register_file(uring, SLOT_WATCH, fd))
		uring->watch_fd = fd;
	if (fd == uring->watch_fd && uring->files_registered) {
		io_uring_prep_poll_add(sqe, SLOT_WATCH, POLLIN);
		sqe->flags |= IOSQE_FIXED_FILE;
	} else {
		io_uring_prep_poll_add(sqe, fd, POLLIN);
	}
	sqe->user_data = WATCH_MARK;
	uring->watch_armed = true;
}

/* Moves requests into the submission queue, as many as it and U1 have room for. */
static void fill_ring(struct engine_uring *uring)
{
	arm_poll(uring);
	arm_watch(uring);
	fill_ring_with_cmds(uring);
	while (uring->queue.head && uring->nb_inflight < uring->max_inflight) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&uring->ring);

		if (!sqe)
			return;
		prepare(uring, sqe, list_take(&uring->queue));
		uring->nb_inflight++;
	}
}

static void poll_fired(struct engine_uring *uring, const struct io_uring_cqe *cqe)
{
	if (cqe->flags & IORING_CQE_F_MORE)
		return;
	if (cqe->res < 0)
		uring->poll_once = true;
	uring->poll_armed = false;
	io_mail_clear(&uring->mail);
}

/* Valgrind sees no system call that fills the buffers of a read. */
static void tell_valgrind(const struct io_req *req)
{
	if (req->op == IO_READ && RUNNING_ON_VALGRIND)
		for (int i = 0; i < req->nb_iov; i++)
			VALGRIND_MAKE_MEM_DEFINED(req->iov[i].iov_base, req->iov[i].iov_len);
}

static void complete(struct engine_uring *uring, uint64_t data, int result)
{
	if (data == WATCH_MARK) {
		uring->watch_armed = false;
		io_mail_watched(&uring->mail);
	} else if (data & CMD_MARK) {
		struct uring_cmd *cmd = (struct uring_cmd *)(uintptr_t)(data ^ CMD_MARK);

		cmd->done(cmd, result);
	} else if (data) {
		struct io_req *req = (struct io_req *)(uintptr_t)data;

		uring->nb_inflight--;
		tell_valgrind(req);
		io_complete(req, result);
	}
}

/* Returns the number of completions taken, the eventfd's included. */
static unsigned reap(struct engine_uring *uring)
{
	struct io_uring_cqe *cqe;
	unsigned nb_reaped = 0;

	/* Only what is there: with work pending, a look into an empty queue is a system call. */
	while (io_uring_cq_ready(&uring->ring) && io_uring_peek_cqe(&uring->ring, &cqe) == 0) {
		uint64_t data = cqe->user_data;
		int result = cqe->res;

		if (!data)
			poll_fired(uring, cqe);
		io_uring_cqe_seen(&uring->ring, cqe);
		complete(uring, data, result);
		nb_reaped++;
	}
	return nb_reaped;
}

/* Hands over what is in the submission queue, and waits for one completion if asked to. */
static void enter(struct engine_uring *uring, uint64_t timeout_ns)
{
	struct io_uring *ring = &uring->ring;
	struct __kernel_timespec timeout = {
		.tv_sec = (int64_t)(timeout_ns / 1000000000u),
		.tv_nsec = (long long)(timeout_ns % 1000000000u),
	};
	struct io_uring_cqe *cqe;

	/* An error (EINTR, EAGAIN, ETIME) leaves everything where it is: the next round retries. */
	if (timeout_ns == UINT64_MAX)
		io_uring_submit_and_wait(ring, 1);
	else if (timeout_ns)
		io_uring_submit_and_wait_timeout(ring, &cqe, 1, &timeout, NULL);
	else if (io_uring_sq_ready(ring))
		io_uring_submit_and_get_events(ring);
	else if (IO_URING_READ_ONCE(*ring->sq.kflags) & (IORING_SQ_CQ_OVERFLOW | IORING_SQ_TASKRUN))
		io_uring_get_events(ring);
}

/* A loop round with the ring. */
static void run_ring(struct engine_uring *uring, uint64_t timeout_ns)
{
	bool more;

	do {
		fill_ring(uring);
		more = uring->cmds_head ||
		       (uring->queue.head && uring->nb_inflight < uring->max_inflight);
		if (timeout_ns && reap(uring))
			timeout_ns = 0;
		enter(uring, more ? 0 : timeout_ns);
		if (reap(uring))
			timeout_ns = 0;
	} while (more);
}

/* A loop round without one. */
static void run_calls(struct engine_uring *uring, uint64_t timeout_ns)
{
	while (uring->queue.head) {
		struct io_req *req = list_take(&uring->queue);

		io_complete(req, io_call(req));
		timeout_ns = 0;
	}
	io_mail_wait(&uring->mail, timeout_ns);
}

static void uring_wait(struct engine *engine, uint64_t timeout_ns)
{
	struct engine_uring *uring = (struct engine_uring *)engine;

	if (!owns_ring(uring) || !uring->have_ring)
		take_over(uring);
	if (!uring->have_ring) {
		run_calls(uring, timeout_ns);
		return;
	}
	if (io_mail_deliver(&uring->mail, timeout_ns))
		timeout_ns = 0;
	run_ring(uring, timeout_ns);
	io_mail_deliver(&uring->mail, false);
}

static void uring_wake(struct engine *engine)
{
	io_mail_ring(&((struct engine_uring *)engine)->mail);
}

static void uring_watch(struct engine *engine, struct engine_watch *watch)
{
	((struct engine_uring *)engine)->mail.watch = watch;
}

static uint64_t uring_now_ns(struct engine *engine)
{
	return io_now_ns();
}

static void uring_destroy(struct engine *engine)
{
	struct engine_uring *uring = (struct engine_uring *)engine;

	close_ring(uring);
	io_mail_finish(&uring->mail);
	free(uring);
}

static const struct engine_ops uring_ops = {
	.name = "io_uring",
	.attach = uring_attach,
	.add_file = uring_add_file,
	.remove_file = uring_remove_file,
	.submit = uring_submit,
	.wait = uring_wait,
	.wake = uring_wake,
	.watch = uring_watch,
	.now_ns = uring_now_ns,
	.destroy = uring_destroy,
};

int engine_uring_create(struct engine **ret_engine)
{
	struct engine_uring *uring = calloc(1, sizeof(*uring));
	int ret;

	if (!uring)
		return -ENOMEM;
	ret = io_mail_init(&uring->mail);
	if (ret < 0) {
		free(uring);
		return ret;
	}
	uring->engine.ops = &uring_ops;
	uring->cmd_fd = uring->watch_fd = -1;
	uring->owner_tid = thread_id();
	uring->owner_generation = io_fork_generation();
	ret = open_ring(uring);
	if (ret < 0) {
		uring_destroy(&uring->engine);
		return ret;
	}
	*ret_engine = &uring->engine;
	return 0;
}
