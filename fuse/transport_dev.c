/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * transport_dev: see transport_dev.h.
 *
 * Who reads: the reactor, as long as messages are small, so that a request is answered
 * by the thread that read it, without a hand-off. A large write would hold up everybody
 * else while it is copied: at the first one the reactor leaves reading to the threads, and
 * gets it back after QUICK_STREAK small messages in succession. One thread has the turn to read;
 * when it got a large write, another one reads while this one is busy.
 *
 * Who finds a crowd of messages waiting calls a helper: one of the threads, which reads beside the
 * reactor, or beside the thread whose turn it is, until there is nothing more. What it cannot do
 * alone (ops_read_at_once()) it hands over.
 *
 * Where nearly all could be answered so, and their clients wait for each answer, all threads read
 * (reader_choice.h). Only then read() waits: O_NONBLOCK is off as long as `readers` is BY_ALL. Who
 * waits in it when the reactor is to read again looks for one message more.
 *
 * Receive buffers: small payloads are copied out of them into a buffer of their size; a large one
 * keeps the receive buffer until it has been answered, and who read it takes another from the
 * pool. When all are held by writes, the threads wait. The reactor never waits for one: without a
 * buffer it leaves reading to the threads, too.
 */
#define FUSE_USE_VERSION 314

#include "fuse/transport_dev.h"

#include "fuse/log.h"
#include "fuse/message.h"
#include "fuse/ops.h"
#include "fuse/reader_choice.h"
#include "fuse/receive_pool.h"
#include "fuse/transport_uring.h"
#include "fuse/uring_abi.h"
#include "io/buf.h"
#include "io/reactor.h"
#include "io/thread.h"

#include <errno.h>
#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

/* Payloads up to this size are copied out of the receive buffer. */
#define COPY_BYTES_MAX (32u << 10)
/* One reply's data above this size is copied out by a worker, unless nobody else waits. */
#define REPLY_INLINE_BYTES (64u << 10)
/* Receive buffers besides one for each reader. */
#define NB_SPARE_BUFFERS 32u
/* So many messages the reactor takes before it runs what they ask for. */
#define TAKE_MAX 16u
#define QUICK_STREAK 16u
/* So many waiting at once are more than one thread is to answer. */
#define CROWD 10u

#define MAX_BACKGROUND 128u
/* Linux 3.15. */
#define PROTOCOL_MINOR_MIN 23u

enum readers {
	BY_REACTOR,
	BY_TURNS, /* one of the threads, and another one while it is busy with a large write */
	BY_ALL,   /* all of them at once */
};

struct transport_dev {
	struct transport transport;
	struct transport_dev_params params;
	struct fuse_session *session; /* libfuse's, which mounts and unmounts */
	int fd;
	uid_t owner;
	bool mounted;

	/* the reactor's */
	struct reactor_source source;   /* its descriptor is made by watch() */
	struct receive_buf *source_buf; /* NULL: the threads read */

	pthread_t threads[OPTIONS_THREADS_MAX];
	unsigned nb_threads;
	_Atomic unsigned nb_running;
	int ended_fd;
	struct task return_task; /* takes source_buf to the reactor */

	pthread_mutex_t turn_mutex;
	pthread_cond_t turn_changed;
	_Atomic enum readers readers; /* changes under turn_mutex */
	bool reading;                 /* one of them has the turn */
	unsigned nb_quick;
	bool ended;
	unsigned nb_called;             /* helpers that have not come yet */
	_Atomic unsigned nb_helpers;    /* they and those who are at it; changes under turn_mutex */
	struct reader_choice choice;    /* the reactor's, or that of all, under turn_mutex */
	_Atomic unsigned nb_unanswered; /* of what all read */

	struct receive_pool pool;
};

/* ---- answers ---- */

static int answer(const struct transport_dev *dev, uint64_t unique, int error,
		  const struct iovec *iov, int nb_iov)
{
	int res = message_answer(dev->fd, unique, error, iov, nb_iov);

	/* ENOENT: nobody waits any more; ENODEV: unmounted. */
	if (res < 0 && res != -ENOENT && res != -ENODEV)
		log_error("the kernel refused an answer: %s", strerror(-res));
	return res;
}

static int dev_reply(struct request *request, int error, const struct iovec *iov, int nb_iov)
{
	struct transport_dev *dev = (struct transport_dev *)request->transport;

	if (request->counted)
		dev->nb_unanswered--;
	if (request->payload_owner)
		receive_pool_put(&dev->pool, request->payload_owner);
	return answer(dev, request->unique, error, iov, nb_iov);
}

static int dev_invalidate(struct transport *transport, uint64_t ino, uint64_t off,
			  uint64_t len_bytes)
{
	const struct transport_dev *dev = (struct transport_dev *)transport;
	struct fuse_notify_inval_inode_out out = {
		.ino = ino,
		.off = (int64_t)off,
		.len = (int64_t)len_bytes,
	};
	struct fuse_out_header header = {
		.len = sizeof(header) + sizeof(out),
		.error = FUSE_NOTIFY_INVAL_INODE,
	};
	struct iovec iov[] = {{&header, sizeof(header)}, {&out, sizeof(out)}};

	return writev(dev->fd, iov, 2) < 0 ? -errno : 0;
}

static void dev_give_back(struct transport *transport)
{
	struct transport_dev *dev = (struct transport_dev *)transport;

	receive_pool_give_back(&dev->pool);
}

/* ---- INIT ---- */

/*
 * Without AUTO_INVAL_DATA, with which each write's new mtime would empty the page cache, and
 * without ATOMIC_O_TRUNC, with which the kernel takes the size for 0 after an open with
 * O_TRUNC, whatever the answer says; so it asks for a truncation and believes what it hears.
 * With HANDLE_KILLPRIV, without which the kernel asks for the attribute security.capability
 * before every buffered write: no file here ever has set-id bits or capabilities to drop.
 */
#define INIT_FLAGS                                                                             \
	(FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_ASYNC_DIO | FUSE_PARALLEL_DIROPS |           \
	 FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO | FUSE_MAX_PAGES | FUSE_HANDLE_KILLPRIV | \
	 FUSE_HANDLE_KILLPRIV_V2)

static void fill_init(const struct transport_dev *dev, const struct fuse_init_in *in,
		      struct fuse_init_out *ret)
{
	uint64_t offered = in->flags, wanted = INIT_FLAGS;

	if (offered & FUSE_INIT_EXT)
		offered |= (uint64_t)in->flags2 << 32;
	if (dev->params.writeback_cache)
		wanted |= FUSE_WRITEBACK_CACHE;
	if (dev->params.ring)
		wanted |= FUSE_OVER_IO_URING;
	wanted &= offered;
	if (wanted >> 32)
		wanted |= FUSE_INIT_EXT;
	*ret = (struct fuse_init_out){
		.major = FUSE_KERNEL_VERSION,
		.minor = in->minor < FUSE_KERNEL_MINOR_VERSION ? in->minor
							       : FUSE_KERNEL_MINOR_VERSION,
		.max_readahead = in->max_readahead,
		.flags = (uint32_t)wanted,
		.flags2 = (uint32_t)(wanted >> 32),
		.max_background = MAX_BACKGROUND,
		.congestion_threshold = MAX_BACKGROUND,
		.max_write = dev->params.ring ? transport_uring_payload_bytes(dev->params.ring)
					      : RECEIVE_WRITE_BYTES_MAX,
		.time_gran = 1,
	};
	ret->max_pages = (uint16_t)(ret->max_write / (size_t)sysconf(_SC_PAGESIZE));
}

static void serve_init(struct transport_dev *dev, const struct message *message)
{
	struct fuse_init_in in = {0}; /* it has grown over time, and may be shorter than here */
	struct fuse_init_out out = {.major = FUSE_KERNEL_VERSION};
	struct iovec iov = {&out, sizeof(out)};
	bool with_ring;
	int res;

	memcpy(&in, message->head,
	       message->head_bytes < sizeof(in) ? message->head_bytes : sizeof(in));
	if (in.major < FUSE_KERNEL_VERSION ||
	    (in.major == FUSE_KERNEL_VERSION && in.minor < PROTOCOL_MINOR_MIN)) {
		log_error("this kernel speaks a FUSE protocol that is too old");
		answer(dev, message->unique, -EPROTO, NULL, 0);
		return;
	}
	/* A newer kernel asks again in the protocol that it is answered with. */
	if (in.major == FUSE_KERNEL_VERSION)
		fill_init(dev, &in, &out);
	with_ring = ((uint64_t)out.flags2 << 32) & FUSE_OVER_IO_URING;
	res = answer(dev, message->unique, 0, &iov, 1);
	if (with_ring && res == 0)
		transport_uring_start(dev->params.ring, &dev->transport);
}

/* ---- requests ---- */

/* Lets the request have its payload: a copy, or the receive buffer, which *buf then is no more. */
static void keep_payload(struct request *request, struct receive_buf **buf)
{
	size_t len_bytes = request->len_bytes;

	if (len_bytes == 0)
		return;
	if (len_bytes <= COPY_BYTES_MAX) {
		request->buf = buf_get(len_bytes);
		request->buf_bytes = len_bytes;
	}
	if (request->buf) {
		request->payload = memcpy(request->buf, request->payload, len_bytes);
	} else {
		request->payload_owner = *buf;
		*buf = NULL;
	}
}

/* Returns whether any thread could do it, as this one has. */
static bool serve_request(struct transport_dev *dev, const struct message *message,
			  struct receive_buf **buf)
{
	static const char zeros[MESSAGE_ZERO_BYTES_MAX];
	struct request *request;
	size_t zero_bytes = 0;
	int res;

	if (dev->params.allow_root && message_is_kept_out(message, dev->owner)) {
		answer(dev, message->unique, -EACCES, NULL, 0);
		return false;
	}
	request = request_get(dev->params.ops);
	if (!request) {
		answer(dev, message->unique, -ENOMEM, NULL, 0);
		return false;
	}
	request->transport = &dev->transport;
	request->unique = message->unique;
	res = message_parse(message, request, &zero_bytes);
	if (res == 0) {
		if (request->op == REQUEST_WRITE)
			keep_payload(request, buf);
		request->counted = dev->readers == BY_ALL;
		if (request->counted)
			dev->nb_unanswered++;
		return ops_dispatch(request);
	}
	request_drop(request);
	answer(dev, message->unique, res < 0 ? res : 0, &(struct iovec){(void *)zeros, zero_bytes},
	       1);
	return false;
}

/*
 * Serves what lies in *buf; *buf becomes NULL when the request keeps it. Returns whether any thread
 * could do it, as this one has.
 */
static bool serve(struct transport_dev *dev, struct receive_buf **buf, size_t len_bytes)
{
	struct message message;

	if (message_open((*buf)->message, len_bytes, &message) < 0)
		return false;
	if (dev->params.debug)
		message_print(&message, "device");
	switch (message.opcode) {
	case FUSE_INIT:
		serve_init(dev, &message);
		break;
	case FUSE_FORGET: /* Nodes live as long as the mount: there is nothing to count. */
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT: /* Nothing can be interrupted. */
		break;
	default:
		return serve_request(dev, &message, buf);
	}
	return false;
}

static bool is_large(const struct receive_buf *buf)
{
	return ((const struct fuse_in_header *)buf->message)->len >
	       RECEIVE_WRITE_HEADER_BYTES + COPY_BYTES_MAX;
}

/* ---- whose turn it is to read ---- */

/* A message's length, or -errno: -EAGAIN when there is none, or it has been taken back. */
static ssize_t read_message(const struct transport_dev *dev, const struct receive_buf *buf)
{
	ssize_t res = read(dev->fd, buf->message, RECEIVE_MESSAGE_BYTES);

	if (res >= 0)
		return res;
	return errno == ENOENT || errno == EINTR ? -EAGAIN : -errno;
}

static void end_turns(struct transport_dev *dev)
{
	pthread_mutex_lock(&dev->turn_mutex);
	dev->ended = true;
	pthread_cond_broadcast(&dev->turn_changed);
	pthread_mutex_unlock(&dev->turn_mutex);
}

/* Whether read() waits. */
static bool set_blocking(const struct transport_dev *dev, bool blocking)
{
	int flag = !blocking;

	return ioctl(dev->fd, FIONBIO, &flag) == 0;
}

/* By the reactor, which reads no more. */
static void leave_to(struct transport_dev *dev, enum readers readers)
{
	if (readers == BY_ALL && !set_blocking(dev, true))
		return;
	reactor_set_source(dev->params.reactor, NULL);
	if (dev->source_buf)
		receive_pool_put(&dev->pool, dev->source_buf);
	dev->source_buf = NULL;
	pthread_mutex_lock(&dev->turn_mutex);
	dev->readers = readers;
	dev->nb_quick = 0;
	if (readers == BY_ALL)
		pthread_cond_broadcast(&dev->turn_changed);
	else
		pthread_cond_signal(&dev->turn_changed);
	pthread_mutex_unlock(&dev->turn_mutex);
}

/* One more, if one can be of use. */
static void call_helper(struct transport_dev *dev)
{
	if (dev->nb_helpers >= dev->params.nb_helpers)
		return;
	pthread_mutex_lock(&dev->turn_mutex);
	if (dev->nb_helpers < dev->params.nb_helpers) {
		dev->nb_helpers++;
		dev->nb_called++;
		pthread_cond_signal(&dev->turn_changed);
	}
	pthread_mutex_unlock(&dev->turn_mutex);
}

/* The source's take(). */
static unsigned take(struct reactor_source *source)
{
	struct transport_dev *dev =
		(struct transport_dev *)((char *)source - offsetof(struct transport_dev, source));
	bool fits = false; /* the first message, which tells of the whole round */
	unsigned nb_taken;

	for (nb_taken = 0; nb_taken < TAKE_MAX; nb_taken++) {
		ssize_t res = read_message(dev, dev->source_buf);
		bool large, at_once;

		if (res == -EAGAIN)
			break;
		if (res < 0) {
			reactor_set_source(dev->params.reactor, NULL);
			end_turns(dev);
			break;
		}
		if (nb_taken + 1 == CROWD)
			call_helper(dev);
		large = is_large(dev->source_buf);
		at_once = serve(dev, &dev->source_buf, (size_t)res);
		if (nb_taken == 0)
			fits = at_once && dev->params.nb_helpers > 0;
		if (large || !dev->source_buf) {
			reader_choice_count_round(&dev->choice, false);
			leave_to(dev, BY_TURNS);
			return nb_taken + 1;
		}
	}
	if (nb_taken > 0 && reader_choice_count_round(&dev->choice, fits))
		leave_to(dev, BY_ALL);
	return nb_taken;
}

static void coroutine_fn run_source(void *arg)
{
	struct transport_dev *dev = arg;

	reactor_set_source(dev->params.reactor, &dev->source);
}

static void coroutine_fn stop_source(void *arg)
{
	const struct transport_dev *dev = arg;

	reactor_set_source(dev->params.reactor, NULL);
}

/* Gives the turn and a buffer back to the reactor. */
static void return_turn(struct transport_dev *dev, struct receive_buf **buf)
{
	dev->source_buf = *buf ? *buf : receive_pool_get(&dev->pool);
	*buf = NULL;
	dev->return_task = (struct task){.fn = run_source, .arg = dev};
	reactor_post(dev->params.reactor, &dev->return_task);
}

enum turn { TURN_END, TURN_READER, TURN_HELPER, TURN_ALL };

/* Whether one more thread is to read. */
static bool may_read(const struct transport_dev *dev)
{
	return dev->readers == BY_ALL || (dev->readers == BY_TURNS && !dev->reading);
}

/* What a thread is to do next. */
static enum turn take_turn(struct transport_dev *dev)
{
	enum turn turn = TURN_END;

	pthread_mutex_lock(&dev->turn_mutex);
	while (!dev->ended && !may_read(dev) && !dev->nb_called)
		pthread_cond_wait(&dev->turn_changed, &dev->turn_mutex);
	if (!dev->ended && dev->readers == BY_ALL) {
		turn = TURN_ALL;
	} else if (!dev->ended && may_read(dev)) {
		turn = TURN_READER;
		dev->reading = true;
	} else if (!dev->ended) {
		turn = TURN_HELPER;
		dev->nb_called--;
	}
	pthread_mutex_unlock(&dev->turn_mutex);
	return turn;
}

/*
 * After a thread has read: somebody else must read while it is busy with a large message.
 * Returns whether the reactor shall go on.
 */
static bool leave_turn(struct transport_dev *dev, bool large)
{
	bool by_reactor;

	pthread_mutex_lock(&dev->turn_mutex);
	dev->reading = false;
	dev->nb_quick = large ? 0 : dev->nb_quick + 1;
	by_reactor = dev->nb_quick >= QUICK_STREAK;
	if (by_reactor)
		dev->readers = BY_REACTOR;
	else if (large)
		pthread_cond_signal(&dev->turn_changed);
	pthread_mutex_unlock(&dev->turn_mutex);
	return by_reactor;
}

/* ---- threads ---- */

/* Waits for a message. */
static ssize_t receive_message(const struct transport_dev *dev, const struct receive_buf *buf)
{
	struct pollfd pollfd = {.fd = dev->fd, .events = POLLIN};
	ssize_t res;

	while ((res = read_message(dev, buf)) == -EAGAIN)
		poll(&pollfd, 1, -1);
	return res;
}

/* The last one that runs tells whoever waits for the end. */
static void count_ended(struct transport_dev *dev, unsigned nb_threads)
{
	uint64_t one = 1;

	if (atomic_fetch_sub(&dev->nb_running, nb_threads) == nb_threads &&
	    write(dev->ended_fd, &one, sizeof(one)) < 0)
		log_error("cannot tell the end: %s", strerror(errno));
}

/* Reads one message in its turn. False at the end of all messages. */
static bool read_in_turn(struct transport_dev *dev, struct receive_buf **buf)
{
	ssize_t res = receive_message(dev, *buf);
	bool by_reactor;

	if (res < 0)
		return false;
	by_reactor = leave_turn(dev, is_large(*buf));
	serve(dev, buf, (size_t)res);
	if (by_reactor)
		return_turn(dev, buf);
	return true;
}

/* Reads beside whose turn it is, while there is something. False at the end of all messages. */
static bool help(struct transport_dev *dev, struct receive_buf **buf)
{
	unsigned nb_taken = 0;
	ssize_t res = -EAGAIN;

	while (dev->readers != BY_ALL && (res = read_message(dev, *buf)) >= 0) {
		if (++nb_taken % CROWD == 0)
			call_helper(dev);
		serve(dev, buf, (size_t)res);
		if (!*buf)
			*buf = receive_pool_get(&dev->pool);
	}
	pthread_mutex_lock(&dev->turn_mutex);
	dev->nb_helpers--;
	pthread_mutex_unlock(&dev->turn_mutex);
	return res >= 0 || res == -EAGAIN;
}

/* At the message in buf, before it is answered. */
static void look_at(const struct transport_dev *dev, const struct receive_buf *buf,
		    struct reader_sample *sample)
{
	struct pollfd pollfd = {.fd = dev->fd, .events = POLLIN};
	uint32_t pid = ((const struct fuse_in_header *)buf->message)->pid;
	/* 0 is who is not known here: anybody. */
	bool again = pid && pid == sample->pid;

	sample->pid = pid;
	sample->crowd = again && (dev->nb_unanswered > 0 || poll(&pollfd, 1, 0) > 0);
}

/* Whether the reactor shall go on. */
static bool leave_to_reactor(struct transport_dev *dev, const struct reader_sample *sample)
{
	bool by_reactor;

	pthread_mutex_lock(&dev->turn_mutex);
	by_reactor = dev->readers == BY_ALL && reader_choice_count_sample(&dev->choice, sample);
	if (by_reactor)
		dev->readers = BY_REACTOR;
	if (by_reactor && !set_blocking(dev, false)) {
		dev->readers = BY_ALL;
		by_reactor = false;
	}
	pthread_mutex_unlock(&dev->turn_mutex);
	return by_reactor;
}

/* Reads beside the others, until the reactor does. False at the end of all messages. */
static bool read_with_all(struct transport_dev *dev, struct receive_buf **buf)
{
	struct reader_sample sample = {0};
	unsigned nb_read = 0;

	receive_buf_give_back(*buf); /* or a large write's memory would stay with who waits */
	while (dev->readers == BY_ALL) {
		ssize_t res = read_message(dev, *buf);
		bool looks;

		if (res == -EAGAIN)
			continue;
		if (res < 0)
			return false;
		looks = nb_read < READER_WINDOW || nb_read % READER_SAMPLE == 0;
		nb_read++;
		if (looks)
			look_at(dev, *buf, &sample);
		sample.fits = serve(dev, buf, (size_t)res);
		if (!*buf)
			*buf = receive_pool_get(&dev->pool);
		if (looks && leave_to_reactor(dev, &sample)) {
			return_turn(dev, buf);
			break;
		}
	}
	return true;
}

static bool read_as(struct transport_dev *dev, enum turn turn, struct receive_buf **buf)
{
	switch (turn) {
	case TURN_READER:
		return read_in_turn(dev, buf);
	case TURN_HELPER:
		return help(dev, buf);
	case TURN_ALL:
		return read_with_all(dev, buf);
	case TURN_END:
		break;
	}
	return false;
}

static void *receive(void *arg)
{
	struct transport_dev *dev = arg;
	enum turn turn;
	bool more = true;

	while (more && (turn = take_turn(dev)) != TURN_END) {
		struct receive_buf *buf = receive_pool_get(&dev->pool);

		more = read_as(dev, turn, &buf);
		/* Who waits for the turn needs none, and the next reader takes a warm one. */
		if (buf)
			receive_pool_put(&dev->pool, buf);
	}
	end_turns(dev);
	count_ended(dev, 1);
	return NULL;
}

int transport_dev_start(struct transport_dev *dev, int ended_fd)
{
	dev->ended_fd = ended_fd;
	dev->nb_running = dev->params.nb_threads;
	for (; dev->nb_threads < dev->params.nb_threads; dev->nb_threads++) {
		int res = thread_start(&dev->threads[dev->nb_threads], "qf-receive", receive, dev);

		if (res == 0)
			continue;
		/* Fewer will do, none will not. */
		if (!dev->nb_threads)
			return res;
		count_ended(dev, dev->params.nb_threads - dev->nb_threads);
		break;
	}
	reactor_run(dev->params.reactor, run_source, dev);
	return 0;
}

void transport_dev_join(struct transport_dev *dev)
{
	while (dev->nb_threads > 0)
		pthread_join(dev->threads[--dev->nb_threads], NULL);
}

/* ---- life ---- */

/*
 * What libfuse says while it mounts is a part of our line; its log has no room for a pointer. (A
 * child that it forks speaks for itself.)
 */
static struct {
	pid_t pid; /* 0: nobody mounts */
	char text[1024];
} complaint;

static void log_libfuse(enum fuse_log_level level, const char *fmt, va_list ap)
{
	size_t len, used = strlen(complaint.text);
	char line[512];

	vsnprintf(line, sizeof(line), fmt, ap);
	len = strlen(line);
	if (len > 0 && line[len - 1] == '\n')
		line[len - 1] = '\0';
	if (line[0] && level < FUSE_LOG_INFO && complaint.pid == getpid())
		snprintf(complaint.text + used, sizeof(complaint.text) - used, "%s%s",
			 used ? "; " : "", line);
	else if (line[0])
		log_print(level >= FUSE_LOG_INFO ? LOG_LEVEL_INFO : LOG_LEVEL_ERROR, "%s", line);
}

static int session_new(struct transport_dev *dev)
{
	static const struct fuse_lowlevel_ops no_ops = {.init = NULL};
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	int res = -EINVAL;

	fuse_set_log_func(log_libfuse);
	if (fuse_opt_add_arg(&args, "qcow2fs") < 0 || fuse_opt_add_arg(&args, "-o") < 0 ||
	    fuse_opt_add_arg(&args, dev->params.mount_words) < 0)
		res = -ENOMEM;
	else
		dev->session = fuse_session_new(&args, &no_ops, sizeof(no_ops), dev);
	fuse_opt_free_args(&args);
	return dev->session ? 0 : res;
}

int transport_dev_create(const struct transport_dev_params *params,
			 struct transport_dev **ret_transport)
{
	struct transport_dev *dev = calloc(1, sizeof(*dev));
	int res;

	if (!dev)
		return -ENOMEM;
	dev->transport = (struct transport){
		.name = "dev",
		.reply_inline_bytes = REPLY_INLINE_BYTES,
		.reply = dev_reply,
		.invalidate = dev_invalidate,
		.give_back = dev_give_back,
	};
	dev->params = *params;
	dev->owner = getuid();
	dev->source = (struct reactor_source){.fd = -1, .take = take};
	pthread_mutex_init(&dev->turn_mutex, NULL);
	pthread_cond_init(&dev->turn_changed, NULL);
	res = receive_pool_init(&dev->pool, params->nb_threads + 1 + NB_SPARE_BUFFERS);
	if (res == 0)
		res = session_new(dev);
	if (res < 0) {
		transport_dev_destroy(dev);
		return res;
	}
	*ret_transport = dev;
	return 0;
}

/*
 * What the reactor waits for. A poll of the device itself would hold it open in the ring, which
 * the kernel takes apart some time after the process: a killed server's mount would then be
 * neither alive nor dead for a while, and whoever looks at it would wait.
 */
static int watch(struct transport_dev *dev)
{
	struct epoll_event event = {.events = EPOLLIN};

	dev->source.fd = epoll_create1(EPOLL_CLOEXEC);
	if (dev->source.fd < 0 || epoll_ctl(dev->source.fd, EPOLL_CTL_ADD, dev->fd, &event) < 0)
		return -errno;
	return 0;
}

int transport_dev_mount(struct transport_dev *dev, const char *mountpoint)
{
	int res;

	complaint.pid = getpid();
	res = fuse_session_mount(dev->session, mountpoint);
	complaint.pid = 0;
	if (res < 0) {
		log_error("%s: mount failed%s%s", mountpoint, complaint.text[0] ? ": " : "",
			  complaint.text);
		return -EIO;
	}
	dev->mounted = true;
	dev->fd = fuse_session_fd(dev->session);
	if (!set_blocking(dev, false) || watch(dev) < 0) {
		log_error("%s: mount failed: the FUSE device: %s", mountpoint, strerror(errno));
		return -EIO;
	}
	if (dev->params.ring && !transport_uring_set_device(dev->params.ring, dev->fd))
		dev->params.ring = NULL;
	dev->source_buf = receive_pool_get(&dev->pool);
	return 0;
}

void transport_dev_destroy(struct transport_dev *dev)
{
	if (!dev)
		return;
	reactor_run(dev->params.reactor, stop_source, dev);
	if (dev->mounted)
		fuse_session_unmount(dev->session);
	if (dev->session)
		fuse_session_destroy(dev->session);
	if (dev->source.fd >= 0)
		close(dev->source.fd);
	receive_pool_finish(&dev->pool);
	pthread_cond_destroy(&dev->turn_changed);
	pthread_mutex_destroy(&dev->turn_mutex);
	free(dev);
}
