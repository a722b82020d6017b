/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * reader_choice: who is to read messages from the FUSE device, by what has come of late.
 *
 * A thread that waits in read(2), and answers what it has read, takes half the CPU time of the
 * reactor, which looks around for the next message; and several of them answer several clients. The
 * reactor is better with clients that have several requests under way, because it finds these one
 * after the other without a sleep between, and with all that only it can do. How soon threads try
 * again is the rule of the lanes (lane_place.h): they are at home where clients wait for each
 * answer.
 */
#ifndef QCOW2FS_FUSE_READER_CHOICE_H
#define QCOW2FS_FUSE_READER_CHOICE_H

#include "fuse/lane_place.h"

/* All zeros: the reactor reads. */
struct reader_choice {
	struct lane_place place; /* away: the reactor is to read for some windows */
	_Atomic unsigned term;
	/* this window */
	unsigned nb_rounds, nb_fit, nb_crowds, nb_others;
	uint32_t pid; /* of its first message */
};

#define READER_WINDOW LANE_WINDOW

/* A message that a thread has read: all in the beginning, then one of so many is looked at. */
#define READER_SAMPLE 8u

struct reader_sample {
	uint32_t pid; /* of the client's thread */
	bool crowd;   /* pid as before, while others were waiting or being answered */
	bool fits;    /* the thread has answered it */
};

/*
 * The reactor, which reads, has found messages; fits: a thread could have answered the first of
 * them, of which nothing needs to be known while place.away. Returns whether threads are to read
 * from now on.
 */
bool reader_choice_count_round(struct reader_choice *choice, bool fits);

/* While threads read. Returns whether the reactor is to read from now on. */
bool reader_choice_count_sample(struct reader_choice *choice, const struct reader_sample *sample);

#endif
