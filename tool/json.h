/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * json: writing JSON, with the commas, quotes and indentation in the right places.
 *
 * Inside an object each function takes the member's name, inside an array NULL.
 */
#ifndef QCOW2FS_TOOL_JSON_H
#define QCOW2FS_TOOL_JSON_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct json {
	FILE *out;
	unsigned depth;
	bool first;   /* nothing was written yet at this depth */
	bool in_line; /* no line breaks below this depth: for lists of many small objects */
	unsigned line_depth;
};

void json_begin(struct json *json, FILE *out);
/* Ends the document with a newline. */
void json_end(struct json *json);
void json_open_object(struct json *json, const char *name);
/* The same, with everything on one line. */
void json_open_line(struct json *json, const char *name);
void json_close_object(struct json *json);
void json_open_array(struct json *json, const char *name);
void json_close_array(struct json *json);
void json_string(struct json *json, const char *name, const char *value);
void json_uint(struct json *json, const char *name, uint64_t value);
void json_real(struct json *json, const char *name, double value);
/* `text` is a value in JSON already. */
void json_verbatim(struct json *json, const char *name, const char *text);
void json_bool(struct json *json, const char *name, bool value);

#endif
