/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * engine: which engine a name stands for. The engines are in engine_*.c.
 */
#include "io/engine.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

/* Started as needed. The calls of a stalled disk hold one each, and the others need some, too. */
#define NB_THREADS 64

static const char *why_not_uring(int err)
{
	switch (err) {
	case -EPERM:
	case -EACCES:
		return "io_uring is not permitted here";
	case -ENOSYS:
		return "this kernel has no usable io_uring";
	case -ENOMEM:
		return "no memory for io_uring (see ulimit -l)";
	default:
		return "io_uring cannot be set up";
	}
}

int engine_create_by_name(const char *name, struct engine **ret_engine, const char **ret_why)
{
	int ret;

	*ret_why = NULL;
	if (!strcmp(name, "threads"))
		return engine_threads_create(NB_THREADS, ret_engine);
	if (!strcmp(name, "uring"))
		return engine_uring_create(ret_engine);
	if (strcmp(name, "auto"))
		return -EINVAL;

	ret = engine_uring_create(ret_engine);
	if (ret < 0) {
		*ret_why = why_not_uring(ret);
		ret = engine_threads_create(NB_THREADS, ret_engine);
	}
	return ret;
}
