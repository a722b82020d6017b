/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * disk: a simulated disk as one more I/O engine, and an opener for its files.
 *
 * A file is an array of bytes. Two modes:
 *
 *  - SIM_LOGGED: requests wait until sim_choose() picks them; every operation that
 *    changes a file is logged with its bytes and with the logical times of issue,
 *    completion, and of the completion of the flush that made it durable. A write
 *    is covered by a flush only if it had completed when the flush was *issued*.
 *    The log is what crash states are made from (crash.h). Faults are injected here.
 *
 *  - SIM_DIRECT: requests complete inside submit() and what they overwrite is kept
 *    for sim_undo(): this judges thousands of states of one file per second.
 *
 * Logical time is one counter for disk events and for guest operations (model.h),
 * so that "completed before" is comparable between the two.
 */
#ifndef QCOW2FS_TEST_SIM_DISK_H
#define QCOW2FS_TEST_SIM_DISK_H

#include "io/engine.h"
#include "io/opener.h"

#include <limits.h>

#define SIM_SECTOR 512u
#define SIM_NEVER UINT64_MAX
#define SIM_FILES_MAX 4u
#define SIM_FILE_BYTES_MAX (96ull << 20)
#define SIM_SHORT (-1) /* fault: a short transfer */

struct sim_bytes {
	uint8_t *data; /* `capacity` bytes; those beyond `size` are zero */
	uint64_t size, capacity;
};

struct sim_file {
	const char *name; /* the opener finds it by its last path component */
	struct sim_bytes bytes;
	uint32_t align;
	bool read_only; /* a write is a failure of the run */
	unsigned index;
};

struct sim_record {
	enum io_op op;
	enum io_tag tag;
	unsigned file;
	uint64_t off, len; /* TRUNCATE: off is the new size */
	uint64_t asked;    /* length of the request, where a fault cut it short */
	uint8_t *bytes;    /* WRITE */
	bool dropped;      /* it failed and changed nothing */
	uint64_t t_issue, t_done, t_covered;
};

/* The requests number `at` (counted from 0) to at + count - 1 fail. */
struct sim_fault {
	uint64_t at;
	unsigned count;   /* 0: no fault; UINT_MAX: for ever */
	int err;          /* positive errno, or SIM_SHORT */
	bool writes_only; /* count and fail only requests that change or flush */
};

enum sim_mode { SIM_LOGGED, SIM_DIRECT };

struct sim_pending {
	struct io_req *req;
	int record; /* index in the log, or -1 */
	uint64_t issued_at;
	uint8_t *early; /* bytes taken at issue (a read's result), or NULL */
	uint64_t early_len;
	int fault;
};

struct sim_undo {
	unsigned file;
	uint64_t off, len, old_size;
	uint8_t *old;
};

struct sim_disk {
	struct engine engine;
	struct reactor *reactor;
	enum sim_mode mode;
	struct sim_file files[SIM_FILES_MAX];
	unsigned nb_files;

	uint64_t now;      /* logical time */
	uint64_t clock_ns; /* what the reactor sees */
	bool woken;

	struct sim_pending *pending;
	unsigned nb_pending, max_pending;
	struct sim_record *log;
	unsigned nb_log, max_log;
	struct sim_undo *undo;
	unsigned nb_undo, max_undo;

	struct sim_fault fault;
	uint64_t nb_requests; /* since the last reset */
	unsigned nb_faulted;  /* faults delivered */
	unsigned nb_changes;  /* requests that changed a file, since the last reset */
	unsigned idle_rounds; /* waits without any request in between */
	bool no_fallocate;    /* PUNCH, ZERO and ALLOC are not supported */
	bool fail_flush_seen;
	bool trace; /* print every request of the logged mode */

	/* Test hooks; NULL when unused. */
	void (*on_submit)(void *ctx, const struct io_req *req, bool faulted);
	bool (*hold)(void *ctx, const struct io_req *req); /* true: let others complete first */
	void *hook_ctx;

	struct opener opener;
};

/* The disk of the reactor's engine is made first, then reactor_create() attaches it. */
int sim_disk_create(struct sim_disk **ret_disk);
/* Frees files, log and undo data. The engine itself goes with the reactor. */
void sim_disk_reset(struct sim_disk *disk);

/* Adds a file with a copy of `data`. Names must be unique. */
struct sim_file *sim_add_file(struct sim_disk *disk, const char *name, const void *data,
			      uint64_t size, bool read_only);

/* Forgets the log; times continue. */
void sim_clear_log(struct sim_disk *disk);
/* Takes back everything done in SIM_DIRECT mode since the mark (an earlier nb_undo). */
void sim_undo(struct sim_disk *disk, unsigned mark);

/* A moment in logical time, different from every other. */
static inline uint64_t sim_tick(struct sim_disk *disk)
{
	return ++disk->now;
}

/* Applies a logged change. */
void sim_apply(struct sim_bytes *bytes, const struct sim_record *record);
/* Applies a change to a file of the disk so that sim_undo() takes it back. */
void sim_apply_undoable(struct sim_disk *disk, const struct sim_record *record);
/* Sets the size; what is cut off or added is zero. */
void sim_bytes_resize(struct sim_bytes *bytes, uint64_t size);
void sim_bytes_copy(struct sim_bytes *to, const struct sim_bytes *from);
void sim_bytes_free(struct sim_bytes *bytes);

bool sim_op_changes(enum io_op op);
bool sim_tag_is_metadata(enum io_tag tag);
const char *sim_op_name(enum io_op op);
const char *sim_tag_name(enum io_tag tag);

#endif
