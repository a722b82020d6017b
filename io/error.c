/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * error: builds and frees the objects of error.h.
 *
 * A failure must be reportable even when memory has run out: then the one
 * static object takes the place of a new one, and error_free() knows it.
 */
#include "io/error.h"

#include "io/text.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static struct error out_of_memory = {
	.class = ERROR_SYSTEM,
	.err = ENOMEM,
	.msg = "out of memory",
};

static struct error *error_create(enum error_class class, int err, const char *fmt, va_list args)
{
	struct error *error = malloc(sizeof(*error));
	if (!error)
		return &out_of_memory;
	error->class = class;
	error->err = err;
	if (vasprintf(&error->msg, fmt, args) < 0) {
		free(error);
		return &out_of_memory;
	}
	text_make_printable(error->msg);
	return error;
}

int error_set(struct error **reterr, enum error_class class, int err, const char *fmt, ...)
{
	if (reterr) {
		va_list args;
		va_start(args, fmt);
		*reterr = error_create(class, err, fmt, args);
		va_end(args);
	}
	return err ? -err : -EINVAL;
}

void error_prefix(struct error **reterr, const char *fmt, ...)
{
	if (!reterr || !*reterr || *reterr == &out_of_memory)
		return;
	struct error *error = *reterr;

	char *prefix, *msg;
	va_list args;
	va_start(args, fmt);
	int len = vasprintf(&prefix, fmt, args);
	va_end(args);
	if (len < 0)
		return; /* the message stays useful without its context */
	text_make_printable(prefix);
	if (asprintf(&msg, "%s: %s", prefix, error->msg) >= 0) {
		free(error->msg);
		error->msg = msg;
	}
	free(prefix);
}

void error_free(struct error *error)
{
	if (!error || error == &out_of_memory)
		return;
	free(error->msg);
	free(error);
}
