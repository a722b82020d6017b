/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * text: what stands in an image or in a file's name, made fit for people and for JSON.
 *
 * Such texts are bytes that somebody else chose. They are taken for UTF-8; a terminal obeys what
 * ASCII and Unicode call control characters, and bytes that are no UTF-8 may be ones in another
 * encoding.
 */
#ifndef QCOW2FS_IO_TEXT_H
#define QCOW2FS_IO_TEXT_H

#include <stdarg.h>
#include <stdio.h>

/* Makes one line of `text`, in place, with nothing that a terminal obeys: `?` takes its place. */
void text_make_printable(char *text);

/* Prints a part of one line; what the arguments hold is made printable. */
void text_print(FILE *out, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void text_vprint(FILE *out, const char *fmt, va_list args) __attribute__((format(printf, 2, 0)));
/* The same, and the end of the line. */
void text_print_line(FILE *out, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Prints a string of JSON, with its quotes. What is no UTF-8 becomes U+FFFD. */
void text_print_json(FILE *out, const char *text);

#endif
