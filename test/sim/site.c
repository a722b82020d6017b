/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* site: stacks, kept by hash, resolved at the end by one call of addr2line. See site.h. */
#include "test/sim/site.h"
#include "test/sim/choose.h"
#include "test/sim/union.h"

#include <execinfo.h>
#include <link.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FRAMES_MAX 14
#define STACKS_MAX 16384u
#define NAME_BYTES 160

struct stack {
	uint64_t hash;
	void *frames[FRAMES_MAX];
	int nb_frames;
	bool failed;
};

struct site_table {
	struct stack *stacks; /* open addressing */
	unsigned nb;
};

struct site_table *site_table_create(void)
{
	struct site_table *table = calloc(1, sizeof(*table));

	if (table)
		table->stacks = calloc(STACKS_MAX, sizeof(*table->stacks));
	if (!table || !table->stacks)
		abort();
	return table;
}

void site_table_free(struct site_table *table)
{
	free(table->stacks);
	free(table);
}

void site_note(struct site_table *table, bool failed)
{
	struct stack stack = {.failed = failed};
	unsigned i;

	stack.nb_frames = backtrace(stack.frames, FRAMES_MAX);
	for (int f = 0; f < stack.nb_frames; f++)
		stack.hash = mix64(stack.hash ^ (uintptr_t)stack.frames[f]);
	stack.hash |= 1;
	for (i = (unsigned)stack.hash % STACKS_MAX; table->stacks[i].hash;
	     i = (i + 1) % STACKS_MAX) {
		if (table->stacks[i].hash == stack.hash) {
			table->stacks[i].failed |= failed;
			return;
		}
	}
	if (table->nb == STACKS_MAX / 2)
		abort();
	table->nb++;
	table->stacks[i] = stack;
}

static int find_base(struct dl_phdr_info *info, size_t size, void *arg)
{
	*(uintptr_t *)arg = info->dlpi_addr; /* the program itself comes first */
	return 1;
}

/* Takes the place ("core/alloc.c:123") out of addr2line's answer for one frame. */
static void read_place(FILE *in, char *function, char *place)
{
	char line[512], *p;

	function[0] = place[0] = '\0';
	if (!fgets(line, sizeof(line), in))
		return;
	line[strcspn(line, "\n")] = '\0';
	snprintf(function, NAME_BYTES / 2, "%.70s", line);
	if (!fgets(line, sizeof(line), in))
		return;
	line[strcspn(line, " \n")] = '\0';
	p = strstr(line, "core/");
	if (!p)
		p = strstr(line, "io/");
	if (p && !strstr(line, "test/"))
		snprintf(place, NAME_BYTES / 2, "%.70s", p);
}

/* Asks for all frames of all stacks at once; NULL when addr2line is missing. */
static FILE *ask_addr2line(const struct site_table *table, char *list_path)
{
	uintptr_t base = 0;
	char command[256];
	int fd = mkstemp(list_path);
	FILE *list = fd < 0 ? NULL : fdopen(fd, "w");

	if (!list)
		return NULL;
	dl_iterate_phdr(find_base, &base);
	for (unsigned i = 0; i < STACKS_MAX; i++) {
		const struct stack *stack = &table->stacks[i];

		/* A return address belongs to the call before it. */
		for (int f = 0; stack->hash && f < stack->nb_frames; f++)
			fprintf(list, "%#lx\n",
				(unsigned long)((uintptr_t)stack->frames[f] - base - 1));
	}
	fclose(list);
	snprintf(command, sizeof(command), "addr2line -f -e /proc/%d/exe <%s", (int)getpid(),
		 list_path);
	return popen(command, "r");
}

void site_report(const struct site_table *table, const char *name)
{
	char list_path[] = "/tmp/qcow2fs-sites.XXXXXX";
	FILE *in = ask_addr2line(table, list_path);

	for (unsigned i = 0; i < STACKS_MAX && in; i++) {
		const struct stack *stack = &table->stacks[i];
		char function[NAME_BYTES], place[NAME_BYTES], site[2 * NAME_BYTES + 4] = "";
		bool in_core = false;

		if (!stack->hash)
			continue;
		for (int f = 0; f < stack->nb_frames; f++) {
			read_place(in, function, place);
			if (!place[0] || in_core || (site[0] && strncmp(place, "core/", 5) != 0))
				continue;
			in_core = strncmp(place, "core/", 5) == 0;
			snprintf(site, sizeof(site), "%s (%s)", place, function);
		}
		if (site[0])
			union_add_site(name, site, stack->failed);
	}
	if (in)
		pclose(in);
	unlink(list_path);
}
