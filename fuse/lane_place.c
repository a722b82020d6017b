/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * lane_place: see lane_place.h.
 */
#include "fuse/lane_place.h"

#define TERM_MAX 64u

void lane_place_decide(struct lane_place *place, _Atomic unsigned *term, unsigned nb_crowds,
		       uint64_t nb_requests, uint64_t nb_others)
{
	bool alone = nb_others < nb_requests / 4; /* a client changes its CPU now and then */
	unsigned last = *term;

	if (place->away) {
		place->left--;
		place->away = alone && place->left > 0;
	} else if (alone && nb_crowds >= LANE_CROWDS_ENOUGH) {
		place->away = true;
		place->left = !last ? 1 : last < TERM_MAX ? 2 * last : TERM_MAX;
		*term = place->left;
	} else if (alone) {
		*term = 0;
	}
}
