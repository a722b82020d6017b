/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* text: names as people and JSON get to see them. */
#include "io/text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct {
	const char *text, *printable, *json;
} texts[] = {
	{"", "", "\"\""},
	{"plain", "plain", "\"plain\""},
	{"a\nb\033[2J\177\t", "a?b?[2J??", "\"a\\u000ab\\u001b[2J\\u007f\\u0009\""},
	{"\"\\", "\"\\", "\"\\\"\\\\\""},
	{"\303\244\342\202\254\360\237\230\200", "\303\244\342\202\254\360\237\230\200",
	 "\"\303\244\342\202\254\360\237\230\200\""},
	/* CSI and NEL, as one byte each and in UTF-8; what follows them begins at U+00A0. */
	{"\2332J\205", "?2J?", "\"\\ufffd2J\\ufffd\""},
	{"\302\2332J\302\205\302\240", "??2J??\302\240", "\"\\u009b2J\\u0085\302\240\""},
	/* Cut off at the end, overlong, a surrogate, beyond the last one. */
	{"x\342\202", "x??", "\"x\\ufffd\""},
	{"\300\233", "??", "\"\\ufffd\""},
	{"\355\240\200", "???", "\"\\ufffd\""},
	{"\364\220\200\200y", "????y", "\"\\ufffdy\""},
};
#define NB_TEXTS (sizeof(texts) / sizeof(texts[0]))

static void test_a_terminal_obeys_nothing(void **state)
{
	for (size_t i = 0; i < NB_TEXTS; i++) {
		char *text = strdup(texts[i].text);

		text_make_printable(text);
		assert_string_equal(text, texts[i].printable);
		free(text);
	}
}

static void test_arguments_stay_on_their_line(void **state)
{
	size_t len;
	char *line;
	FILE *out = open_memstream(&line, &len);

	text_print(out, "[%-4s] %d", "\n\033", 7);
	fclose(out);
	assert_string_equal(line, "[??  ] 7");
	free(line);
}

static void test_json_is_utf8(void **state)
{
	for (size_t i = 0; i < NB_TEXTS; i++) {
		size_t len;
		char *json;
		FILE *out = open_memstream(&json, &len);

		text_print_json(out, texts[i].text);
		fclose(out);
		assert_string_equal(json, texts[i].json);
		free(json);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_terminal_obeys_nothing),
		cmocka_unit_test(test_arguments_stay_on_their_line),
		cmocka_unit_test(test_json_is_utf8),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
