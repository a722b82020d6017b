/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * text: see text.h.
 */
#include "io/text.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

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

/* C0, DEL, and C1, which UTF-8 has as C2 80 to C2 9F. */
static bool is_control(const unsigned char *text)
{
	return *text < 0x20 || *text == 0x7f || (*text == 0xc2 && text[1] < 0xa0);
}

void text_make_printable(char *text)
{
	unsigned char *pos = (unsigned char *)text;
	unsigned len, skip;

	for (; *pos; pos += skip) {
		len = utf8_length(pos, &skip);
		if (!len || is_control(pos))
			memset(pos, '?', skip);
	}
}

void text_vprint(FILE *out, const char *fmt, va_list args)
{
	char *text;

	if (vasprintf(&text, fmt, args) < 0)
		return;
	text_make_printable(text);
	fputs(text, out);
	free(text);
}

void text_print(FILE *out, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	text_vprint(out, fmt, args);
	va_end(args);
}

void text_print_line(FILE *out, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	text_vprint(out, fmt, args);
	va_end(args);
	fputc('\n', out);
}

void text_print_json(FILE *out, const char *text)
{
	const unsigned char *pos = (const unsigned char *)text;
	unsigned len, skip;

	fputc('"', out);
	for (; *pos; pos += skip) {
		len = utf8_length(pos, &skip);
		if (!len)
			fputs("\\ufffd", out); /* as qemu-img has it */
		else if (*pos == '"' || *pos == '\\')
			fprintf(out, "\\%c", *pos);
		else if (len == 1 && is_control(pos))
			fprintf(out, "\\u%04x", *pos);
		else if (is_control(pos))
			fprintf(out, "\\u%04x", pos[1]);
		else
			fwrite(pos, 1, len, out);
	}
	fputc('"', out);
}
