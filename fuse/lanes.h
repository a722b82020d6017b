/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * lanes: threads that take requests beside the reactor, each those that are made on one CPU (on a
 * few, where there are many).
 *
 * A lane is a reactor whose engine takes commands to the FUSE device, and nothing else. It runs
 * where its clients do, so that an answer wakes no other CPU, or keeps away from them
 * (lane_place.h): it binds itself, whatever it was bound to from outside. What it starts would be
 * bound as well, so it starts nothing.
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

/*
 * Starts one lane for each CPU that this process may use, but not too many. 0 or -errno: -ENXIO
 * where there are not several CPUs, or their rings cannot be made.
 */
int lanes_create(const struct lanes_params *params, struct lanes **ret_lanes);
/* Ends their threads; commands may be in flight. NULL is allowed. */
void lanes_stop(struct lanes *lanes);
/* No command is in flight. NULL is allowed. */
void lanes_destroy(struct lanes *lanes);

/* How many there are; none in NULL. */
unsigned lanes_count(const struct lanes *lanes);
struct lane *lane_at(struct lanes *lanes, unsigned index);
/* Which one is at home on that CPU, or NULL: this process may not use it. */
struct lane *lane_of_queue(struct lanes *lanes, unsigned cpu);
struct reactor *lane_reactor(const struct lane *lane);
/* A request has come to the lane. [the lane] */
void lane_count(struct lane *lane);
/* A request has come to no lane. [the reactor] */
void lanes_count_elsewhere(struct lanes *lanes);

#endif
