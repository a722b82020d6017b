/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * driver: runs a fuzz target over files, and over the files in folders, without a fuzzer: for
 * the regression corpus, with any compiler.
 */
#include "test/fuzz/world.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define INPUT_BYTES_MAX (1u << 20)

static unsigned nb_inputs;

static void run_file(const char *path)
{
	FILE *file = fopen(path, "rb");
	/* Exactly as large as the input, so that a checker sees what is read behind it. */
	uint8_t *room = malloc(INPUT_BYTES_MAX), *data;
	size_t size;

	if (!file || !room)
		broken("%s cannot be read", path);
	size = fread(room, 1, INPUT_BYTES_MAX, file);
	fclose(file);
	data = malloc(size ? size : 1);
	if (!data)
		broken("no memory");
	memcpy(data, room, size);
	free(room);
	/* Said before, so that the input that ends the process is known. */
	fprintf(stderr, "%s\n", path);
	LLVMFuzzerTestOneInput(data, size);
	free(data);
	nb_inputs++;
}

static void run_folder(const char *folder)
{
	struct dirent **names;
	int nb = scandir(folder, &names, NULL, alphasort);

	if (nb < 0)
		broken("%s cannot be read", folder);
	for (int i = 0; i < nb; i++) {
		char path[1024];

		if (names[i]->d_name[0] != '.') {
			snprintf(path, sizeof(path), "%s/%s", folder, names[i]->d_name);
			run_file(path);
		}
		free(names[i]);
	}
	free(names);
}

int main(int argc, char **argv)
{
	struct stat st;

	for (int i = 1; i < argc; i++) {
		if (stat(argv[i], &st) == 0 && S_ISDIR(st.st_mode))
			run_folder(argv[i]);
		else
			run_file(argv[i]);
	}
	printf("measured: %u inputs\n", nb_inputs);
	return nb_inputs == 0;
}
