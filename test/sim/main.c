/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * sim: the driver behind `make sim`, `make sim-full` and the simulated part of
 * `make check`. Lists the units, runs each in a process of its own (two at a time by
 * default), and prints what was seen: per cell the number of distinct crash states,
 * then the totals. Exit status 0: no violation and every floor reached.
 *
 *   sim [--check | --full] [--seed N] [--cell NAME] [--part NAME] [--workload W]
 *       [--jobs N] [--images DIR] [--keep-going] [--trace]
 *
 * A violation prints the options that repeat it; --trace adds every request.
 */
#include "test/sim/driver.h"
#include "test/sim/union.h"
#include "test/sim/verdict.h"

#include <assert.h>
#include <execinfo.h>
#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define UNITS_MAX 1024u
#define STATES_PER_CELL_FLOOR 1000u
#define STATES_FLOOR 1000000u /* of all cells together */
#define DEATHS_MAX 8u         /* of one unit's processes, with --keep-going */

static struct unit units[UNITS_MAX];
static unsigned nb_units;

static void usage(void)
{
	fputs("usage: sim [--check | --full] [--seed N] [--cell NAME] [--part NAME]\n"
	      "           [--workload W] [--jobs N] [--images DIR] [--keep-going] [--trace]\n",
	      stderr);
	exit(2);
}

static void add_share(const struct plan *plan, const struct cell *cell, enum part part,
		      unsigned share, unsigned nb_shares)
{
	if (cell->illegal || (plan->only_cell && strcmp(plan->only_cell, cell->name) != 0) ||
	    (plan->only_part >= 0 && plan->only_part != (int)part))
		return;
	assert(nb_units < UNITS_MAX);
	units[nb_units++] = (struct unit){cell, part, share, nb_shares};
}

static void add_units(const struct plan *plan, const struct cell *cell, enum part part,
		      unsigned nb_shares)
{
	for (unsigned i = 0; i < nb_shares; i++)
		add_share(plan, cell, part, i, nb_shares);
}

static void list_units(const struct plan *plan)
{
	unsigned nb;
	const struct cell *cells = cell_list(&nb);

	for (unsigned i = 0; i < nb; i++)
		add_units(plan, &cells[i], PART_PAIRS, 1);
	for (unsigned i = 0; i < nb; i++)
		add_units(plan, &cells[i], PART_RANDOM, 1);
	/* The last cells are the slowest: begun first, they leave nobody waiting at the end. */
	for (unsigned i = nb; i-- > 0;) {
		bool chosen = cells[i].cluster_size == 512 || cells[i].refcount_bits == 16;

		if (plan->effort == EFFORT_CHECK && !plan->only_cell &&
		    (cells[i].cluster_size > 4096 || cells[i].refcount_bits != 16))
			continue;
		if (chosen || plan->effort == EFFORT_FULL || plan->only_cell) {
			add_units(plan, &cells[i], PART_FAULTS, 1);
			add_units(plan, &cells[i], PART_ALLOCS, 1);
		}
	}
	for (unsigned i = 0; schedule_cell(i); i++)
		add_share(plan, cell_find(schedule_cell(i)), PART_SCHEDULES, i, 1);
	if (plan->effort != EFFORT_CHECK)
		add_units(plan, cell_find("c512-r16-v3"), PART_TRIPLES, 8);
}

/* ---- running the units ---- */

static void on_signal(int sig)
{
	void *frames[32];

	printf("FATAL %s: %s\n", verdict_context(), strsignal(sig));
	fflush(stdout);
	backtrace_symbols_fd(frames, backtrace(frames, 32), STDOUT_FILENO);
	_exit(2);
}

static void catch_signals(void)
{
	static uint8_t stack[64u << 10];
	const stack_t alternative = {.ss_sp = stack, .ss_size = sizeof(stack)};
	const struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};
	const int signals[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGPROF};

	sigaltstack(&alternative, NULL);
	for (unsigned i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		sigaction(signals[i], &action, NULL);
}

static pid_t start_unit(const struct plan *plan, unsigned index, struct unit_result *result)
{
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid < 0) {
		perror("fork");
		exit(1);
	}
	if (pid == 0) {
		catch_signals();
		unit_run(plan, &units[index], result);
		exit(0); /* a build with --coverage writes what it has counted */
	}
	return pid;
}

/* A process has ended: takes its unit up again behind the run that killed it, if so. */
static pid_t continue_unit(const struct plan *plan, unsigned index, struct unit_result *result)
{
	if (result->finished || ++result->nb_deaths > (plan->keep_going ? DEATHS_MAX : 0))
		return 0;
	units[index].nb_skip = result->nb_begun;
	return start_unit(plan, index, result);
}

static void run_units(const struct plan *plan, struct unit_result *results)
{
	pid_t pids[UNITS_MAX] = {0};
	unsigned next = 0, nb_running = 0;

	while (next < nb_units || nb_running > 0) {
		pid_t pid;

		for (; next < nb_units && nb_running < plan->nb_jobs; next++, nb_running++)
			pids[next] = start_unit(plan, next, &results[next]);
		pid = wait(NULL);
		for (unsigned i = 0; i < next; i++) {
			if (pids[i] != pid)
				continue;
			pids[i] = continue_unit(plan, i, &results[i]);
			nb_running -= pids[i] == 0;
			break;
		}
	}
}

/* ---- the report ---- */

static void print_stats(const char *name, const struct explore_stats *stats)
{
	printf("%-22s %7llu runs %9llu states %8llu judged %8llu distinct %6llu second %5llu qemu "
	       "%7llu faults %4llu violations\n",
	       name, (unsigned long long)stats->nb_runs, (unsigned long long)stats->nb_visited,
	       (unsigned long long)stats->nb_judged, (unsigned long long)stats->nb_distinct,
	       (unsigned long long)stats->nb_second, (unsigned long long)stats->nb_qemu,
	       (unsigned long long)stats->nb_faults, (unsigned long long)stats->nb_violations);
}

/*
 * One line per cell; returns the number of cells of the matrix below the floor of states. Beside
 * it are raw data files, whose metadata hardly ever changes.
 */
static unsigned print_cells(const struct plan *plan, const struct unit_result *results,
			    struct explore_stats *total)
{
	unsigned nb, nb_short = 0;
	const struct cell *cells = cell_list(&nb);

	for (unsigned c = 0; c < nb; c++) {
		struct explore_stats sum = {0};
		bool any = false;

		for (unsigned i = 0; i < nb_units; i++) {
			if (units[i].cell != &cells[c])
				continue;
			any = true;
			explore_stats_add(&sum, &results[i].stats);
		}
		if (!any)
			continue;
		sum.nb_distinct = union_count_states(cells[c].name);
		print_stats(cells[c].name, &sum);
		explore_stats_add(total, &sum);
		if (plan->effort != EFFORT_CHECK && plan->only_part < 0 &&
		    cells[c].feature < CELL_MATRIX_FEATURES &&
		    sum.nb_distinct < STATES_PER_CELL_FLOOR)
			nb_short++;
	}
	return nb_short;
}

/* Returns the number of call sites that have not failed, of parts that are about them. */
static unsigned print_sites(enum part part)
{
	unsigned seen, failed;

	union_count_sites(part_name(part), &seen, &failed);
	if (seen)
		printf("%22s call sites that failed, of all cells together: %u of %u\n", "", failed,
		       seen);
	return seen - failed;
}

static unsigned print_parts(const struct unit_result *results, unsigned *ret_nb_deaths)
{
	unsigned nb_unfailed = 0;

	for (enum part part = 0; part < PART_COUNT; part++) {
		struct explore_stats sum = {0};
		double seconds = 0;
		unsigned nb = 0;

		for (unsigned i = 0; i < nb_units; i++) {
			if (units[i].part != part)
				continue;
			nb++;
			explore_stats_add(&sum, &results[i].stats);
			seconds += results[i].cpu_seconds;
			*ret_nb_deaths += results[i].nb_deaths;
		}
		if (!nb)
			continue;
		print_stats(part_name(part), &sum);
		printf("%22s %.0f processor seconds\n", "", seconds);
		nb_unfailed += print_sites(part);
	}
	return nb_unfailed;
}

static unsigned print_illegal(const struct plan *plan)
{
	unsigned nb, nb_accepted = 0;
	const struct cell *cells = cell_list(&nb);

	if (plan->only_cell || plan->only_part >= 0)
		return 0;
	for (unsigned i = 0; i < nb; i++) {
		bool refused;

		if (!cells[i].illegal)
			continue;
		refused = cell_is_refused(&cells[i]);
		printf("%-22s not legal: %s (%s)\n", cells[i].name, cells[i].illegal,
		       refused ? "refused" : "ACCEPTED");
		nb_accepted += !refused;
	}
	return nb_accepted;
}

static void parse_options(int argc, char **argv, struct plan *plan)
{
	static const struct option options[] = {{"check", no_argument, NULL, 'q'},
						{"full", no_argument, NULL, 'f'},
						{"seed", required_argument, NULL, 's'},
						{"cell", required_argument, NULL, 'c'},
						{"part", required_argument, NULL, 'p'},
						{"workload", required_argument, NULL, 'w'},
						{"jobs", required_argument, NULL, 'j'},
						{"images", required_argument, NULL, 'i'},
						{"keep-going", no_argument, NULL, 'k'},
						{"trace", no_argument, NULL, 't'},
						{NULL, 0, NULL, 0}};
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 'q':
			plan->effort = EFFORT_CHECK;
			break;
		case 'f':
			plan->effort = EFFORT_FULL;
			break;
		case 's':
			plan->seed = strtoull(optarg, NULL, 0);
			break;
		case 'c':
			plan->only_cell = optarg;
			break;
		case 'p':
			for (enum part part = 0; part < PART_COUNT; part++) {
				if (strcmp(optarg, part_name(part)) == 0)
					plan->only_part = (int)part;
			}
			if (plan->only_part < 0)
				usage();
			break;
		case 'w':
			plan->only_workload = optarg;
			break;
		case 'j':
			plan->nb_jobs = (unsigned)strtoul(optarg, NULL, 0);
			break;
		case 'i':
			cell_set_folder(optarg);
			break;
		case 't':
			plan->trace = true;
			break;
		case 'k':
			plan->keep_going = true;
			break;
		default:
			usage();
		}
	}
	if (optind < argc || plan->nb_jobs == 0 || (plan->only_cell && !cell_find(plan->only_cell)))
		usage();
}

int main(int argc, char **argv)
{
	struct plan plan = {.seed = 1, .effort = EFFORT_SIM, .nb_jobs = 2, .only_part = -1};
	struct explore_stats total = {0};
	struct unit_result *results;
	unsigned nb_short, nb_deaths = 0, nb_accepted, nb_unfailed;
	bool whole, few;

	/* Files come and go with every run: a mapping for each would cost more than to judge it. */
	mallopt(M_MMAP_THRESHOLD, 32 << 20);
	mallopt(M_TRIM_THRESHOLD, 256 << 20);
	parse_options(argc, argv, &plan);
	list_units(&plan);
	results = mmap(NULL, UNITS_MAX * sizeof(*results), PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (results == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
	printf("seed %llu\n", (unsigned long long)plan.seed);
	union_begin();
	run_units(&plan, results);

	nb_accepted = print_illegal(&plan);
	nb_short = print_cells(&plan, results, &total);
	nb_unfailed = print_parts(results, &nb_deaths);
	union_end();
	print_stats("total", &total);
	whole = plan.effort != EFFORT_CHECK && !plan.only_cell && plan.only_part < 0;
	few = whole && total.nb_distinct < STATES_FLOOR;
	if (few)
		printf("fewer than %u distinct states\n", STATES_FLOOR);
	if (nb_short)
		printf("%u cells have fewer than %u distinct states\n", nb_short,
		       STATES_PER_CELL_FLOOR);
	if (nb_deaths)
		printf("the code under test died %u times\n", nb_deaths);
	/* One cell alone does not reach them all, nor does the part of the check. */
	nb_unfailed = plan.only_cell || plan.effort == EFFORT_CHECK ? 0 : nb_unfailed;
	if (nb_unfailed)
		printf("%u call sites have never failed\n", nb_unfailed);
	return total.nb_violations || nb_short || nb_deaths || nb_accepted || few || nb_unfailed;
}
