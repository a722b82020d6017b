/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * choose: seeded and scripted choices. The search is a depth-first walk over
 * decision vectors in lexicographic order: after a run, the deepest decision
 * that still has an untried alternative within the bound is advanced and what
 * follows it is cut off. The run between two decisions is deterministic, so a
 * prefix always meets the same numbers of choices again.
 */
#include "test/sim/choose.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SCRIPT_MAX 4096u

static struct {
	bool scripted;
	uint64_t state;
	unsigned max_preemptions;
	unsigned nb_script; /* decisions that the script prescribes */
	unsigned nb_trace;  /* decisions made so far in this run */
	uint8_t taken[SCRIPT_MAX];
	uint8_t offered[SCRIPT_MAX];
	char text[2 * SCRIPT_MAX + 1];
} choose;

void choose_seed(uint64_t seed)
{
	choose.scripted = false;
	choose.state = mix64(seed);
}

uint64_t choose_save(void)
{
	return choose.state;
}

void choose_restore(uint64_t state)
{
	choose.state = state;
}

uint64_t choose_bits(void)
{
	choose.state += 0x9e3779b97f4a7c15ull;
	return mix64(choose.state);
}

static unsigned scripted_choice(unsigned nb_choices)
{
	unsigned i = choose.nb_trace;

	if (i == SCRIPT_MAX)
		return 0;
	if (nb_choices > UINT8_MAX)
		nb_choices = UINT8_MAX;
	if (i >= choose.nb_script)
		choose.taken[i] = 0;
	else if (choose.taken[i] >= nb_choices)
		choose.taken[i] = (uint8_t)(nb_choices - 1);
	choose.offered[i] = (uint8_t)nb_choices;
	choose.nb_trace++;
	return choose.taken[i];
}

unsigned sim_choose(enum choice kind, unsigned nb_choices)
{
	assert(nb_choices >= 1);
	if (nb_choices == 1)
		return 0;
	if (choose.scripted)
		return kind == CHOICE_SCHEDULE ? scripted_choice(nb_choices) : 0;
	return (unsigned)(choose_bits() % nb_choices);
}

bool sim_one_in(enum choice kind, unsigned n)
{
	return n && sim_choose(kind, n) == n - 1;
}

void choose_script_begin(unsigned max_preemptions)
{
	choose.scripted = true;
	choose.max_preemptions = max_preemptions;
	choose.nb_script = 0;
	choose.nb_trace = 0;
}

bool choose_script_next(void)
{
	unsigned preemptions = 0, i;

	for (i = 0; i < choose.nb_trace; i++)
		preemptions += choose.taken[i] != 0;
	while (i > 0) {
		i--;
		preemptions -= choose.taken[i] != 0;
		if (choose.taken[i] + 1 < choose.offered[i] &&
		    preemptions + 1 <= choose.max_preemptions) {
			choose.taken[i]++;
			choose.nb_script = i + 1;
			choose.nb_trace = 0;
			return true;
		}
	}
	return false;
}

const char *choose_script_text(void)
{
	char *p = choose.text;
	unsigned nb = choose.nb_trace;

	while (nb > 0 && choose.taken[nb - 1] == 0)
		nb--;
	for (unsigned i = 0; i < nb && p < choose.text + sizeof(choose.text) - 5; i++)
		p += sprintf(p, i ? ".%u" : "%u", choose.taken[i]);
	*p = '\0';
	return choose.text;
}

void choose_script_replay(const char *text)
{
	choose_script_begin(0);
	while (*text && choose.nb_script < SCRIPT_MAX) {
		char *end;

		choose.taken[choose.nb_script++] = (uint8_t)strtoul(text, &end, 10);
		text = *end ? end + 1 : end;
	}
}
