/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * lanes: see lanes.h.
 */
#include "fuse/lanes.h"

#include "fuse/lane_place.h"
#include "io/engine.h"
#include "io/engine_uring.h"

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#define NB_LANES_MAX 16u

struct lane {
	struct lanes *lanes;
	struct reactor *reactor;
	cpu_set_t home, elsewhere;
	_Atomic uint64_t nb_requests; /* written by the lane alone, whose all that follows is */
	struct lane_place place;
	uint64_t round_ns; /* when this round began */
	unsigned nb_in_round, nb_rounds, nb_crowds;
	uint64_t nb_before, nb_others_before; /* when this window began */
};

struct lanes {
	struct lanes_params params;
	_Atomic unsigned term;         /* see lane_place.h */
	_Atomic uint64_t nb_elsewhere; /* requests; written by the reactor alone */
	unsigned nb;
	struct lane lanes[NB_LANES_MAX];
};

struct lane *lane_of_queue(struct lanes *lanes, unsigned cpu)
{
	for (unsigned i = 0; cpu < CPU_SETSIZE && i < lanes->nb; i++)
		if (CPU_ISSET(cpu, &lanes->lanes[i].home))
			return &lanes->lanes[i];
	return NULL;
}

unsigned lanes_count(const struct lanes *lanes)
{
	return lanes ? lanes->nb : 0;
}

struct lane *lane_at(struct lanes *lanes, unsigned index)
{
	return &lanes->lanes[index];
}

struct reactor *lane_reactor(const struct lane *lane)
{
	return lane->reactor;
}

/* ---- where to be ---- */

static uint64_t value_of(const _Atomic uint64_t *count)
{
	return atomic_load_explicit(count, memory_order_relaxed);
}

/* By its only writer. */
static void add_one(_Atomic uint64_t *count)
{
	atomic_store_explicit(count, value_of(count) + 1, memory_order_relaxed);
}

static uint64_t count_others(const struct lane *lane)
{
	const struct lanes *lanes = lane->lanes;
	uint64_t nb = value_of(&lanes->nb_elsewhere);

	for (unsigned i = 0; i < lanes->nb; i++)
		if (&lanes->lanes[i] != lane)
			nb += value_of(&lanes->lanes[i].nb_requests);
	return nb;
}

/* It may be forbidden, or no such CPU be there any more: then the lane stays where it is. */
static void go(const struct lane *lane)
{
	const cpu_set_t *cpus = lane->place.away ? &lane->elsewhere : &lane->home;
	bool gone = sched_setaffinity(0, sizeof(*cpus), cpus) == 0;
	bool apart = lane->place.away ? gone : !gone || CPU_COUNT(cpus) > 1;

	/* Whoever looks around on its client's own CPU is in its way. */
	reactor_set_busy(lane->reactor, apart ? lane->lanes->params.busy_ns : 0);
}

static void end_window(struct lane *lane)
{
	uint64_t nb = value_of(&lane->nb_requests), nb_others = count_others(lane);
	bool was_away = lane->place.away;

	lane_place_decide(&lane->place, &lane->lanes->term, lane->nb_crowds, nb - lane->nb_before,
			  nb_others - lane->nb_others_before);
	if (lane->place.away != was_away)
		go(lane);
	lane->nb_before = nb;
	lane->nb_others_before = nb_others;
	lane->nb_rounds = lane->nb_crowds = 0;
}

void lane_count(struct lane *lane)
{
	uint64_t now_ns = reactor_now_ns(lane->reactor); /* read once in each round */

	if (now_ns != lane->round_ns) {
		lane->round_ns = now_ns;
		lane->nb_rounds++;
		lane->nb_crowds += lane->nb_in_round >= LANE_CROWD;
		lane->nb_in_round = 0;
		if (lane->nb_rounds == LANE_WINDOW ||
		    (!lane->place.away && lane->nb_crowds == LANE_CROWDS_ENOUGH))
			end_window(lane);
	}
	lane->nb_in_round++;
	add_one(&lane->nb_requests);
	reactor_found_work(lane->reactor);
}

void lanes_count_elsewhere(struct lanes *lanes)
{
	add_one(&lanes->nb_elsewhere);
}

/* ---- life ---- */

struct beginning {
	const struct lane *lane;
	bool good;
};

static void coroutine_fn begin(void *arg)
{
	struct beginning *beginning = arg;

	beginning->good = engine_uring_takes_cmds(reactor_engine(beginning->lane->reactor));
	go(beginning->lane);
}

static int start_lane(struct lane *lane, unsigned nb_cmds)
{
	struct reactor_params params = {.name = "qf-lane", .nb_coroutines = 1};
	struct beginning beginning = {.lane = lane};
	int res =
		engine_uring_create_for_cmds(nb_cmds, lane->lanes->params.confined, &params.engine);

	if (res == 0)
		res = reactor_create(&params, &lane->reactor);
	if (res == 0)
		res = reactor_start(lane->reactor);
	if (res < 0)
		return res;
	reactor_run(lane->reactor, begin, &beginning);
	return beginning.good ? 0 : -ENXIO;
}

/*
 * Each CPU that may be used is the home of one lane; none is where there are not several, or more
 * than the set has room for.
 */
static void share_out_cpus(struct lanes *lanes)
{
	unsigned cpus[CPU_SETSIZE], nb_cpus = 0;
	cpu_set_t all;

	if (sched_getaffinity(0, sizeof(all), &all) < 0)
		return;
	for (unsigned cpu = 0; cpu < CPU_SETSIZE && cpu < lanes->params.nb_queues; cpu++)
		if (CPU_ISSET(cpu, &all))
			cpus[nb_cpus++] = cpu;
	if (nb_cpus < 2)
		return;
	lanes->nb = nb_cpus < NB_LANES_MAX ? nb_cpus : NB_LANES_MAX;
	for (unsigned i = 0; i < lanes->nb; i++)
		for (unsigned n = 0; n < nb_cpus; n++)
			CPU_SET(cpus[n], n * lanes->nb / nb_cpus == i ? &lanes->lanes[i].home
								      : &lanes->lanes[i].elsewhere);
}

int lanes_create(const struct lanes_params *params, struct lanes **ret_lanes)
{
	struct lanes *lanes = calloc(1, sizeof(*lanes));
	int res;

	if (!lanes)
		return -ENOMEM;
	lanes->params = *params;
	share_out_cpus(lanes);
	res = lanes->nb ? 0 : -ENXIO;
	for (unsigned i = 0; res == 0 && i < lanes->nb; i++) {
		struct lane *lane = &lanes->lanes[i];

		lane->lanes = lanes;
		res = start_lane(lane,
				 (unsigned)CPU_COUNT(&lane->home) * params->nb_cmds_per_queue);
	}
	if (res < 0) {
		lanes_destroy(lanes);
		return res;
	}
	*ret_lanes = lanes;
	return 0;
}

void lanes_stop(struct lanes *lanes)
{
	for (unsigned i = 0; i < lanes_count(lanes); i++)
		reactor_stop(lanes->lanes[i].reactor);
}

void lanes_destroy(struct lanes *lanes)
{
	if (!lanes)
		return;
	for (unsigned i = 0; i < lanes->nb; i++)
		reactor_destroy(lanes->lanes[i].reactor);
	free(lanes);
}
