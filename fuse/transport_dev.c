/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * transport_dev: see transport_dev.h.
 *
 * Receive buffers: a message is read to an address 80 bytes (the headers of a WRITE)
 * below a page boundary. Small payloads are copied into a buffer of their size; a
 * large one keeps the receive buffer until it has been answered, and the thread takes
 * another from the pool. The pool is bounded: when all buffers are held by writes, the
 * threads wait, and the kernel queues.
 *
 * Who reads: the kernel wakes a reader for every request, even when another thread would
 * come back for it at once. So, as long as requests are handed over quickly, one
 * thread reads and the others are parked. A thread that got something that takes its
 * time (a large copy, a question to the host's file system) invites another to read
 * meanwhile, and reads again itself afterwards; one that got something quick parks
 * when somebody else reads. At least one always reads or is about to.
 */
#define FUSE_USE_VERSION 314

#include "fuse/transport_dev.h"

#include "fuse/log.h"
#include "fuse/ops.h"
#include "fuse/transport_uring.h"
#include "fuse/uring_abi.h"
#include "io/buf.h"

#include <assert.h>
#include <errno.h>
#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGE_BYTES 4096u
#define MAX_WRITE_BYTES (1u << 20)
#define WRITE_HEADER_BYTES (sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in))
/* libfuse reads up to one page of headers besides the payload. */
#define RECEIVE_BYTES (PAGE_BYTES + MAX_WRITE_BYTES + PAGE_BYTES)
#define MESSAGE_BYTES_MAX (RECEIVE_BYTES - PAGE_BYTES + WRITE_HEADER_BYTES)
/* Payloads up to this size are copied out of the receive buffer. */
#define COPY_BYTES_MAX (32u << 10)
/* One reply's data above this size is copied out by a worker, not by the reactor. */
#define REPLY_INLINE_BYTES (64u << 10)
/* Receive buffers besides one for each thread. */
#define NB_SPARE_BUFFERS 32u

#define MAX_BACKGROUND 128u

static_assert(WRITE_HEADER_BYTES == 80, "the payload of a WRITE follows 80 bytes of headers");

struct receive_buf {
	struct receive_buf *next;
	char *area; /* RECEIVE_BYTES, page-aligned */
};

struct transport_dev {
	struct transport transport;
	struct transport_dev_params params;
	struct fuse_session *session;
	bool mounted;
	/* of INIT, which is answered before any other request is sent */
	_Atomic uint64_t init_unique;
	uint64_t init_offered;

	pthread_t threads[OPTIONS_THREADS_MAX];
	unsigned nb_threads;
	_Atomic unsigned nb_running;
	int ended_fd;

	pthread_mutex_t turn_mutex;
	pthread_cond_t invited;
	unsigned nb_reading, nb_parked, nb_invitations;
	bool ended;

	pthread_mutex_t pool_mutex;
	pthread_cond_t pool_filled;
	struct receive_buf *bufs; /* all of them */
	struct receive_buf *free_bufs;
	char *area; /* of all buffers */
	size_t area_bytes;
};

/* The buffer that this thread's message lies in; a handler that keeps it sets NULL. */
static __thread struct receive_buf *current_buf;

/* ---- receive buffers ---- */

static int pool_init(struct transport_dev *dev, unsigned nb_bufs)
{
	pthread_mutex_init(&dev->pool_mutex, NULL);
	pthread_cond_init(&dev->pool_filled, NULL);
	dev->bufs = calloc(nb_bufs, sizeof(*dev->bufs));
	if (!dev->bufs)
		return -ENOMEM;
	/* Address space only: memory is used as messages arrive. */
	dev->area_bytes = (size_t)nb_bufs * RECEIVE_BYTES;
	dev->area = mmap(NULL, dev->area_bytes, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (dev->area == MAP_FAILED)
		return -errno;
	for (unsigned i = 0; i < nb_bufs; i++) {
		struct receive_buf *buf = &dev->bufs[i];

		buf->area = dev->area + (size_t)i * RECEIVE_BYTES;
		buf->next = dev->free_bufs;
		dev->free_bufs = buf;
	}
	return 0;
}

static void pool_finish(struct transport_dev *dev)
{
	if (dev->area && dev->area != MAP_FAILED)
		munmap(dev->area, dev->area_bytes);
	free(dev->bufs);
	pthread_cond_destroy(&dev->pool_filled);
	pthread_mutex_destroy(&dev->pool_mutex);
}

static struct receive_buf *pool_get(struct transport_dev *dev)
{
	struct receive_buf *buf;

	pthread_mutex_lock(&dev->pool_mutex);
	while (!dev->free_bufs)
		pthread_cond_wait(&dev->pool_filled, &dev->pool_mutex);
	buf = dev->free_bufs;
	dev->free_bufs = buf->next;
	pthread_mutex_unlock(&dev->pool_mutex);
	return buf;
}

static void pool_put(struct transport_dev *dev, struct receive_buf *buf)
{
	pthread_mutex_lock(&dev->pool_mutex);
	buf->next = dev->free_bufs;
	dev->free_bufs = buf;
	pthread_cond_signal(&dev->pool_filled);
	pthread_mutex_unlock(&dev->pool_mutex);
}

/* ---- answers ---- */

static int dev_reply(struct request *request, int error, const struct iovec *iov, int nb_iov)
{
	struct transport_dev *dev = (struct transport_dev *)request->transport;
	fuse_req_t req = request->token;

	if (request->payload_owner)
		pool_put(dev, request->payload_owner);
	if (error || nb_iov == 0)
		return fuse_reply_err(req, -error);
	return fuse_reply_iov(req, iov, nb_iov);
}

static int dev_invalidate(struct transport *transport, uint64_t ino, uint64_t off,
			  uint64_t len_bytes)
{
	struct transport_dev *dev = (struct transport_dev *)transport;

	return fuse_lowlevel_notify_inval_inode(dev->session, ino, (off_t)off, (off_t)len_bytes);
}

/* ---- from libfuse's calls to requests ---- */

static struct request *begin(fuse_req_t req, enum request_op op, fuse_ino_t ino,
			     const struct fuse_file_info *fi)
{
	struct transport_dev *dev = fuse_req_userdata(req);
	struct request *request = request_get(dev->params.ops);

	if (!request) {
		fuse_reply_err(req, ENOMEM);
		return NULL;
	}
	request->transport = &dev->transport;
	request->token = req;
	request->op = op;
	request->ino = ino;
	if (fi) {
		request->fh = fi->fh;
		request->flags = (uint32_t)fi->flags;
	}
	return request;
}

static void dev_init(void *userdata, struct fuse_conn_info *conn)
{
	const struct transport_dev *dev = userdata;

	/*
	 * With AUTO_INVAL_DATA each write's new mtime would empty the page cache. With
	 * ATOMIC_O_TRUNC the kernel takes the size for 0 after an open with O_TRUNC, whatever
	 * the answer says; without, it asks for a truncation and believes what it hears.
	 */
	conn->want &= ~(unsigned)(FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_ATOMIC_O_TRUNC);
	conn->want |= conn->capable & (FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO |
				       FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_READDIRPLUS);
	if (dev->params.writeback_cache)
		conn->want |= conn->capable & FUSE_CAP_WRITEBACK_CACHE;
	conn->max_write = dev->params.ring ? transport_uring_payload_bytes(dev->params.ring)
					   : MAX_WRITE_BYTES;
	conn->max_read = dev->params.max_read_bytes;
	conn->max_background = MAX_BACKGROUND;
	conn->congestion_threshold = MAX_BACKGROUND;
}

static void dev_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct request *request;

	if (strlen(name) > REQUEST_NAME_MAX) {
		fuse_reply_err(req, ENAMETOOLONG);
		return;
	}
	request = begin(req, REQUEST_LOOKUP, parent, NULL);
	if (!request)
		return;
	strcpy(request->name, name);
	ops_dispatch(request);
}

/* Nodes live as long as the mount: there is nothing to count. */
static void dev_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup)
{
	fuse_reply_none(req);
}

static void dev_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	fuse_reply_none(req);
}

static void dev_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct request *request = begin(req, REQUEST_GETATTR, ino, fi);

	if (request)
		ops_dispatch(request);
}

static void dev_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
			struct fuse_file_info *fi)
{
	struct request *request = begin(req, REQUEST_SETATTR, ino, fi);

	if (!request)
		return;
	request->setattr_valid = (uint32_t)to_set;
	request->setattr_by_handle = fi != NULL;
	request->attr = *attr;
	ops_dispatch(request);
}

static void dev_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct request *request = begin(req, REQUEST_OPEN, ino, fi);

	if (request)
		ops_dispatch(request);
}

static void begin_range(fuse_req_t req, enum request_op op, fuse_ino_t ino, off_t offset,
			size_t len_bytes, const struct fuse_file_info *fi)
{
	struct request *request = begin(req, op, ino, fi);

	if (!request)
		return;
	request->offset = (uint64_t)offset;
	request->len_bytes = len_bytes;
	ops_dispatch(request);
}

static void dev_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		     struct fuse_file_info *fi)
{
	begin_range(req, REQUEST_READ, ino, off, size, fi);
}

static void dev_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
			struct fuse_file_info *fi)
{
	begin_range(req, REQUEST_READDIR, ino, off, size, fi);
}

static void dev_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
			    struct fuse_file_info *fi)
{
	begin_range(req, REQUEST_READDIRPLUS, ino, off, size, fi);
}

static void dev_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t off,
		      struct fuse_file_info *fi)
{
	struct request *request = begin(req, REQUEST_WRITE, ino, fi);

	if (!request)
		return;
	request->offset = (uint64_t)off;
	request->len_bytes = size;
	request->payload = data;
	if (size > COPY_BYTES_MAX) {
		request->payload_owner = current_buf;
		current_buf = NULL;
	} else if (size > 0) {
		request->buf = buf_get(size);
		request->buf_bytes = size;
		if (request->buf) {
			memcpy(request->buf, data, size);
			request->payload = request->buf;
		} else {
			request->payload_owner = current_buf;
			current_buf = NULL;
		}
	}
	ops_dispatch(request);
}

static void dev_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct request *request = begin(req, REQUEST_FLUSH, ino, fi);

	if (request)
		ops_dispatch(request);
}

static void dev_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct request *request = begin(req, REQUEST_RELEASE, ino, fi);

	if (request)
		ops_dispatch(request);
}

static void dev_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	struct request *request = begin(req, REQUEST_FSYNC, ino, fi);

	if (request)
		ops_dispatch(request);
}

static void dev_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct request *request = begin(req, REQUEST_STATFS, ino, NULL);

	if (request)
		ops_dispatch(request);
}

static void dev_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length,
			  struct fuse_file_info *fi)
{
	struct request *request = begin(req, REQUEST_FALLOCATE, ino, fi);

	if (!request)
		return;
	request->offset = (uint64_t)offset;
	request->len_bytes = (uint64_t)length;
	request->flags = (uint32_t)mode;
	ops_dispatch(request);
}

static void dev_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence,
		      struct fuse_file_info *fi)
{
	struct request *request = begin(req, REQUEST_LSEEK, ino, fi);

	if (!request)
		return;
	request->offset = (uint64_t)off;
	request->flags = (uint32_t)whence;
	ops_dispatch(request);
}

static void dev_copy_file_range(fuse_req_t req, fuse_ino_t ino_in, off_t off_in,
				struct fuse_file_info *fi_in, fuse_ino_t ino_out, off_t off_out,
				struct fuse_file_info *fi_out, size_t len, int flags)
{
	struct request *request = begin(req, REQUEST_COPY_FILE_RANGE, ino_in, fi_in);

	if (!request)
		return;
	request->offset = (uint64_t)off_in;
	request->len_bytes = len;
	request->ino_out = ino_out;
	request->offset_out = (uint64_t)off_out;
	ops_dispatch(request);
}

static void dev_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	struct request *request;

	/* A name that does not fit is none of ours. */
	if (strlen(name) > REQUEST_NAME_MAX) {
		fuse_reply_err(req, ENODATA);
		return;
	}
	request = begin(req, REQUEST_GETXATTR, ino, NULL);
	if (!request)
		return;
	strcpy(request->name, name);
	request->len_bytes = size;
	ops_dispatch(request);
}

static void dev_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	struct request *request = begin(req, REQUEST_LISTXATTR, ino, NULL);

	if (!request)
		return;
	request->len_bytes = size;
	ops_dispatch(request);
}

static const struct fuse_lowlevel_ops dev_ops = {
	.init = dev_init,
	.lookup = dev_lookup,
	.forget = dev_forget,
	.forget_multi = dev_forget_multi,
	.getattr = dev_getattr,
	.setattr = dev_setattr,
	.open = dev_open,
	.read = dev_read,
	.write = dev_write,
	.flush = dev_flush,
	.release = dev_release,
	.fsync = dev_fsync,
	.readdir = dev_readdir,
	.readdirplus = dev_readdirplus,
	.statfs = dev_statfs,
	.getxattr = dev_getxattr,
	.listxattr = dev_listxattr,
	.fallocate = dev_fallocate,
	.lseek = dev_lseek,
	.copy_file_range = dev_copy_file_range,
};

/* ---- the device ---- */

/* libfuse may ask for more than fits; the kernel never sends more than was negotiated. */
static ssize_t device_read(int fd, void *buf, size_t len_bytes, void *userdata)
{
	return read(fd, buf, len_bytes < MESSAGE_BYTES_MAX ? len_bytes : MESSAGE_BYTES_MAX);
}

/*
 * Adds to libfuse's answer to INIT what it cannot express. HANDLE_KILLPRIV_V2, without which
 * the kernel asks for the attribute security.capability before every buffered write: no
 * file here ever has set-id bits or capabilities to be dropped. And the ring.
 */
static ssize_t answer_init(struct transport_dev *dev, int fd, struct iovec *iov, int nb_iov)
{
	const struct fuse_out_header *header = iov[0].iov_base;
	struct fuse_init_out *out = iov[1].iov_base;
	bool with_ring = dev->params.ring && (dev->init_offered & FUSE_OVER_IO_URING);
	ssize_t res;

	if (header->error || nb_iov != 2 || iov[1].iov_len < sizeof(*out))
		return writev(fd, iov, nb_iov);
	out->flags |= dev->init_offered & FUSE_HANDLE_KILLPRIV_V2;
	if (with_ring) {
		out->flags |= FUSE_INIT_EXT;
		out->flags2 |= FUSE_OVER_IO_URING >> 32;
	}
	res = writev(fd, iov, nb_iov);
	if (with_ring && res >= 0)
		transport_uring_start(dev->params.ring, fd, &dev->transport);
	return res;
}

static ssize_t device_writev(int fd, struct iovec *iov, int nb_iov, void *userdata)
{
	struct transport_dev *dev = userdata;
	const struct fuse_out_header *header = iov[0].iov_base;
	ssize_t res;

	if (dev->init_unique && header->unique == dev->init_unique) {
		dev->init_unique = 0;
		return answer_init(dev, fd, iov, nb_iov);
	}
	res = writev(fd, iov, nb_iov);
	/* ENOENT: nobody waits any more; ENODEV: unmounted. Else somebody waits for ever. */
	if (res < 0 && errno != ENOENT && errno != ENODEV) {
		int err = errno;

		log_error("the kernel refused an answer: %s", strerror(err));
		errno = err;
	}
	return res;
}

static void note_init(struct transport_dev *dev, const void *message)
{
	const struct fuse_in_header *header = message;
	const struct fuse_init_in *in = (const void *)(header + 1);

	if (header->opcode != FUSE_INIT)
		return;
	dev->init_offered = in->flags;
	if (in->flags & FUSE_INIT_EXT)
		dev->init_offered |= (uint64_t)in->flags2 << 32;
	dev->init_unique = header->unique;
}

/* ---- threads ---- */

/* Before reading; false at the end. */
static bool take_turn(struct transport_dev *dev, bool may_park)
{
	bool ended;

	pthread_mutex_lock(&dev->turn_mutex);
	if (may_park && dev->nb_reading > 0) {
		dev->nb_parked++;
		while (!dev->nb_invitations && !dev->ended)
			pthread_cond_wait(&dev->invited, &dev->turn_mutex);
		dev->nb_parked--;
		if (dev->nb_invitations)
			dev->nb_invitations--;
	}
	dev->nb_reading++;
	ended = dev->ended;
	pthread_mutex_unlock(&dev->turn_mutex);
	return !ended;
}

/* After reading: somebody else must read while this thread is busy with what it got. */
static void leave_turn(struct transport_dev *dev, bool invite)
{
	pthread_mutex_lock(&dev->turn_mutex);
	dev->nb_reading--;
	if (invite && dev->nb_parked > dev->nb_invitations) {
		dev->nb_invitations++;
		pthread_cond_signal(&dev->invited);
	}
	pthread_mutex_unlock(&dev->turn_mutex);
}

static void end_turns(struct transport_dev *dev)
{
	pthread_mutex_lock(&dev->turn_mutex);
	dev->ended = true;
	pthread_cond_broadcast(&dev->invited);
	pthread_mutex_unlock(&dev->turn_mutex);
}

/* Handed to the reactor without a large copy or a system call that may block. */
static bool is_quick(const void *message)
{
	const struct fuse_in_header *header = message;

	return header->opcode == FUSE_READ ||
	       (header->opcode == FUSE_WRITE && header->len <= COPY_BYTES_MAX);
}

static void receive_one(struct transport_dev *dev, bool *quick, int *ret_result)
{
	struct fuse_buf message = {0};

	if (!current_buf)
		current_buf = pool_get(dev);
	message.mem = current_buf->area + PAGE_BYTES - WRITE_HEADER_BYTES;
	*ret_result = fuse_session_receive_buf(dev->session, &message);
	*quick = *ret_result <= 0 || is_quick(message.mem);
	leave_turn(dev, !*quick);
	if (*ret_result <= 0)
		return;
	note_init(dev, message.mem);
	/* Nothing can be interrupted, and the ring's requests are unknown to libfuse. */
	if (((const struct fuse_in_header *)message.mem)->opcode != FUSE_INTERRUPT)
		fuse_session_process_buf(dev->session, &message);
}

static void *receive(void *arg)
{
	struct transport_dev *dev = arg;
	uint64_t one = 1;
	bool quick = true;
	int res = 1;

	current_buf = NULL;
	while (!fuse_session_exited(dev->session) && take_turn(dev, quick)) {
		receive_one(dev, &quick, &res);
		if (res <= 0 && res != -EINTR && res != -EAGAIN)
			break;
	}
	end_turns(dev);
	if (current_buf)
		pool_put(dev, current_buf);
	if (atomic_fetch_sub(&dev->nb_running, 1) == 1 &&
	    write(dev->ended_fd, &one, sizeof(one)) < 0)
		log_error("cannot tell the end: %s", strerror(errno));
	return NULL;
}

int transport_dev_start(struct transport_dev *dev, int ended_fd)
{
	dev->ended_fd = ended_fd;
	dev->nb_running = dev->params.nb_threads;
	for (; dev->nb_threads < dev->params.nb_threads; dev->nb_threads++) {
		pthread_t *thread = &dev->threads[dev->nb_threads];
		int res = pthread_create(thread, NULL, receive, dev);

		if (res) {
			/* Fewer will do, none will not. */
			dev->nb_running -= dev->params.nb_threads - dev->nb_threads;
			return dev->nb_threads ? 0 : -res;
		}
		pthread_setname_np(*thread, "qf-receive");
	}
	return 0;
}

void transport_dev_join(struct transport_dev *dev)
{
	while (dev->nb_threads > 0)
		pthread_join(dev->threads[--dev->nb_threads], NULL);
}

/* ---- life ---- */

static void log_libfuse(enum fuse_log_level level, const char *fmt, va_list ap)
{
	char line[512];
	size_t len;

	vsnprintf(line, sizeof(line), fmt, ap);
	len = strlen(line);
	if (len > 0 && line[len - 1] == '\n')
		line[len - 1] = '\0';
	if (line[0])
		log_print(level >= FUSE_LOG_INFO ? LOG_LEVEL_INFO : LOG_LEVEL_ERROR, "%s", line);
}

static int session_new(struct transport_dev *dev)
{
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	int res = -EINVAL;

	fuse_set_log_func(log_libfuse);
	if (fuse_opt_add_arg(&args, "qcow2fs") < 0 || fuse_opt_add_arg(&args, "-o") < 0 ||
	    fuse_opt_add_arg(&args, dev->params.mount_words) < 0 ||
	    (dev->params.debug && fuse_opt_add_arg(&args, "-d") < 0))
		res = -ENOMEM;
	else
		dev->session = fuse_session_new(&args, &dev_ops, sizeof(dev_ops), dev);
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
	};
	dev->params = *params;
	pthread_mutex_init(&dev->turn_mutex, NULL);
	pthread_cond_init(&dev->invited, NULL);
	res = pool_init(dev, params->nb_threads + NB_SPARE_BUFFERS);
	if (res == 0)
		res = session_new(dev);
	if (res < 0) {
		transport_dev_destroy(dev);
		return res;
	}
	*ret_transport = dev;
	return 0;
}

int transport_dev_mount(struct transport_dev *dev, const char *mountpoint)
{
	static const struct fuse_custom_io device = {.read = device_read, .writev = device_writev};

	if (fuse_session_mount(dev->session, mountpoint) < 0)
		return -EIO;
	dev->mounted = true;
	return fuse_session_custom_io(dev->session, &device, fuse_session_fd(dev->session));
}

void transport_dev_destroy(struct transport_dev *dev)
{
	if (!dev)
		return;
	if (dev->mounted)
		fuse_session_unmount(dev->session);
	if (dev->session)
		fuse_session_destroy(dev->session);
	pool_finish(dev);
	pthread_cond_destroy(&dev->invited);
	pthread_mutex_destroy(&dev->turn_mutex);
	free(dev);
}
