/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * json: see json.h.
 */
#include "tool/json.h"

#include "io/text.h"

#include <inttypes.h>

static void put_break(struct json *json)
{
	if (json->in_line) {
		fputc(' ', json->out);
		return;
	}
	fprintf(json->out, "\n%*s", (int)json->depth * 4, "");
}

/* What stands before a value: comma, line break, name. */
static void begin_value(struct json *json, const char *name)
{
	if (!json->first)
		fputc(',', json->out);
	if (json->depth)
		put_break(json);
	json->first = false;
	if (name) {
		text_print_json(json->out, name);
		fputs(": ", json->out);
	}
}

static void open_level(struct json *json, const char *name, char bracket)
{
	begin_value(json, name);
	fputc(bracket, json->out);
	json->depth++;
	json->first = true;
}

static void close_level(struct json *json, char bracket)
{
	bool empty = json->first;

	json->depth--;
	if (!empty)
		put_break(json);
	fputc(bracket, json->out);
	json->first = false;
	if (json->in_line && json->depth == json->line_depth)
		json->in_line = false;
}

void json_begin(struct json *json, FILE *out)
{
	*json = (struct json){.out = out, .first = true};
}

void json_end(struct json *json)
{
	fputc('\n', json->out);
}

void json_open_object(struct json *json, const char *name)
{
	open_level(json, name, '{');
}

void json_open_line(struct json *json, const char *name)
{
	unsigned depth = json->depth;
	bool outermost = !json->in_line;

	open_level(json, name, '{');
	if (outermost) {
		json->in_line = true;
		json->line_depth = depth;
	}
}

void json_close_object(struct json *json)
{
	close_level(json, '}');
}

void json_open_array(struct json *json, const char *name)
{
	open_level(json, name, '[');
}

void json_close_array(struct json *json)
{
	close_level(json, ']');
}

void json_string(struct json *json, const char *name, const char *value)
{
	begin_value(json, name);
	text_print_json(json->out, value);
}

void json_uint(struct json *json, const char *name, uint64_t value)
{
	begin_value(json, name);
	fprintf(json->out, "%" PRIu64, value);
}

void json_real(struct json *json, const char *name, double value)
{
	begin_value(json, name);
	fprintf(json->out, "%.2f", value);
}

void json_verbatim(struct json *json, const char *name, const char *text)
{
	begin_value(json, name);
	fputs(text, json->out);
}

void json_bool(struct json *json, const char *name, bool value)
{
	begin_value(json, name);
	fputs(value ? "true" : "false", json->out);
}
