/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * lane_place: see lane_place.h.
 */
#include "fuse/lane_place.h"

/* The first request of a crowd often comes alone, while the client still makes the others. */
#define NB_CROWDED_MIN (LANE_WINDOW / 4)
#define TERM_MAX 64u

void lane_place_decide(struct lane_place *place, unsigned nb_crowded, uint64_t nb_requests,
		       uint64_t nb_others)
{
	bool alone = nb_others < nb_requests / 2; /* a client changes its CPU now and then */

	if (place->away) {
		place->left--;
		place->away = alone && place->left > 0;
	} else if (alone && nb_crowded >= NB_CROWDED_MIN) {
		place->away = true;
		place->term = !place->term             ? 1
			      : place->term < TERM_MAX ? 2 * place->term
						       : TERM_MAX;
		place->left = place->term;
	} else {
		place->term = 0;
	}
}
