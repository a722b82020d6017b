/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * hostile: tries images that somebody has prepared (see trial.h for what they must not
 * do). Every share of the work runs in a process of its own: one that dies names the
 * image, and the next one goes on behind it.
 *
 *   hostile [--named] [--mutations=N] [--seed=N] [--only=N] [--jobs=N] [--list]
 *           [--qemu=DIR [--sample=N]] [--dump=DIR] [--slow=N]
 *
 * --only takes the number of one case or mutation; --dump writes the images to a folder;
 * --qemu compares what can be read with `qemu-img convert`, every N-th image; --slow lets each
 * phase take N times as long, on a machine whose speed nobody knows.
 */
#include "test/hostile/cases.h"
#include "test/hostile/mutate.h"
#include "test/hostile/qemu.h"

#include "io/reactor.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define JOBS_MAX 16u
#define EXIT_FULL 3 /* the process has used much memory: a fresh one goes on */
#define RENEW_BYTES (40ull << 20)
/* A hang is a matter of processor time (trial.h); this is for a QEMU that never ends, on a machine
 * that may be busy. */
#define WALL_LIMIT_SEC 600u
#define DEATHS_SHOWN 40u

struct options {
	bool named, list;
	uint64_t nb_mutations, seed;
	int64_t only;
	unsigned nb_jobs, sample, slow;
	const char *qemu_folder, *dump_folder;
};

/* Shared with one process. */
struct share {
	struct tally tally;
	struct qemu_tally qemu;
	uint64_t next; /* number under way, then the one after the last finished */
	char name[96];
};

struct work {
	const struct options *options;
	bool named;
	uint64_t nb;
	unsigned nb_shares;
};

static bool make(const struct work *work, uint64_t number, struct bundle *bundle)
{
	if (work->named)
		return cases_make(number, bundle);
	mutate_make(work->options->seed, number, bundle);
	return true;
}

static void start_trial(struct trial *trial, struct tally *tally, unsigned slow)
{
	struct disk *disk = disk_create();
	struct reactor_params params = {.engine = disk ? &disk->engine : NULL, .nb_coroutines = 16};

	*trial = (struct trial){.disk = disk, .tally = tally};
	if (!disk || reactor_create(&params, &trial->reactor))
		broken("no memory");
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	trial->phase_sec = 10 * slow;
#else
	trial->phase_sec = slow;
	trial->check_memory = true;
#endif
}

/* Does every nb_shares-th piece, from share->next on. */
static int run_share(const struct work *work, struct share *share)
{
	static struct bundle bundle;
	const struct options *options = work->options;
	struct trial trial;

	start_trial(&trial, &share->tally, options->slow);
	for (; share->next < work->nb; share->next += work->nb_shares) {
		if (!make(work, share->next, &bundle))
			break;
		memcpy(share->name, bundle.name, sizeof(share->name));
		alarm(WALL_LIMIT_SEC);
		if (options->dump_folder && qemu_dump(&bundle, options->dump_folder))
			broken("cannot write to %s", options->dump_folder);
		trial_run(&trial, &bundle);
		if (options->qemu_folder && share->next % options->sample == 0)
			qemu_compare(&trial, &bundle, options->qemu_folder, &share->qemu);
		bundle_free(&bundle);
		if (trial.check_memory && trial_peak_bytes() > RENEW_BYTES) {
			share->next += work->nb_shares;
			return EXIT_FULL;
		}
	}
	share->next = work->nb;
	alarm(0);
	reactor_destroy(trial.reactor);
	return 0;
}

static pid_t start_share(const struct work *work, struct share *share)
{
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid < 0) {
		perror("fork");
		exit(2);
	}
	if (pid == 0)
		_exit(run_share(work, share));
	return pid;
}

static void report_death(const struct work *work, const struct share *share, int status)
{
	const char *phase = share->tally.phase ? share->tally.phase : "none";

	printf("FAILED %s %llu: %s, in phase \"%s\": ", work->named ? "case" : "mutation",
	       (unsigned long long)share->next, share->name, phase);
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGPROF)
		puts("takes too long");
	else if (WIFSIGNALED(status))
		printf("%s\n", strsignal(WTERMSIG(status)));
	else
		printf("exit status %d\n", WEXITSTATUS(status));
}

/* Runs all shares, each again where a process died. The number of deaths. */
static unsigned run_work(const struct work *work, struct share *shares)
{
	pid_t pids[JOBS_MAX];
	unsigned nb_running = work->nb_shares, nb_deaths = 0;

	for (unsigned i = 0; i < work->nb_shares; i++) {
		shares[i].next = work->options->only >= 0 ? (uint64_t)work->options->only : i;
		pids[i] = start_share(work, &shares[i]);
	}
	while (nb_running) {
		int status;
		pid_t pid = wait(&status);
		unsigned i = 0;

		while (i < work->nb_shares && pids[i] != pid)
			i++;
		if (i == work->nb_shares)
			continue;
		if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
			nb_running--;
			pids[i] = 0;
			continue;
		}
		if (!WIFEXITED(status) || WEXITSTATUS(status) != EXIT_FULL) {
			if (nb_deaths++ < DEATHS_SHOWN)
				report_death(work, &shares[i], status);
			shares[i].next += work->nb_shares;
		}
		pids[i] = start_share(work, &shares[i]);
	}
	return nb_deaths;
}

static void add_up(struct share *sum, const struct share *share)
{
	struct tally *to = &sum->tally;
	const struct tally *from = &share->tally;

	to->nb_trials += from->nb_trials;
	to->nb_opened += from->nb_opened;
	to->nb_read_ok += from->nb_read_ok;
	to->nb_sound += from->nb_sound;
	to->nb_writable += from->nb_writable;
	to->nb_written += from->nb_written;
	if (from->peak_bytes > to->peak_bytes)
		to->peak_bytes = from->peak_bytes;
	if (from->slowest_ns > to->slowest_ns) {
		to->slowest_ns = from->slowest_ns;
		to->slowest_phase = from->slowest_phase;
		memcpy(to->slowest, from->slowest, sizeof(to->slowest));
	}
	qemu_add_up(&sum->qemu, &share->qemu);
}

static void print_sum(const struct work *work, const struct share *sum, unsigned nb_deaths)
{
	const struct tally *tally = &sum->tally;

	printf("measured: %llu %s images: %llu open, %llu could be read, %llu are sound, %llu open "
	       "for writing, %llu writes read back; %u failed\n",
	       (unsigned long long)tally->nb_trials, work->named ? "named" : "mutated",
	       (unsigned long long)tally->nb_opened, (unsigned long long)tally->nb_read_ok,
	       (unsigned long long)tally->nb_sound, (unsigned long long)tally->nb_writable,
	       (unsigned long long)tally->nb_written, nb_deaths);
	printf("measured: at most %llu MiB beside the image; slowest phase %llu ms: \"%s\" of %s\n",
	       (unsigned long long)tally->peak_bytes >> 20,
	       (unsigned long long)tally->slowest_ns / 1000000,
	       tally->slowest_phase ? tally->slowest_phase : "none", tally->slowest);
	if (work->options->qemu_folder)
		qemu_print(&sum->qemu);
}

/* 0 when nothing failed. */
static int run_kind(const struct options *options, bool named, struct share *shares)
{
	struct work work = {.options = options,
			    .named = named,
			    .nb = options->only >= 0 ? (uint64_t)options->only + 1
				  : named            ? UINT32_MAX
						     : options->nb_mutations,
			    .nb_shares = options->only >= 0 ? 1 : options->nb_jobs};
	struct share sum = {0};
	unsigned nb_deaths;

	memset(shares, 0, JOBS_MAX * sizeof(*shares));
	nb_deaths = run_work(&work, shares);
	for (unsigned i = 0; i < work.nb_shares; i++)
		add_up(&sum, &shares[i]);
	print_sum(&work, &sum, nb_deaths);
	return nb_deaths || !sum.tally.nb_trials || sum.qemu.nb_differ;
}

static void list_names(void)
{
	static struct bundle bundle;

	for (unsigned i = 0; cases_make(i, &bundle); i++) {
		printf("%u\t%s\n", i, bundle.name);
		bundle_free(&bundle);
	}
}

static int usage(void)
{
	fputs("usage: hostile [--named] [--mutations=N] [--seed=N] [--only=N] [--jobs=N] [--list] "
	      "[--qemu=DIR] [--sample=N] [--dump=DIR] [--slow=N]\n",
	      stderr);
	return 2;
}

static int parse(int argc, char **argv, struct options *options)
{
	static const struct option words[] = {{"named", no_argument, NULL, 'n'},
					      {"mutations", required_argument, NULL, 'm'},
					      {"seed", required_argument, NULL, 's'},
					      {"only", required_argument, NULL, 'o'},
					      {"jobs", required_argument, NULL, 'j'},
					      {"list", no_argument, NULL, 'l'},
					      {"qemu", required_argument, NULL, 'q'},
					      {"sample", required_argument, NULL, 'p'},
					      {"dump", required_argument, NULL, 'd'},
					      {"slow", required_argument, NULL, 'w'},
					      {0}};
	int word;

	while ((word = getopt_long(argc, argv, "", words, NULL)) != -1) {
		uint64_t number = optarg ? strtoull(optarg, NULL, 0) : 0;

		switch (word) {
		case 'n':
			options->named = true;
			break;
		case 'm':
			options->nb_mutations = number;
			break;
		case 's':
			options->seed = number;
			break;
		case 'o':
			options->only = number;
			break;
		case 'j':
			options->nb_jobs = number;
			break;
		case 'l':
			options->list = true;
			break;
		case 'q':
			options->qemu_folder = optarg;
			break;
		case 'p':
			options->sample = number;
			break;
		case 'd':
			options->dump_folder = optarg;
			break;
		case 'w':
			options->slow = number;
			break;
		default:
			return usage();
		}
	}
	if (optind < argc || !options->nb_jobs || options->nb_jobs > JOBS_MAX || !options->sample ||
	    !options->slow)
		return usage();
	return 0;
}

int main(int argc, char **argv)
{
	struct options options = {.seed = 1, .only = -1, .nb_jobs = 2, .sample = 1, .slow = 1};
	struct share *shares;
	int status = parse(argc, argv, &options);

	if (status)
		return status;
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (options.list) {
		list_names();
		return 0;
	}
	shares = mmap(NULL, JOBS_MAX * sizeof(*shares), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shares == MAP_FAILED) {
		perror("mmap");
		return 2;
	}
	if (options.named)
		status |= run_kind(&options, true, shares);
	if (options.nb_mutations)
		status |= run_kind(&options, false, shares);
	return status;
}
