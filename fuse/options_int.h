/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * options_int: what the two halves of the command line share: options.c (switches
 * and names of files) and options_words.c (the words of -o).
 */
#ifndef QCOW2FS_FUSE_OPTIONS_INT_H
#define QCOW2FS_FUSE_OPTIONS_INT_H

#include "fuse/options.h"

struct parser {
	struct options *options;
	bool switch_r, switch_w; /* given, apart from -o ro and rw, of which the last one holds */
	char *message;           /* the first complaint */
};

/* Keeps the message when it is the first; returns -EINVAL. */
int complain(struct parser *parser, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Replaces *field by a copy of value. 0 or -ENOMEM. */
int set_string(char **field, const char *value);

/* A number in base 8 or 10 without sign, spaces or rest. 0 or -EINVAL. */
int parse_number(const char *text, int base, unsigned long max, unsigned long *ret_value);

/* A list after -o: words separated by commas; a backslash takes the next character as it is. */
int take_words(struct parser *parser, const char *list);

#endif
