/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * engine_uring: commands to files through a reactor's own ring (IORING_OP_URING_CMD),
 * beside its I/O: for a driver that speaks to its user by commands.
 * And the ring's confinement, for a process that confines itself (see uring_setup.h).
 *
 * Commands gather while coroutines run and go to the kernel with everything else, in the
 * one system call of a loop round. Only the reactor's thread may use them.
 */
#ifndef QCOW2FS_IO_ENGINE_URING_H
#define QCOW2FS_IO_ENGINE_URING_H

#include "io/engine.h"

/* A 128-byte submission has room for this. */
#define URING_CMD_ARGS_MAX 80u

/* Embedded in its owner, who fills everything but `next` and `engine`'s part. */
struct uring_cmd {
	struct uring_cmd *next;  /* the engine's until done() */
	uint32_t op;             /* a number of the file's own */
	const struct iovec *iov; /* read by the kernel while the command begins; may be NULL */
	unsigned nb_iov;
	const void *args; /* args_bytes, copied when the command is submitted */
	size_t args_bytes;
	bool in_worker; /* begins with a large copy: a thread of the kernel makes it */
	/* In the scheduler: may submit again, wake and spawn, not yield. */
	void (*done)(struct uring_cmd *cmd, int result);
};

/*
 * Makes room for nb_cmds commands in flight. Before the reactor runs. Returns 0, or
 * -errno: -EOPNOTSUPP when this is another kind of engine.
 */
int engine_uring_reserve_cmds(struct engine *engine, unsigned nb_cmds);

/*
 * An engine with room for nb_cmds commands. The thread that runs its reactor makes its ring, a
 * confined one if that is wanted; engine_uring_takes_cmds() tells whether it could. 0 or -errno.
 */
int engine_uring_create_for_cmds(unsigned nb_cmds, bool confined, struct engine **ret_engine);

/* Can commands be submitted? False also when the reactor's thread got no ring. */
bool engine_uring_takes_cmds(struct engine *engine);

/*
 * The file that commands go to, before the first of them; the caller's. -1: none. False: it could
 * not be registered, and a ring that is confined will not take it.
 */
bool engine_uring_set_cmd_file(struct engine *engine, int fd);

/*
 * Takes a command, one of those that room was made for. Those in flight when the engine
 * is destroyed are cancelled, without done().
 */
void engine_uring_submit_cmd(struct engine *engine, struct uring_cmd *cmd);

/* False where the kernel cannot confine this engine's ring; other engines have none. */
bool engine_uring_can_be_confined(const struct engine *engine);

/*
 * From now on, and in every ring that this engine makes, only what an engine needs, on
 * registered files. On the reactor's thread. 0 (also without a ring), -EBUSY while requests are
 * under way, or -errno: then there is no ring.
 */
int engine_uring_confine(struct engine *engine);

#endif
