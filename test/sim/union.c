/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* union: see union.h. */
#include "test/sim/union.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SITES_MAX 4096u
#define LINE_BYTES 512

static char folder[] = "/tmp/qcow2fs-sim.XXXXXX";

/* "states.c512-r16-v3", opened; the caller closes it. NULL: reading, and nothing was added. */
static FILE *open_notes(const char *kind, const char *name, const char *mode)
{
	char path[256];
	FILE *notes;

	snprintf(path, sizeof(path), "%s/%s.%s", folder, kind, name);
	notes = fopen(path, mode);
	if (!notes && mode[0] != 'r') {
		perror(path);
		exit(1);
	}
	return notes;
}

static void close_notes(FILE *notes)
{
	if (fclose(notes) != 0) {
		perror(folder);
		exit(1);
	}
}

void union_begin(void)
{
	if (!mkdtemp(folder)) {
		perror(folder);
		exit(1);
	}
}

void union_end(void)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -rf '%s'", folder);
	if (system(command) != 0)
		fprintf(stderr, "%s stays\n", folder);
}

void union_add_states(const char *name, const struct hash_set *states)
{
	FILE *notes = open_notes("states", name, "ab");

	for (unsigned i = 0; i < states->max; i++) {
		if (states->slots[i])
			fwrite(&states->slots[i], sizeof(states->slots[i]), 1, notes);
	}
	close_notes(notes);
}

void union_add_site(const char *name, const char *site, bool failed)
{
	FILE *notes = open_notes("sites", name, "a");

	fprintf(notes, "%d %s\n", failed, site);
	close_notes(notes);
}

uint64_t union_count_states(const char *name)
{
	FILE *notes = open_notes("states", name, "rb");
	struct hash_set set = {0};
	uint64_t hash, nb;

	while (notes && fread(&hash, sizeof(hash), 1, notes) == 1)
		hash_set_add(&set, hash);
	if (notes)
		close_notes(notes);
	nb = set.nb;
	hash_set_free(&set);
	return nb;
}

struct site {
	char *name;
	bool failed;
};

static struct site *find_site(struct site *sites, unsigned *nb, const char *name)
{
	for (unsigned i = 0; i < *nb; i++) {
		if (strcmp(sites[i].name, name) == 0)
			return &sites[i];
	}
	if (*nb == SITES_MAX)
		abort();
	sites[*nb] = (struct site){.name = strdup(name)};
	return &sites[(*nb)++];
}

void union_count_sites(const char *name, unsigned *ret_seen, unsigned *ret_failed)
{
	FILE *notes = open_notes("sites", name, "r");
	struct site *sites = calloc(SITES_MAX, sizeof(*sites));
	char line[LINE_BYTES];

	*ret_seen = *ret_failed = 0;
	if (!sites)
		abort();
	while (notes && fgets(line, sizeof(line), notes)) {
		line[strcspn(line, "\n")] = '\0';
		find_site(sites, ret_seen, line + 2)->failed |= line[0] == '1';
	}
	if (notes)
		close_notes(notes);
	for (unsigned i = 0; i < *ret_seen; i++) {
		*ret_failed += sites[i].failed;
		if (!sites[i].failed)
			printf("%s: never failed: %s\n", name, sites[i].name);
		free(sites[i].name);
	}
	free(sites);
}
