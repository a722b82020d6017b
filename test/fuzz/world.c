/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * world: see world.h.
 */
#include "test/fuzz/world.h"

#include "io/buf.h"
#include "io/reactor.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/time.h>
#include <unistd.h>

#define NB_COROUTINES 16u
/* Of processor time, with sanitizers; `make hostile` measures what is left without. */
#define INPUT_SEC 10u

/* An input that takes long is a finding; what else the machine does in that time is not. */
static void limit_time(unsigned seconds)
{
	struct itimerval limit = {.it_value.tv_sec = seconds};

	setitimer(ITIMER_PROF, &limit, NULL);
}

static void too_long(int signal)
{
	static const char line[] = "  broken: takes too long\n";

	if (write(STDERR_FILENO, line, sizeof(line) - 1))
		abort();
}

struct world *world_get(void)
{
	static struct world world;

	if (!world.disk) {
		struct reactor_params params = {.nb_coroutines = NB_COROUTINES};

		world.disk = disk_create();
		if (!world.disk || signal(SIGPROF, too_long) == SIG_ERR)
			broken("no memory");
		params.engine = &world.disk->engine;
		if (reactor_create(&params, &world.reactor))
			broken("no memory");
	}
	return &world;
}

void world_clear(struct world *world)
{
	if (reactor_nb_coroutines(world->reactor))
		broken("a coroutine is left");
	disk_clear(world->disk);
	/* Kept buffers would hide a use after their end, and look like leaks. */
	buf_trim();
}

uint8_t world_companion_byte(unsigned which, uint64_t off)
{
	return off < WORLD_COMPANION_BYTES ? (uint8_t)(off / 100 + which) : 0;
}

struct disk_file *world_put_image(struct world *world, const uint8_t *data, size_t size)
{
	uint8_t companion[WORLD_COMPANION_BYTES];
	struct disk_file *image;

	world_clear(world);
	image = disk_add(world->disk, WORLD_IMAGE, data, size, size);
	for (unsigned which = 0; which < 2; which++) {
		for (unsigned i = 0; i < sizeof(companion); i++)
			companion[i] = world_companion_byte(which, i);
		disk_add(world->disk, which ? WORLD_DATA : WORLD_BACKING, companion,
			 sizeof(companion), sizeof(companion));
	}
	return image;
}

void world_run(struct world *world, void (*fn)(void *arg), void *arg)
{
	limit_time(INPUT_SEC);
	reactor_run(world->reactor, fn, arg);
	limit_time(0);
}
