/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * reader_choice: see reader_choice.h.
 */
#include "fuse/reader_choice.h"

/* Of a window's, so many may need the reactor where threads are to begin, or go on, to read. */
#define OTHER_WORK_BEGIN 1u
#define OTHER_WORK_GO_ON 2u

static void begin_window(struct reader_choice *choice)
{
	choice->nb_rounds = choice->nb_fit = choice->nb_crowds = choice->nb_others = 0;
}

bool reader_choice_count_round(struct reader_choice *choice, bool fits)
{
	bool by_threads = !choice->place.away;

	choice->nb_rounds++;
	choice->nb_fit += fits;
	if (choice->nb_rounds < READER_WINDOW)
		return false;
	if (choice->place.away)
		lane_place_decide(&choice->place, &choice->term, 0, choice->nb_rounds, 0);
	by_threads = by_threads && choice->nb_rounds - choice->nb_fit <= OTHER_WORK_BEGIN;
	begin_window(choice);
	return by_threads;
}

bool reader_choice_count_sample(struct reader_choice *choice, const struct reader_sample *sample)
{
	unsigned nb_crowds;

	if (choice->nb_rounds == 0)
		choice->pid = sample->pid;
	choice->nb_rounds++;
	choice->nb_fit += sample->fits;
	choice->nb_crowds += sample->crowd;
	choice->nb_others += !sample->pid || sample->pid != choice->pid;
	if (choice->nb_rounds < READER_WINDOW)
		return false;
	nb_crowds = choice->nb_crowds;
	/* Another thread may have answered already what made a lone client's a crowd. */
	if (choice->nb_others < choice->nb_rounds / 4)
		nb_crowds *= 2;
	/* What needs the reactor is as good a reason. */
	if (choice->nb_rounds - choice->nb_fit > OTHER_WORK_GO_ON)
		nb_crowds = LANE_CROWDS_ENOUGH;
	lane_place_decide(&choice->place, &choice->term, nb_crowds, choice->nb_rounds, 0);
	begin_window(choice);
	return choice->place.away;
}
