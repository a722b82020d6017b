/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * mount_words: see mount_words.h.
 */
#include "fuse/mount_words.h"

#include <stdio.h>
#include <stdlib.h>

/* Appends a word, with commas and backslashes in its value escaped. */
static void put_word(FILE *out, const char *word, const char *value)
{
	fprintf(out, ",%s", word);
	for (; *value; value++) {
		if (*value == ',' || *value == '\\')
			fputc('\\', out);
		fputc(*value, out);
	}
}

char *mount_words(const struct options *options, bool writable)
{
	char *source = realpath(options->images[0].path, NULL);
	char *words = NULL;
	size_t len;
	FILE *out = open_memstream(&words, &len);

	if (out) {
		fprintf(out, "%s,default_permissions,nosuid,nodev", writable ? "rw" : "ro");
		if (!options->has_subtype)
			put_word(out, "subtype=", "qcow2fs");
		if (!options->has_fsname)
			put_word(out, "fsname=", source ? source : options->images[0].path);
		if (options->kernel_words)
			fprintf(out, ",%s", options->kernel_words);
		if (fclose(out) != 0) {
			free(words);
			words = NULL;
		}
	}
	free(source);
	return words;
}
