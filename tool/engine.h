/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * engine: the host's engine with one switch: flushes may be skipped.
 *
 * A file that is being created from another one is worth nothing before it is complete,
 * so there is no reason to wait for the disk in between: `convert` and `create` skip
 * flushes unless they are told otherwise, as qemu-img does (cache=unsafe).
 */
#ifndef QCOW2FS_TOOL_ENGINE_H
#define QCOW2FS_TOOL_ENGINE_H

#include "io/engine.h"

struct engine_tool {
	struct engine engine;
	struct engine *inner;
	bool skip_flushes;
};

/* The engine that suits the host, wrapped. 0 or -errno. */
int engine_tool_create(struct engine_tool **ret_engine);

#endif
