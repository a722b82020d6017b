/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * file: a host file or block device, as the core sees it.
 *
 * The file is opened O_DIRECT where its file system allows that. `align` is the
 * block size: every offset, length and buffer that goes to an engine is a
 * multiple of it. Callers may use any offset, length and buffer: reads are
 * widened and answered from a bounce buffer, writes that cover a block in part
 * read, modify and write it under a range lock. Reads beyond the end of the file
 * yield zeros. EINTR, EAGAIN and short transfers are repeated here and never
 * reach the caller.
 *
 * Thread model: everything but file_open*(), file_close(), and what is marked [any thread]
 * belongs to the coroutines of the reactor that the file was opened for.
 */
#ifndef QCOW2FS_IO_FILE_H
#define QCOW2FS_IO_FILE_H

#include "io/co_sync.h"
#include "io/engine.h"
#include "io/error.h"

#include <stdatomic.h>
#include <sys/types.h>

/* How requests reach the kernel; chosen at open. */
enum file_path {
	FILE_DIRECT,   /* O_DIRECT: through the engine's asynchronous path */
	FILE_BUFFERED, /* page cache: try without blocking first, then asynchronously */
	FILE_MEMORY,   /* tmpfs and the like never block: plain system calls */
};

struct file_stats {
	uint64_t nb_reads, nb_writes, nb_flushes, nb_other;
	uint64_t read_bytes, written_bytes;
	uint64_t nb_bounced;   /* requests that were widened or copied for alignment */
	uint64_t nb_fallbacks; /* punch, zero or allocate that the file system refused */
	uint64_t nb_errors;
};

/*
 * Public fields are written by io/ only, and valid until file_close().
 */
struct file {
	struct engine *engine;
	struct reactor *reactor;
	int fd;              /* -1 for the simulated disk */
	int fixed;           /* index of the registered file, or -1; the engine's */
	void *priv;          /* the engine's */
	char *name;          /* as opened, for messages */
	uint64_t size_bytes; /* of the host file; grows as we write */
	uint32_t align;      /* power of two >= 1: offsets, lengths and buffers */
	enum file_path path;
	uint32_t refused; /* bit per io_op: refused by the file system (READ, WRITE: RWF_NOWAIT) */
	bool writable;
	bool is_block_device;
	bool throw_away;   /* its contents end with the process: flushing is in vain */
	bool shares_locks; /* of another open: closing this one leaves the lock bytes alone */
	dev_t dev;
	ino_t ino;
	uid_t uid; /* owner of the file */
	mode_t mode;
	const struct file *named_by; /* in which this one's name stands, or NULL; the opener's */
	struct file_stats stats;
	struct range_lock blocks;                            /* writes in flight */
	_Atomic uint64_t nb_reads_beside, read_beside_bytes; /* not among the stats */
};

enum file_lock {
	FILE_LOCK_NONE,
	FILE_LOCK_READ,   /* read-only image and every backing file */
	FILE_LOCK_SHARED, /* force-share: read beside a writer */
	FILE_LOCK_WRITE,  /* read-write image */
};

/*
 * Opens `path` (relative to directory `dirfd`, or AT_FDCWD) and takes QEMU's lock
 * bytes before anything is read. Regular files and block devices only.
 *
 * Errors: class ERROR_LOCKED with the remedy in the message, ERROR_OPEN
 * otherwise. Returns 0 or -errno. [the thread that sets up, or a coroutine; blocks]
 */
struct file_open_params {
	int dirfd;
	const char *path;
	bool writable;
	enum file_lock lock;
	bool no_direct;      /* cache=writeback: use the host's page cache */
	bool beneath;        /* refuse what resolves outside dirfd (RESOLVE_BENEATH) */
	bool no_magic_links; /* refuse /proc's magic links: the name stands inside an image */
	bool throw_away;     /* nobody wants the contents after file_close() */
};
int file_open(struct reactor *reactor, const struct file_open_params *params,
	      struct file **ret_file, struct error **reterr);

/*
 * Wraps something that is no host file (the simulated disk): the engine's
 * functions get it with `priv` set. Not locked, not probed.
 */
int file_create_virtual(struct reactor *reactor, const char *name, void *priv, uint64_t size_bytes,
			uint32_t align, bool writable, struct file **ret_file);

/* Is this what stat(2) tells of? A block device is the same by each of its nodes. */
struct stat;
bool file_is(const struct file *file, const struct stat *st);
/* The same for two files of which neither is open. */
bool file_stats_are_same(const struct stat *a, const struct stat *b);

/* Drops the locks and closes. Nothing may be in flight. NULL is allowed. */
void file_close(struct file *file);

/* ---- one request at a time; each returns 0 or -errno ---- */
int coroutine_fn file_read(struct file *file, uint64_t host_off, void *buf, size_t len_bytes,
			   enum io_tag tag);
int coroutine_fn file_write(struct file *file, uint64_t host_off, const void *buf, size_t len_bytes,
			    enum io_tag tag);
/* fdatasync: covers every write that had completed when this was called. Without effect on a
 * throw-away file. */
int coroutine_fn file_flush(struct file *file);
/* Range reads as zeros or its old contents afterwards (align-rounded inwards). 0 where refused by
 * the file system too (counted in nb_fallbacks): nothing depends on it. */
int coroutine_fn file_punch(struct file *file, uint64_t host_off, uint64_t len_bytes);
/* Range reads as zeros afterwards: by fallocate, or by writing zeros. */
int coroutine_fn file_zero(struct file *file, uint64_t host_off, uint64_t len_bytes,
			   enum io_tag tag);
/* The same, always by writing them: overwriting needs no more space and no metadata later. */
int coroutine_fn file_write_zeros(struct file *file, uint64_t host_off, uint64_t len_bytes,
				  enum io_tag tag);
/* As file_zero(), by a hole where possible: the host gets its space back. */
int coroutine_fn file_zero_free(struct file *file, uint64_t host_off, uint64_t len_bytes,
				enum io_tag tag);
/* Reserves host space (never shrinks, never changes contents); -EOPNOTSUPP is possible. */
int coroutine_fn file_allocate(struct file *file, uint64_t host_off, uint64_t len_bytes);
int coroutine_fn file_truncate(struct file *file, uint64_t size_bytes);

/* ---- several at once: start them all, then finish each ---- */
struct file_io {
	struct io_req req;
	struct co *waiter;
	bool completed;
	bool bounced;
	uint64_t host_off;       /* as asked for */
	const struct iovec *iov; /* the caller's: stays valid until file_io_finish() */
	int nb_iov;
	size_t len_bytes;
	void *bounce;
	size_t bounce_bytes;
	struct iovec bounce_iov;
	struct range_hold hold; /* of a write */
	bool holding, hold_ends_with_io;
};
/*
 * Starts a read (IO_READ) or write (IO_WRITE) of the sum of iov at host_off. An
 * aligned read never waits here; a write may wait for an overlapping unaligned one.
 */
void coroutine_fn file_io_start(struct file_io *io, struct file *file, enum io_op op,
				uint64_t host_off, const struct iovec *iov, int nb_iov,
				enum io_tag tag);
/*
 * Starts a read into one buffer; or `sequel` (NULL: none) gets the data instead, where a thread of
 * ours makes the call, and all of it was read by it. The caller looks at sequel->ran after
 * file_io_finish().
 */
void coroutine_fn file_io_start_read(struct file_io *io, struct file *file, uint64_t host_off,
				     const struct iovec *iov, enum io_tag tag,
				     struct io_sequel *sequel);
/* Waits for it. 0 (all bytes transferred; a read's part beyond the end is zeroed) or -errno. */
int coroutine_fn file_io_finish(struct file_io *io);

/*
 * Does the host file have data at host_off, and how far (at most max_bytes > 0) does
 * that hold? What cannot be told (block devices, file systems without SEEK_HOLE) counts
 * as data; beyond the end there is none. 0 or -errno.
 */
int coroutine_fn file_map(struct file *file, uint64_t host_off, uint64_t max_bytes,
			  bool *ret_is_data, uint64_t *ret_len_bytes);

/* ---- at once, without the engine ---- */

/* Can reads of this file be answered at once, as far as they are from memory? */
bool file_reads_at_once(const struct file *file);
/*
 * Reads all of the bytes at once, by a system call of this thread's own that waits for no device,
 * and tells whether it has. The file stays open meanwhile. [any thread]
 */
bool file_read_at_once(const struct file *file, uint64_t host_off, void *buf, size_t len_bytes);
/* What was read counts. */
void file_count_at_once(struct file *file, size_t len_bytes);
/* The same beside the reactor. [any thread] */
void file_count_beside(struct file *file, size_t len_bytes);

/* Current allocation of the host file in 512-byte units, for st_blocks. [any thread] */
uint64_t file_host_sectors(const struct file *file);

#endif
