/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * engine_uring_int: what the parts of the io_uring engine share; its invariants are listed in
 * engine_uring.c.
 */
#ifndef QCOW2FS_IO_ENGINE_URING_INT_H
#define QCOW2FS_IO_ENGINE_URING_INT_H

#include "io/engine_mail.h"
#include "io/engine_uring.h"
#include "io/request_list.h"

#include <liburing.h>
#include <sys/types.h>

/* Registered: files of images (further ones are used by their descriptors), and three more. */
#define NB_FILES 510
#define SLOT_MAIL NB_FILES /* the eventfd of `mail` */
#define SLOT_CMD (NB_FILES + 1)
#define SLOT_WATCH (NB_FILES + 2)
#define NB_SLOTS (NB_FILES + 3)

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
	bool watch_beside; /* the ring cannot watch: poll(2) does */
	int watch_fd;      /* in SLOT_WATCH, -1: none */

	unsigned nb_inflight, max_inflight; /* U1 */
	struct request_list queue;          /* submitted by the reactor, not yet in the ring */
	struct file *files[NB_FILES];

	struct uring_cmd *cmds_head, *cmds_tail; /* not yet in the ring */
	unsigned max_cmds;                       /* 0: the ring takes none */
	int cmd_fd;                              /* in SLOT_CMD, -1: none */
};

/* Is it one of ours? */
bool engine_is_uring(const struct engine *engine);

void uring_close_ring(struct engine_uring *uring);
/* U2: does the ring belong to the calling thread? */
bool uring_owns_ring(const struct engine_uring *uring);
/* U2: makes a ring for the calling thread. 0 or -errno, and there is no ring then. */
int uring_take_over(struct engine_uring *uring);

/*
 * Registers a descriptor, -1: none. False: the files are not registered, and are used by their
 * descriptors; in a confined ring, this one by no one.
 */
bool uring_register_file(struct engine_uring *uring, int slot, int fd);

/* Of engine_ops. */
int uring_add_file(struct engine *engine, struct file *file);
void uring_remove_file(struct engine *engine, struct file *file);

#endif
