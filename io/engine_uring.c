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
#include "io/engine_uring_int.h"

#include "io/engine_call.h"
#include "io/file.h"
#include "io/reactor.h"
#include "io/sanitizer.h"
#include "io/worker.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SQE128_BYTES 128
/* In the user data of a completion: it is a command's, or the watch's. */
#define CMD_MARK 1u
#define WATCH_MARK 2u

static int uring_attach(struct engine *engine, struct reactor *reactor)
{
	((struct engine_uring *)engine)->reactor = reactor;
	return 0;
}

/* ---- requests ---- */

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

static struct worker_job *make_job(struct engine_uring *uring, struct io_req *req)
{
	req->priv = uring;
	req->job = (struct worker_job){.fn = job_execute, .arg = req, .done = job_done};
	return &req->job;
}

/* Large copies to and from memory, and what the ring cannot do, are a worker's. */
static void execute_elsewhere(struct engine_uring *uring, struct io_req *req)
{
	struct worker_pool *pool = reactor_workers(uring->reactor);

	if (pool)
		worker_submit(pool, make_job(uring, req));
	else
		io_complete(req, io_call(req));
}

/*
 * A flush blocks whoever makes it, which in the ring is a kernel thread: one of ours comes back
 * with less work for the CPUs.
 */
static bool execute_flush(struct engine_uring *uring, struct io_req *req)
{
	struct worker_pool *pool = reactor_workers(uring->reactor);

	return req->op == IO_FLUSH && pool && worker_try_submit(pool, make_job(uring, req));
}

static void uring_submit(struct engine *engine, struct io_req *req)
{
	struct engine_uring *uring = (struct engine_uring *)engine;

	if (io_call_try(req))
		return;
	if (req->file->path == FILE_MEMORY || req->op == IO_TRUNCATE ||
	    (uring->confined && req->file->fixed < 0)) /* U4 */
		execute_elsewhere(uring, req);
	else if (!execute_flush(uring, req))
		request_list_append(&uring->queue, req);
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

	if (!engine_is_uring(engine))
		return -EOPNOTSUPP;
	uring->max_cmds = nb_cmds;
	ret = uring_take_over(uring);
	if (ret < 0)
		uring->max_cmds = 0;
	return ret;
}

bool engine_uring_takes_cmds(struct engine *engine)
{
	struct engine_uring *uring = (struct engine_uring *)engine;

	if (!engine_is_uring(engine) || !uring->max_cmds)
		return false;
	if (!uring_owns_ring(uring))
		uring_take_over(uring);
	return uring->have_ring;
}

bool engine_uring_set_cmd_file(struct engine *engine, int fd)
{
	struct engine_uring *uring = (struct engine_uring *)engine;

	uring->cmd_fd = fd;
	return !uring->have_ring || !uring_owns_ring(uring) ||
	       uring_register_file(uring, SLOT_CMD, fd);
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

static bool is_watched_by_ring(const struct engine_uring *uring)
{
	return uring->mail.watch->fd == uring->watch_fd && uring->files_registered;
}

/* One shot: while the descriptor is looked at anyway, its wake-ups cost nothing. */
static void arm_watch(struct engine_uring *uring)
{
	struct io_uring_sqe *sqe;
	int fd;

	if (!uring->mail.watch || uring->watch_armed || uring->watch_beside)
		return;
	fd = uring->mail.watch->fd;
	if (fd != uring->watch_fd && uring_register_file(uring, SLOT_WATCH, fd))
		uring->watch_fd = fd;
	uring->watch_beside = uring->confined && !is_watched_by_ring(uring); /* U4 */
	sqe = uring->watch_beside ? NULL : io_uring_get_sqe(&uring->ring);
	if (!sqe)
		return;
	if (is_watched_by_ring(uring)) {
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
		prepare(uring, sqe, request_list_take(&uring->queue));
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
		uring->watch_beside = result < 0;
		if (result >= 0)
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

/* U3, where the ring cannot watch. */
static void wait_beside(struct engine_uring *uring, uint64_t timeout_ns)
{
	struct pollfd fds[] = {
		{.fd = uring->mail.watch->fd, .events = POLLIN},
		{.fd = uring->ring.ring_fd, .events = POLLIN},
	};
	struct timespec timeout = {
		.tv_sec = (time_t)(timeout_ns / 1000000000u),
		.tv_nsec = (long)(timeout_ns % 1000000000u),
	};

	enter(uring, 0);
	if (!io_uring_cq_ready(&uring->ring) &&
	    ppoll(fds, 2, timeout_ns == UINT64_MAX ? NULL : &timeout, NULL) > 0 && fds[0].revents)
		io_mail_watched(&uring->mail);
	enter(uring, 0);
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
		if (!more && timeout_ns && uring->watch_beside && uring->mail.watch)
			wait_beside(uring, timeout_ns);
		else
			enter(uring, more ? 0 : timeout_ns);
		if (reap(uring))
			timeout_ns = 0;
	} while (more);
}

/* A loop round without one. */
static void run_calls(struct engine_uring *uring, uint64_t timeout_ns)
{
	while (uring->queue.head) {
		struct io_req *req = request_list_take(&uring->queue);

		io_complete(req, io_call(req));
		timeout_ns = 0;
	}
	io_mail_wait(&uring->mail, timeout_ns);
}

static void uring_wait(struct engine *engine, uint64_t timeout_ns)
{
	struct engine_uring *uring = (struct engine_uring *)engine;

	if (!uring_owns_ring(uring) || !uring->have_ring)
		uring_take_over(uring);
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

	uring_close_ring(uring);
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

bool engine_is_uring(const struct engine *engine)
{
	return engine->ops == &uring_ops;
}

/* Its ring is made by uring_take_over(). */
static int create(struct engine_uring **ret_uring)
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
	*ret_uring = uring;
	return 0;
}

int engine_uring_create(struct engine **ret_engine)
{
	struct engine_uring *uring;
	int ret = create(&uring);

	if (ret < 0)
		return ret;
	ret = uring_take_over(uring);
	if (ret < 0) {
		uring_destroy(&uring->engine);
		return ret;
	}
	*ret_engine = &uring->engine;
	return 0;
}

int engine_uring_create_for_cmds(unsigned nb_cmds, bool confined, struct engine **ret_engine)
{
	struct engine_uring *uring;
	int ret = create(&uring);

	if (ret < 0)
		return ret;
	uring->max_cmds = nb_cmds;
	uring->confined = confined;
	*ret_engine = &uring->engine;
	return 0;
}
