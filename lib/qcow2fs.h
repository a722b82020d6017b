/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * qcow2fs: qcow2 disk images from a program of your own: read, written, mapped and
 * checked as qcow2fs and qcow2tool do it, without a mount.
 *
 *	struct qf_context *context;
 *	struct qf_image *image;
 *	char sector[512], *message;
 *
 *	if (qf_context_create(NULL, &context) < 0)
 *		...
 *	if (qf_open(context, "vm.qcow2", NULL, &image, &message) < 0)
 *		errx(1, "vm.qcow2: %s", message);
 *	if (qf_pread(image, sector, sizeof(sector), 0) < 0)
 *		...
 *	qf_close(image);
 *	qf_context_destroy(context);
 *
 * A context is one thread that does the work of all images opened in it, and its pool of
 * threads for decompression. An image is open until qf_close(). Each operation exists in
 * two forms: a blocking function, and a request that qf_submit() hands over and whose
 * completion arrives by a callback or in a queue (with a file descriptor for poll(2)).
 *
 * Conventions, for every function unless it says otherwise:
 *
 * Threads     Any thread may call it, at any time, also several at once for one context
 *             or image. Blocking functions wait for the context's thread, so they fail
 *             with -EDEADLK inside a completion callback, which runs on that thread.
 * Results     0 (or a count), or a negative errno value; errno itself is not set. Where
 *             a `ret_message` is taken, a failure stores one line of text for a person
 *             there (NULL when memory has run out), to be freed with free(). It may be NULL.
 * Units       Offsets and lengths are bytes, of any alignment; multiples of
 *             qf_info.block_size in memory, offset and length are fastest.
 * Ownership   What the caller passes stays the caller's and must live until the call
 *             returns; for a request, until its completion.
 * Structures  `size` is sizeof(the structure) and set by the caller: {.size = sizeof(x)}.
 *             Later versions of this library append members; zero means the default.
 *             -E2BIG: members that this library does not know are not zero.
 *             -EINVAL: `size` is below that of the first version.
 *
 * The library prints nothing, ends no process, and its threads take no asynchronous signals.
 * Images in use by QEMU or qcow2fs are protected by the same locks. A child of
 * fork(2) must not use what its parent created.
 */
#ifndef QCOW2FS_H
#define QCOW2FS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define QF_API __attribute__((visibility("default")))

/* The version of the library, "0.1.0". A constant. */
QF_API const char *qf_version(void);

/* ---- contexts ---- */

struct qf_context;

/* How a context reaches the disk. */
enum qf_engine {
	QF_ENGINE_AUTO,    /* io_uring where permitted, else threads */
	QF_ENGINE_URING,   /* io_uring */
	QF_ENGINE_THREADS, /* blocking system calls in a pool of threads */
	QF_ENGINE_SYNC,    /* blocking system calls in the context's thread, one at a time */
};

struct qf_context_options {
	uint32_t size;
	uint32_t engine;      /* enum qf_engine */
	uint32_t nb_workers;  /* threads that decompress, at most 64; 0: one per processor, at least
				 2 */
	uint32_t nb_requests; /* requests at work at once, at most 4096, others wait; 0: 256 */
};

/*
 * Makes a context and starts its thread. `options` may be NULL.
 * Errors: -EINVAL, -E2BIG; -ENOMEM; -EAGAIN (no thread); -EPERM, -ENOSYS and others when
 * QF_ENGINE_URING was asked for and io_uring is not available.
 */
QF_API int qf_context_create(const struct qf_context_options *options,
			     struct qf_context **ret_context);

/*
 * Ends the threads and frees the context. Errors: -EBUSY while an image or a check is open in
 * it, -EDEADLK in a callback. NULL is allowed.
 */
QF_API int qf_context_destroy(struct qf_context *context);

/* The engine in use: "io_uring", "threads" or "sync". A constant. */
QF_API const char *qf_context_engine(const struct qf_context *context);

/* ---- images ---- */

struct qf_image;

enum qf_open_flags {
	QF_OPEN_WRITABLE = 1 << 0,    /* otherwise read-only */
	QF_OPEN_FORCE_SHARE = 1 << 1, /* read beside a writer; excludes WRITABLE */
	QF_OPEN_RAW = 1 << 2,         /* not qcow2: the file's bytes are the disk's; read-only */
	QF_OPEN_NO_BACKING =
		1 << 3, /* the image alone; what its backing files hold reads as zeros */
	QF_OPEN_PAGE_CACHE = 1 << 4, /* through the host's page cache instead of direct I/O */
};

/* Which names inside an image are followed to backing files. */
enum qf_names {
	QF_NAMES_AUTO,    /* in the caller's own image any, in somebody else's those beneath it */
	QF_NAMES_ANY,     /* any plain path */
	QF_NAMES_BENEATH, /* beneath the folder of the image that holds the name */
	QF_NAMES_NONE,    /* none */
};

struct qf_open_options {
	uint32_t size;
	uint32_t flags;           /* QF_OPEN_* */
	const char *snapshot;     /* id or name of an internal snapshot: that state, read-only */
	const char *backing_file; /* path instead of the name in the image */
	const char *data_file;    /* likewise for the external data file */
	uint64_t l2_cache_bytes;  /* 0: what covers the image, up to 128 MiB */
	uint32_t names;           /* enum qf_names */
	uint32_t reserved;        /* 0 */
};

/*
 * Opens the image at `path` and its chain of backing files: takes the locks, then looks
 * at the headers. Writes nothing, except that opening an image for writing that was not
 * closed properly rebuilds its refcounts. `options` may be NULL.
 * Errors: -EINVAL (also: no qcow2 image), -E2BIG; -ENOTSUP: a feature of the image that this
 * library does not know; -EAGAIN: in use, here or in another process; and those of
 * open(2). The message tells why; where it is not about `path`, also which file.
 */
QF_API int qf_open(struct qf_context *context, const char *path,
		   const struct qf_open_options *options, struct qf_image **ret_image,
		   char **ret_message);

/*
 * Waits for the image's requests, writes back, makes everything durable, drops the locks.
 * The image is gone, whatever is returned. No request may be submitted meanwhile or later.
 * Errors: those of the last write-back; -EDEADLK (then it stays open). NULL is allowed.
 */
QF_API int qf_close(struct qf_image *image);

enum qf_info_flags {
	QF_INFO_WRITABLE = 1 << 0,
	QF_INFO_EXTENDED_L2 = 1 << 1,
	QF_INFO_ZSTD = 1 << 2, /* what is compressed, is so with zstd, not zlib */
	QF_INFO_LAZY_REFCOUNTS = 1 << 3,
	QF_INFO_RAW = 1 << 4,
};

/* Strings live until qf_close(). */
struct qf_info {
	uint32_t size;
	uint32_t flags; /* QF_INFO_* */
	uint64_t virtual_size;
	uint32_t cluster_size; /* bytes, a power of two */
	uint32_t block_size;   /* alignment for direct I/O, a power of two */
	uint32_t version;      /* of the format: 2 or 3; 0: raw */
	uint32_t refcount_bits;
	uint32_t depth; /* files in the chain, this one included */
	uint32_t nb_snapshots;
	const char *backing_file;   /* as recorded in the image, or NULL */
	const char *backing_format; /* likewise */
	const char *data_file;      /* likewise */
};

/* Never blocks: callbacks may call it. Errors: -EINVAL. */
QF_API int qf_get_info(const struct qf_image *image, struct qf_info *info);

/* Strings live until qf_close(). */
struct qf_snapshot {
	uint32_t size;
	uint32_t date_nsec;
	const char *id, *name;
	uint64_t virtual_size;   /* bytes */
	uint64_t date_sec;       /* since 1970 */
	uint64_t vm_clock_nsec;  /* how long the machine had run */
	uint64_t vm_state_bytes; /* 0: of the disk alone */
};

/*
 * The internal snapshot number `index`, from 0 to qf_info.nb_snapshots - 1.
 * Never blocks. Errors: -ENOENT beyond the last, -EINVAL.
 */
QF_API int qf_get_snapshot(const struct qf_image *image, unsigned index,
			   struct qf_snapshot *snapshot);

/* ---- what is where ---- */

enum qf_extent_kind {
	QF_EXTENT_HOLE,       /* no file of the chain has it: reads as zeros */
	QF_EXTENT_ZERO,       /* recorded as zeros */
	QF_EXTENT_DATA,       /* data, as they are */
	QF_EXTENT_COMPRESSED, /* data, compressed */
};

enum qf_extent_flags {
	QF_EXTENT_HAS_HOST_OFF = 1 << 0, /* host_off is meaningful */
	QF_EXTENT_HOST_HOLE = 1 << 1,    /* DATA whose host file has a hole there: zeros */
};

struct qf_extent {
	uint64_t guest_off, len_bytes;
	uint64_t host_off; /* in the file at `depth`, or its external data file */
	uint32_t kind;     /* enum qf_extent_kind */
	uint32_t flags;    /* QF_EXTENT_* */
	uint32_t depth;    /* 0: the image itself, 1: its backing file, ... */
	uint32_t reserved[5];
};

/* ---- requests ---- */

enum qf_op {
	QF_OP_READ,    /* [guest_off, guest_off + len_bytes) to read_buf */
	QF_OP_WRITE,   /* write_buf to the range */
	QF_OP_ZERO,    /* the range reads as zeros; its host clusters stay reserved */
	QF_OP_DISCARD, /* the range reads as zeros; its host clusters are given back */
	QF_OP_FLUSH,   /* what had completed before is durable after */
	QF_OP_MAP,     /* *extent: what is at guest_off, at most len_bytes long */
};

struct qf_queue;

/*
 * One operation. The caller owns it and its buffer, sets everything down to `user` (the rest
 * need not be set), and touches none of it between qf_submit() and completion.
 *
 * Requests run side by side and complete in any order; of two that overlap and are under way
 * together, at least one a write, the outcome per block is that of some order. A flush
 * covers what had completed when it was submitted.
 *
 * With `done`, that is called on the context's thread, on a stack of which about 32 KiB are free:
 * it must not block; it may submit requests, this one included. Otherwise the request
 * appears in `queue`.
 *
 * result: 0: all of it was done, or
 *   -EINVAL   the range leaves the disk (READ), or is empty or begins beyond it (MAP)
 *   -ENOSPC   it leaves it (WRITE, ZERO, DISCARD), or the host has no space left
 *   -EROFS    the image is not open for writing
 *   -EIO      the host failed, or the image contradicts itself there
 *   and what the host's file system reports. Reading a part of a range that fails leaves
 *   undefined what is in the buffer. After a failed FLUSH no later one succeeds.
 */
struct qf_request {
	struct qf_image *image;
	uint32_t op;    /* enum qf_op */
	uint32_t flags; /* 0 */
	uint64_t guest_off, len_bytes;
	union {
		void *read_buf;
		const void *write_buf;
		struct qf_extent *extent;
	};
	void (*done)(struct qf_request *request);
	struct qf_queue *queue;
	void *user; /* the library does not look at it */

	int32_t result;
	int32_t reserved;
	void *internal[7];
};

/*
 * Hands a request over. Never blocks. Errors: -EINVAL: no image, unknown op or flags, neither done
 * nor queue. Then there will be no completion.
 */
QF_API int qf_submit(struct qf_request *request);

/*
 * A queue of completed requests, of any images and contexts, for one or more threads.
 * Errors: -ENOMEM, -EMFILE.
 */
QF_API int qf_queue_create(struct qf_queue **ret_queue);

/* No request may be under way to it. What it still holds is forgotten. NULL is allowed. */
QF_API void qf_queue_destroy(struct qf_queue *queue);

/*
 * A descriptor that poll(2), epoll(7) and io_uring report as readable while the queue is not
 * empty. Only to be waited for: reading and closing it belong to the library.
 */
QF_API int qf_queue_fd(const struct qf_queue *queue);

/*
 * Takes up to `nb_max` completed requests out of the queue, the oldest first, and waits up to
 * timeout_ms for the first one (0: does not wait, callbacks may; -1: for ever). Returns how many.
 * Errors: -EINVAL: nb_max is 0.
 */
QF_API int qf_reap(struct qf_queue *queue, struct qf_request **ret_requests, unsigned nb_max,
		   int timeout_ms);

/* ---- the blocking form ---- */

/*
 * Each does what the request of its name does, waits, and returns the request's result: 0 when
 * all bytes were transferred (never a short count).
 */
QF_API int qf_pread(struct qf_image *image, void *buf, size_t len_bytes, uint64_t guest_off);
QF_API int qf_pwrite(struct qf_image *image, const void *buf, size_t len_bytes, uint64_t guest_off);
QF_API int qf_zero(struct qf_image *image, uint64_t guest_off, uint64_t len_bytes);
QF_API int qf_discard(struct qf_image *image, uint64_t guest_off, uint64_t len_bytes);
QF_API int qf_flush(struct qf_image *image);
/* A long run may take several calls: go on at guest_off + extent->len_bytes. */
QF_API int qf_map(struct qf_image *image, uint64_t guest_off, uint64_t max_bytes,
		  struct qf_extent *extent);

/*
 * Sets the virtual size, rounded up to a multiple of 512; new space reads as zeros. Waits for the
 * image's requests; later ones wait for it. Shrinking throws away what is cut off.
 * Errors: -EROFS; -EFBIG; -ENOTSUP: version 2 with internal snapshots; -ENOSPC, -EIO.
 */
QF_API int qf_resize(struct qf_image *image, uint64_t virtual_size);

/* ---- checking ---- */

enum qf_repair {
	QF_REPAIR_NOTHING, /* only look; nothing is written */
	QF_REPAIR_LEAKS,   /* give leaked clusters back */
	QF_REPAIR_ALL,     /* everything that needs no guess about the guest's data */
};

struct qf_check_options {
	uint32_t size;
	uint32_t repair; /* enum qf_repair */
	uint32_t flags;  /* QF_OPEN_FORCE_SHARE, QF_OPEN_PAGE_CACHE or 0 */
	uint32_t reserved;
	/* One line of text per finding, on the context's thread as `done` is; NULL: none. */
	void (*say)(void *user, const char *line);
	void *user;
};

enum qf_check_flags {
	QF_CHECK_DIRTY = 1 << 0,   /* the header says: refcounts may be out of date */
	QF_CHECK_CORRUPT = 1 << 1, /* the header says: corrupt */
};

/* The figures of `qemu-img check --output=json`. After a repair: what is left. */
struct qf_check_report {
	uint32_t size;
	uint32_t flags; /* QF_CHECK_* */
	uint64_t leaks, corruptions;
	uint64_t check_errors; /* places that could not be looked at */
	uint64_t leaks_fixed, corruptions_fixed;
	uint64_t image_end_offset; /* bytes: behind the last cluster in use */
	uint64_t total_clusters;   /* of the virtual disk */
	uint64_t allocated_clusters, fragmented_clusters, compressed_clusters;
};

/*
 * Checks the image at `path`, which must not be open for writing (for a repair: not at all).
 * Returns 0 when the check was carried out, whatever it found. `options` may be NULL.
 * Errors: those of qf_open(), and -EIO, -ENOMEM; *report is undefined then.
 */
QF_API int qf_check(struct qf_context *context, const char *path,
		    const struct qf_check_options *options, struct qf_check_report *report,
		    char **ret_message);

#ifdef __cplusplus
}
#endif

#endif
