/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * lanes: threads that take requests beside the reactor, each those that are made on some CPUs.
 *
 * A lane is a reactor whose engine takes commands to the FUSE device, and nothing else. It runs
 * on the CPUs of its clients, where an answer wakes no other CPU, or keeps away from them
 * (lane_place.h).
 */
#ifndef QCOW2FS_FUSE_LANES_H
#define QCOW2FS_FUSE_LANES_H

#include "io/reactor.h"

struct lane;
struct lanes;

struct lanes_params {
	unsigned nb_queues;         /* one for each CPU that clients may be on */
	unsigned nb_cmds_per_queue; /* in flight */
	uint64_t busy_ns; /* of a lane that is away from its clients; see reactor_params */
	bool confined;    /* their rings are; see io/uring_setup.h */
};

/* Starts one lane for each CPU that this process may use, but not too many. 0 or -errno. */
int lanes_create(const struct lanes_params *params, struct lanes **ret_lanes);
/* No command is in flight. NULL is allowed. */
void lanes_destroy(struct lanes *lanes);

/* Which one takes what is made on that CPU. */
struct lane *lane_of_queue(struct lanes *lanes, unsigned cpu);
struct reactor *lane_reactor(const struct lane *lane);
/* A request has come, which needs no coroutine. [the lane, in the scheduler] */
void lane_count(struct lane *lane);

#endif
