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

#include <stdbool.h>
#include <stdint.h>

/* Requests that come between two sleeps are a round; so many rounds a window. */
#define LANE_WINDOW 32u
/* So many requests in one round are a crowd. */
#define LANE_CROWD 3u

/* All zeros: at home, and nothing has come. */
struct lane_place {
	bool away;
	unsigned term; /* of the last absence, in windows; 0: the last window was at home */
	unsigned left; /* of this one */
};

/*
 * A window has passed, nb_crowded of whose rounds were crowds, with nb_requests in all, and
 * nb_others of all other lanes meanwhile. Decides whether to be away in the next one.
 */
void lane_place_decide(struct lane_place *place, unsigned nb_crowded, uint64_t nb_requests,
		       uint64_t nb_others);

#endif
