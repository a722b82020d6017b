/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * lane_place: where a lane (lanes.h) is to be: at home, on the CPU of its clients, or away.
 *
 * At home it answers who waits for each answer without waking another CPU, and several clients
 * each by a lane of their own. A lone client that has several requests under way would share its
 * CPU with the lane, while the others idle. So the lane goes away from such a one; there it cannot
 * tell how many requests are under way, and comes back to see, the later the more often in
 * succession it has found them.
 */
#ifndef QCOW2FS_FUSE_LANE_PLACE_H
#define QCOW2FS_FUSE_LANE_PLACE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* Requests that come between two sleeps are a round; a window is so many rounds, at home less: */
#define LANE_WINDOW 32u
/* So many requests in one round are a crowd, */
#define LANE_CROWD 3u
/*
 * and so many crowds are enough. The first request of one often comes alone, while the client still
 * makes the others.
 */
#define LANE_CROWDS_ENOUGH (LANE_WINDOW / 4)

/* All zeros: at home. */
struct lane_place {
	bool away;
	unsigned left; /* windows of this absence */
};

/*
 * A window has passed, with nb_crowds and nb_requests in all, and nb_others elsewhere
 * meanwhile. Decides whether to be away in the next one. All lanes share *term, the windows of the
 * last absence, in the beginning 0: their clients are the same, and change their CPUs.
 */
void lane_place_decide(struct lane_place *place, _Atomic unsigned *term, unsigned nb_crowds,
		       uint64_t nb_requests, uint64_t nb_others);

#endif
