/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * ops: the pool, the dispatch, and the requests that need no image: names,
 * attributes, opens. See ops.h.
 */
#include "fuse/ops.h"

#include "fuse/ops_int.h"
#include "fuse/zeros.h"
#include "io/buf.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

/* Names never change; attributes of a writable file do, by background work too (st_blocks). */
#define FOREVER_S (24u * 3600u)
#define ATTR_TIMEOUT_S 1u

/* The time that may pass between the two halves of an open with O_TRUNC. */
#define OPEN_TRUNC_NS 10000000000ull

#define NB_POOLED_REQUESTS 256u
/* Started as needed. The questions to a host that does not answer hold one each. */
#define NB_ASKERS 64u

/* ---- the pool ---- */

struct request *request_get(struct ops *ops)
{
	struct request *request;

	pthread_mutex_lock(&ops->pool_mutex);
	request = ops->free_requests;
	if (request)
		ops->free_requests = request->next;
	pthread_mutex_unlock(&ops->pool_mutex);
	if (!request)
		request = malloc(sizeof(*request));
	if (!request)
		return NULL;
	memset(request, 0, offsetof(struct request, name));
	memset(&request->setattr_valid, 0,
	       sizeof(*request) - offsetof(struct request, setattr_valid));
	request->ops = ops;
	return request;
}

void request_drop(struct request *request)
{
	struct ops *ops = request->ops;

	pthread_mutex_lock(&ops->pool_mutex);
	request->next = ops->free_requests;
	ops->free_requests = request;
	pthread_mutex_unlock(&ops->pool_mutex);
}

void request_free(struct request *request)
{
	if (request->buf != request->area)
		buf_put(request->buf, request->buf_bytes);
	request->buf = NULL;
}

static void request_put(struct request *request)
{
	struct ops *ops = request->ops;

	request_free(request);
	request_drop(request);
	atomic_fetch_sub(&ops->nb_active, 1);
}

int request_alloc(struct request *request, size_t len_bytes)
{
	request->buf = len_bytes <= request->area_bytes ? request->area : buf_get(len_bytes);
	request->buf_bytes = len_bytes;
	return request->buf ? 0 : -ENOMEM;
}

static enum stats_class class_of(enum request_op op)
{
	switch (op) {
	case REQUEST_READ:
		return STATS_READ;
	case REQUEST_WRITE:
		return STATS_WRITE;
	case REQUEST_FLUSH:
	case REQUEST_RELEASE:
	case REQUEST_FSYNC:
		return STATS_FLUSH;
	case REQUEST_FALLOCATE:
	case REQUEST_SETATTR:
		return STATS_SPACE;
	default:
		return STATS_OTHER;
	}
}

static void count(const struct request *request, int error, const struct iovec *iov, int nb_iov)
{
	struct stats *stats = request->node ? request->node->stats : NULL;
	uint64_t bytes = 0;

	if (!stats)
		return;
	if (request->op == REQUEST_WRITE && !error)
		bytes = request->changed_bytes;
	for (int i = 0; request->op == REQUEST_READ && i < nb_iov; i++)
		bytes += iov[i].iov_len;
	stats_note(stats, class_of(request->op), error, bytes, stats_now_ns() - request->start_ns);
}

void request_reply(struct request *request, int error, const struct iovec *iov, int nb_iov)
{
	request->transport->reply(request, error, iov, nb_iov);
	count(request, error, iov, nb_iov);
	request_put(request);
}

void request_reply_buf(struct request *request, const void *buf, size_t len_bytes)
{
	struct iovec iov = {.iov_base = (void *)buf, .iov_len = len_bytes};

	request_reply(request, 0, &iov, 1);
}

void request_run(struct request *request, void (*fn)(void *arg))
{
	struct reactor *reactor = request->ops->params.reactor;

	request->task = (struct task){.fn = fn, .arg = request};
	if (reactor_is_current(reactor))
		reactor_spawn(reactor, &request->task);
	else
		reactor_post(reactor, &request->task);
}

/* ---- attributes ---- */

static void fill_attr(const struct node *node, struct fuse_attr *ret_attr)
{
	uint64_t host_sectors = node->disk ? image_host_sectors(node->disk->base) : 0;
	struct stat st;

	node_stat(node, host_sectors, &st);
	*ret_attr = (struct fuse_attr){
		.ino = st.st_ino,
		.size = (uint64_t)st.st_size,
		.blocks = (uint64_t)st.st_blocks,
		.atime = (uint64_t)st.st_atim.tv_sec,
		.mtime = (uint64_t)st.st_mtim.tv_sec,
		.ctime = (uint64_t)st.st_ctim.tv_sec,
		.atimensec = (uint32_t)st.st_atim.tv_nsec,
		.mtimensec = (uint32_t)st.st_mtim.tv_nsec,
		.ctimensec = (uint32_t)st.st_ctim.tv_nsec,
		.mode = st.st_mode,
		.nlink = (uint32_t)st.st_nlink,
		.uid = st.st_uid,
		.gid = st.st_gid,
		.blksize = (uint32_t)st.st_blksize,
	};
}

static uint64_t attr_timeout_s(const struct node *node)
{
	return node->writable ? ATTR_TIMEOUT_S : FOREVER_S;
}

static void fill_entry(const struct node *node, struct fuse_entry_out *ret_entry)
{
	*ret_entry = (struct fuse_entry_out){
		.nodeid = node->ino,
		.entry_valid = FOREVER_S,
		.attr_valid = attr_timeout_s(node),
	};
	fill_attr(node, &ret_entry->attr);
}

void reply_attr(struct request *request)
{
	struct fuse_attr_out out = {.attr_valid = attr_timeout_s(request->node)};

	fill_attr(request->node, &out.attr);
	request_reply_buf(request, &out, sizeof(out));
}

static int64_t wanted_time(struct timespec time, bool now)
{
	int64_t time_ns;

	if (now)
		clock_gettime(CLOCK_REALTIME, &time);
	/* Beyond the years 1677 and 2262 it is one of them. */
	if (__builtin_mul_overflow((int64_t)time.tv_sec, (int64_t)1000000000, &time_ns) ||
	    __builtin_add_overflow(time_ns, (int64_t)time.tv_nsec, &time_ns))
		return time.tv_sec < 0 ? INT64_MIN : INT64_MAX;
	return time_ns;
}

/*
 * Owner, permissions and times live as long as the mount, as those of a device
 * node do: cp -p and rsync succeed, and nothing of it belongs into the image.
 */
static void set_attributes(struct request *request)
{
	struct node *node = request->node;
	const struct stat *attr = &request->attr;
	uint32_t valid = request->setattr_valid;

	if (valid & FATTR_MODE)
		node->mode = attr->st_mode & 0777;
	if (valid & FATTR_UID)
		node->uid = attr->st_uid;
	if (valid & FATTR_GID)
		node->gid = attr->st_gid;
	if (valid & FATTR_ATIME)
		node->atime_ns = wanted_time(attr->st_atim, valid & FATTR_ATIME_NOW);
	if (valid & FATTR_MTIME)
		node->mtime_ns = wanted_time(attr->st_mtim, valid & FATTR_MTIME_NOW);
	node->ctime_ns = wanted_time(attr->st_ctim, true);
	reply_attr(request);
}

/* ---- names ---- */

static void handle_lookup(struct request *request)
{
	struct node *node = tree_lookup(request->ops->params.tree, request->node, request->name);
	struct fuse_entry_out out;

	if (node) {
		fill_entry(node, &out);
	} else {
		/* Node 0: the name does not exist, and the kernel may remember that. */
		out = (struct fuse_entry_out){.entry_valid = FOREVER_S};
	}
	request_reply_buf(request, &out, sizeof(out));
}

/* Position in a directory: 0 ".", 1 "..", then 1 + inode of the child. */
static const struct node *entry_at(const struct request *request, uint64_t *position,
				   const char **ret_name)
{
	const struct tree *tree = request->ops->params.tree;
	const struct node *dir = request->node, *child;

	switch (*position) {
	case 0:
		*ret_name = ".";
		return dir;
	case 1:
		*ret_name = "..";
		return dir->parent ? dir->parent : dir;
	default:
		child = tree_next_child(tree, dir, *position - 1);
		if (!child)
			return NULL;
		*position = child->ino + 1;
		*ret_name = child->name;
		return child;
	}
}

static void fill_dirent(struct fuse_dirent *dirent, const struct node *node, const char *name,
			uint64_t next_position)
{
	dirent->ino = node->ino;
	dirent->off = next_position;
	dirent->namelen = (uint32_t)strlen(name);
	dirent->type = (node->is_dir ? S_IFDIR : S_IFREG) >> 12;
	memcpy(dirent->name, name, dirent->namelen);
}

static void handle_readdir(struct request *request)
{
	bool plus = request->op == REQUEST_READDIRPLUS;
	uint64_t position = request->offset;
	const struct node *node;
	const char *name;
	size_t used = 0;

	if (!request->node->is_dir) {
		request_reply_error(request, -ENOTDIR);
		return;
	}
	if (request->len_bytes == 0 ||
	    request_alloc(request, request->len_bytes < BUF_MAX_BYTES ? request->len_bytes
								      : BUF_MAX_BYTES) < 0) {
		request_reply_error(request, request->len_bytes ? -ENOMEM : -EINVAL);
		return;
	}
	while ((node = entry_at(request, &position, &name))) {
		size_t len = strlen(name);
		size_t bytes = plus ? FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET_DIRENTPLUS + len)
				    : FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + len);
		char *at = (char *)request->buf + used;

		if (used + bytes > request->buf_bytes)
			break;
		memset(at, 0, bytes);
		if (plus) {
			struct fuse_direntplus *entry = (struct fuse_direntplus *)at;

			/* Node 0 for "." and "..": the kernel looks nothing up for these. */
			if (position >= 2)
				fill_entry(node, &entry->entry_out);
			fill_dirent(&entry->dirent, node, name, position + 1);
		} else {
			fill_dirent((struct fuse_dirent *)at, node, name, position + 1);
		}
		used += bytes;
		position++;
	}
	request_reply_buf(request, request->buf, used);
}

/* ---- open, release ---- */

/* A file is counted from its first open on. */
static void begin_stats(struct node *node)
{
	struct stats *none = NULL, *stats;

	if (node->stats)
		return;
	stats = calloc(1, sizeof(*stats));
	if (stats && !atomic_compare_exchange_strong(&node->stats, &none, stats))
		free(stats);
}

/*
 * Direct opens bypass the page cache, and their writes may run in parallel. All others
 * use it and find what earlier opens left there.
 */
void reply_open(struct request *request)
{
	struct ops *ops = request->ops;
	struct node *node = request->node;
	struct fuse_open_out out = {0};

	if ((request->flags & O_ACCMODE) != O_RDONLY) {
		out.fh |= FH_WRITABLE;
		node->write_open_ns = request->start_ns;
	}
	if ((request->flags & O_DIRECT) || ops->params.cache == CACHE_NONE) {
		out.fh |= FH_DIRECT;
		out.open_flags = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES;
		atomic_fetch_add(&node->nb_direct_opens, 1);
	} else {
		atomic_fetch_add(&node->nb_cached_opens, 1);
		/* What mappings of direct opens have left there nobody has kept right. */
		if (atomic_exchange(&node->maybe_cached, true))
			out.open_flags = FOPEN_KEEP_CACHE;
	}
	begin_stats(node);
	atomic_fetch_add(&ops->nb_opens, 1);
	request_reply_buf(request, &out, sizeof(out));
}

static void handle_open(struct request *request)
{
	struct node *node = request->node;

	bool writes = (request->flags & O_ACCMODE) != O_RDONLY;

	if (writes && !node->writable)
		request_reply_error(request, -EROFS);
	else if (writes && node_begin_writing(node) < 0)
		request_run(request, ops_run_open_busy);
	else if (node->disk->view)
		request_run(request, ops_run_open_view);
	else
		reply_open(request);
}

/* close(2) waits for FLUSH, so that an image is complete when a program that wrote it ends. */
static void handle_flush(struct request *request)
{
	if (request->fh & FH_WRITABLE)
		request_run(request, ops_run_flush);
	else
		request_reply_error(request, 0);
}

static void handle_release(struct request *request)
{
	if (request->fh & FH_WRITABLE)
		node_end_writing(request->node);
	atomic_fetch_sub(request->fh & FH_DIRECT ? &request->node->nb_direct_opens
						 : &request->node->nb_cached_opens,
			 1);
	atomic_fetch_sub(&request->ops->nb_opens, 1);
	if (request->node->disk->view)
		request_run(request, ops_run_release_view);
	else
		handle_flush(request);
}

/* ---- statfs ---- */

/* df takes free from total: more than the total must not be free. */
static uint64_t fitting_blocks(const struct fuse_kstatfs *st, uint64_t bytes)
{
	uint64_t blocks = bytes / st->bsize;

	return blocks < st->blocks ? blocks : st->blocks;
}

/* The disks' sizes, and what is left where the first of them is stored. */
static void handle_statfs(struct request *request)
{
	const struct tree *tree = request->ops->params.tree;
	struct fuse_statfs_out out = {.st = {.bsize = 4096, .frsize = 4096, .namelen = 255}};
	const struct image *image = NULL;
	struct statvfs host;

	for (const struct tree_disk *disk = tree->disks; disk; disk = disk->next) {
		if (!disk->image)
			continue;    /* snapshots, which take no room of their own */
		image = disk->image; /* at the end: of the first one that was added */
		out.st.blocks += (disk->whole->size_bytes + out.st.bsize - 1) / out.st.bsize;
		out.st.files++;
	}
	if (image) {
		const struct file *file = image_data_file(image, 0);

		if (!file)
			file = image_file(image, 0);
		if (file && fstatvfs(file->fd, &host) == 0) {
			out.st.bfree = fitting_blocks(&out.st, host.f_bfree * host.f_frsize);
			out.st.bavail = fitting_blocks(&out.st, host.f_bavail * host.f_frsize);
		}
	}
	request_reply_buf(request, &out, sizeof(out));
}

/* ---- dispatch ---- */

/*
 * O_TRUNC is ignored, as on a block device, so that "> disk.raw" and cp behave as they do
 * there. It arrives as a truncation of the name to 0 right after an open; one at another
 * time, or of an open file, is meant.
 */
static bool is_open_trunc(const struct request *request)
{
	return request->attr.st_size == 0 && !request->setattr_by_handle &&
	       node_was_opened_within(request->node, OPEN_TRUNC_NS, request->start_ns);
}

static void handle_setattr(struct request *request)
{
	if (!(request->setattr_valid & FATTR_SIZE))
		set_attributes(request);
	else if (is_open_trunc(request))
		reply_attr(request);
	else
		request_run(request, ops_run_truncate);
}

/* Whether it is answered. */
static bool read_at_once(struct request *request)
{
	if (!request->past_cache && !request->node->cache_was_read)
		request->node->cache_was_read = true;
	if (request->len_bytes > 0 && request->len_bytes <= BUF_MAX_BYTES)
		return ops_read_at_once(request);
	request_reply_error(request, request->len_bytes ? -EINVAL : 0);
	return true;
}

struct handler {
	bool (*at_once)(struct request *request); /* whether it could, where it was dispatched */
	void (*fn)(struct request *request);      /* the same without fail, or else: */
	void (*run)(void *arg);                   /* on the reactor, a coroutine_fn */
	bool asks_host;                           /* fn may wait for the host's file system */
	bool writes;                              /* to request->node */
	bool any_node;                            /* directories too */
};

static const struct handler handlers[REQUEST_COUNT] = {
	[REQUEST_LOOKUP] = {.fn = handle_lookup, .asks_host = true, .any_node = true},
	[REQUEST_GETATTR] = {.fn = reply_attr, .asks_host = true, .any_node = true},
	[REQUEST_SETATTR] = {.fn = handle_setattr, .asks_host = true, .any_node = true},
	[REQUEST_OPEN] = {.fn = handle_open},
	[REQUEST_READ] = {.at_once = read_at_once, .run = ops_run_read},
	[REQUEST_WRITE] = {.run = ops_run_write, .writes = true},
	[REQUEST_FLUSH] = {.fn = handle_flush},
	[REQUEST_RELEASE] = {.fn = handle_release},
	[REQUEST_FSYNC] = {.run = ops_run_flush},
	[REQUEST_FSYNCDIR] = {.run = ops_run_flush_all, .any_node = true},
	[REQUEST_READDIR] = {.fn = handle_readdir, .asks_host = true, .any_node = true},
	[REQUEST_READDIRPLUS] = {.fn = handle_readdir, .asks_host = true, .any_node = true},
	[REQUEST_STATFS] = {.fn = handle_statfs, .asks_host = true, .any_node = true},
	[REQUEST_GETXATTR] = {.fn = handle_getxattr, .any_node = true},
	[REQUEST_LISTXATTR] = {.fn = handle_listxattr, .any_node = true},
	[REQUEST_FALLOCATE] = {.run = ops_run_fallocate, .writes = true},
	[REQUEST_LSEEK] = {.run = ops_run_lseek},
	[REQUEST_COPY_FILE_RANGE] = {.run = ops_run_copy},
};

static void ask_host(void *arg)
{
	struct request *request = arg;

	handlers[request->op].fn(request);
}

static void ask_attr(void *arg)
{
	reply_attr(arg);
}

/* Whoever receives, the reactor or a thread, waits for nobody: a helper does. */
static void leave_to_asker(struct request *request, void (*ask)(void *arg))
{
	request->job = (struct worker_job){.fn = ask, .arg = request};
	worker_submit(request->ops->askers, &request->job);
}

void reply_attr_from_asker(struct request *request)
{
	leave_to_asker(request, ask_attr);
}

bool ops_dispatch(struct request *request)
{
	struct ops *ops = request->ops;
	const struct handler *handler = &handlers[request->op];

	/*
	 * Without being counted, or clients that ask again and again would keep drain() waiting. It
	 * may begin just after this: hence the second look.
	 */
	if (ops->closing) {
		request->transport->reply(request, -EIO, NULL, 0);
		request_free(request); /* a write's data */
		request_drop(request);
		return false;
	}
	atomic_fetch_add(&ops->nb_active, 1);
	request->start_ns = stats_now_ns();
	ops->last_request_ns = request->start_ns;
	if (!ops->quiet_armed)
		quiet_arm(ops, request->transport);
	request->node = tree_get(ops->params.tree, request->ino);
	if (ops->closing)
		request_reply_error(request, -EIO);
	else if (!request->node)
		request_reply_error(request, -ENOENT);
	else if (request->node->is_dir && !handler->any_node)
		request_reply_error(request, -EISDIR);
	else if (handler->writes && !request->node->writable)
		request_reply_error(request, -EROFS);
	else if (handler->asks_host)
		leave_to_asker(request, ask_host);
	else if (handler->at_once && handler->at_once(request))
		return true;
	else if (handler->fn)
		handler->fn(request);
	else
		request_run(request, handler->run);
	return false;
}

/* ---- life ---- */

static void free_pool(struct ops *ops)
{
	while (ops->free_requests) {
		struct request *request = ops->free_requests;

		ops->free_requests = request->next;
		free(request);
	}
}

static int fill_pool(struct ops *ops)
{
	for (unsigned i = 0; i < NB_POOLED_REQUESTS; i++) {
		struct request *request = malloc(sizeof(*request));

		if (!request)
			return -ENOMEM;
		request->next = ops->free_requests;
		ops->free_requests = request;
	}
	return 0;
}

int ops_create(const struct ops_params *params, struct ops **ret_ops)
{
	struct ops *ops = calloc(1, sizeof(*ops));
	int res;

	if (!ops)
		return -ENOMEM;
	ops->params = *params;
	ops->last_request_ns = stats_now_ns();
	pthread_mutex_init(&ops->pool_mutex, NULL);
	res = zeros_map(&ops->zeros);
	if (res == 0)
		res = fill_pool(ops);
	if (res == 0)
		res = worker_pool_create(NB_ASKERS, &ops->askers);
	if (res == 0)
		res = invalidators_start(ops);
	if (res < 0)
		goto fail;
	*ret_ops = ops;
	return 0;
fail:
	ops_destroy(ops);
	return res;
}

/* The count falls on several threads, and waking a coroutine from them all would cost every
 * request something: looking once a millisecond is enough for an end. */
static void coroutine_fn drain(void *arg)
{
	struct ops *ops = arg;

	/* A coroutine whose answer a worker has sent may not have run on yet. */
	while (ops->nb_active > 0 || ops->read_bytes > 0)
		co_sleep(1000000);
	quiet_stop(ops);
}

uint64_t ops_idle_ns(const struct ops *ops)
{
	uint64_t last_ns = ops->last_request_ns, now_ns = stats_now_ns();

	return ops->nb_opens || now_ns < last_ns ? 0 : now_ns - last_ns;
}

void ops_drain(struct ops *ops)
{
	ops->closing = true;
	reactor_run(ops->params.reactor, drain, ops);
	invalidators_stop(ops);
}

void ops_destroy(struct ops *ops)
{
	if (!ops)
		return;
	invalidators_stop(ops);
	worker_pool_destroy(ops->askers);
	free_pool(ops);
	zeros_unmap(ops->zeros);
	pthread_mutex_destroy(&ops->pool_mutex);
	free(ops);
}
