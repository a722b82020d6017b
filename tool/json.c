/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * json: see json.h.
 */
#include "tool/json.h"

#include <inttypes.h>

/*
 * How many bytes the UTF-8 sequence at `text` has; 0 where it is malformed, and *ret_skip tells
 * after how many bytes the next one may begin.
 */
static unsigned utf8_length(const unsigned char *text, unsigned *ret_skip)
{
	/* The smallest code point of each length: an overlong form is malformed. */
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	unsigned len = __builtin_clz(~((uint32_t)*text << 24)), i = 1; /* leading ones */
	uint32_t code = *text & (0x7f >> len);

	*ret_skip = 1;
	if (len < 2 || len > 6)
		return len == 0;
	/* Five and six bytes were legal once, and are passed over as one. */
	for (; i < len && (text[i] & 0xc0) == 0x80; i++)
		code = code << 6 | (text[i] & 0x3f);
	*ret_skip = i;
	if (i < len || len > 4 || code < least[len] || code > 0x10ffff ||
	    (code >= 0xd800 && code < 0xe000))
		return 0;
	return len;
}

/* Names need not be text; what is none of it becomes U+FFFD, as qemu-img has it. */
static void put_text(struct json *json, const char *text)
{
	const unsigned char *pos = (const unsigned char *)text;
	unsigned len, skip;

	fputc('"', json->out);
	for (; *pos; pos += skip) {
		len = utf8_length(pos, &skip);
		if (!len)
			fputs("\\ufffd", json->out);
		else if (*pos == '"' || *pos == '\\')
			fprintf(json->out, "\\%c", *pos);
		else if (*pos < 0x20 || *pos == 0x7f)
			fprintf(json->out, "\\u%04x", *pos);
		else
			fwrite(pos, 1, len, json->out);
	}
	fputc('"', json->out);
}

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
		put_text(json, name);
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
	put_text(json, value);
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
