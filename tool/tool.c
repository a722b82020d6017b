/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * tool: arguments, messages and progress (see tool.h).
 */
#include "tool/tool.h"

#include "core/checked.h"
#include "io/text.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

/* ---- messages ---- */

void tool_say(const char *path, const char *fmt, ...)
{
	va_list args;

	fflush(stdout);
	text_print(stderr, "qcow2tool: %s: ", path);
	va_start(args, fmt);
	text_vprint(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
}

static enum status status_of(enum error_class class)
{
	switch (class) {
	case ERROR_SYSTEM:
		return STATUS_SYSTEM;
	case ERROR_OPEN:
		return STATUS_OPEN;
	case ERROR_UNSUPPORTED:
		return STATUS_UNSUPPORTED;
	case ERROR_LOCKED:
		return STATUS_LOCKED;
	case ERROR_CORRUPT:
		return STATUS_CORRUPT;
	case ERROR_BACKING:
		return STATUS_BACKING;
	}
	return STATUS_SYSTEM;
}

int tool_fail(const char *path, int err, struct error *error)
{
	int status = error ? status_of(error->class) : STATUS_SYSTEM;

	tool_say(path, "%s", error ? error->msg : strerror(err < 0 ? -err : err));
	error_free(error);
	return status;
}

int tool_usage(const struct tool *tool, const char *fmt, ...)
{
	va_list args;

	fprintf(stderr, "qcow2tool: %s: ", tool->command->name);
	va_start(args, fmt);
	text_vprint(stderr, fmt, args);
	va_end(args);
	fprintf(stderr, "\nusage: qcow2tool %s %s\n", tool->command->name,
		tool->command->arguments);
	return STATUS_USAGE;
}

const char *tool_human_size(uint64_t bytes, char *buf)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	double value = bytes;
	unsigned unit = 0;

	/* Three significant digits fit up to 999. */
	while (value >= 999.5 && unit < 6) {
		value /= 1024;
		unit++;
	}
	snprintf(buf, 32, "%0.3g %s", value, units[unit]);
	return buf;
}

/* ---- arguments ---- */

/* The digits behind a decimal point, as what they make of `unit`, rounded down. */
static uint64_t parse_fraction(const char *digits, uint64_t unit)
{
	unsigned __int128 part = 0;
	uint64_t scale = 1;

	/* Eighteen of them tell bytes of the largest unit apart. */
	for (unsigned i = 0; i < 18 && isdigit((unsigned char)digits[i]); i++) {
		part = part * 10 + (digits[i] - '0');
		scale *= 10;
	}
	return part * unit / scale;
}

/* b, k, KiB, kB and so on. Returns 0 for what is no unit. */
static uint64_t parse_unit(const char *suffix)
{
	static const char letters[] = "bkmgtpe";
	const char *letter;

	if (!*suffix)
		return 1;
	letter = strchr(letters, tolower((unsigned char)*suffix));
	if (!letter || (suffix[1] && strcasecmp(suffix + 1, "ib") && strcasecmp(suffix + 1, "b")))
		return 0;
	return 1ull << 10 * (letter - letters);
}

int tool_parse_size(const char *text, uint64_t *ret_bytes)
{
	bool is_hex = text[0] == '0' && tolower((unsigned char)text[1]) == 'x';
	const char *suffix, *fraction = NULL;
	uint64_t unit, whole, rest = 0;
	char *end;

	if (!isdigit((unsigned char)*text))
		return -EINVAL;
	errno = 0;
	whole = strtoull(text, &end, is_hex ? 16 : 10);
	if (errno)
		return -ERANGE;
	suffix = end;
	if (*end == '.' && !is_hex) {
		fraction = end + 1;
		suffix = fraction + strspn(fraction, "0123456789");
	}
	unit = parse_unit(suffix);
	if (!unit || (fraction && unit == 1))
		return -EINVAL;
	if (fraction)
		rest = parse_fraction(fraction, unit);
	return checked_mul(whole, unit, &whole) || checked_add(whole, rest, ret_bytes) ? -ERANGE
										       : 0;
}

int tool_parse_bool(const char *text, bool *ret_value)
{
	static const struct {
		const char *text;
		bool value;
	} words[] = {
		{"on", true},   {"yes", true}, {"true", true},   {"y", true},
		{"off", false}, {"no", false}, {"false", false}, {"n", false},
	};

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (!strcmp(text, words[i].text)) {
			*ret_value = words[i].value;
			return 0;
		}
	return -EINVAL;
}

bool tool_next_word(char **list, char **ret_name, char **ret_value)
{
	char *in = *list, *out = in;

	if (!in || !*in)
		return false;
	*ret_name = in;
	*ret_value = NULL;
	for (; *in; in++) {
		if (*in == ',') {
			if (in[1] != ',')
				break;
			in++;
		} else if (*in == '=' && !*ret_value) {
			*out++ = 0;
			*ret_value = out;
			continue;
		}
		*out++ = *in;
	}
	*list = *in ? in + 1 : in;
	*out = 0;
	return true;
}

static int set_policy(struct tool *tool, const char *value)
{
	static const char *const names[] = {
		[NAMES_AUTO] = "auto",
		[NAMES_ANY] = "any",
		[NAMES_BENEATH] = "beneath",
		[NAMES_NONE] = "none",
	};

	for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (!strcmp(value, names[i])) {
			tool->opener.policy = i;
			return STATUS_OK;
		}
	return tool_usage(tool, "-o backing=%s: give auto, any, beneath or none", value);
}

static int set_words(struct tool *tool, char *list)
{
	char *name, *value;
	int status = STATUS_OK;

	while (status == STATUS_OK && tool_next_word(&list, &name, &value)) {
		if (!value)
			status = tool_usage(tool, "-o %s: unknown, or without a value", name);
		else if (!strcmp(name, "backing"))
			status = set_policy(tool, value);
		else if (!strcmp(name, "backing_file"))
			tool->how.backing_file = value;
		else if (!strcmp(name, "data_file"))
			tool->how.data_file = value;
		else if (!strcmp(name, "snapshot"))
			tool->how.snapshot = value;
		else
			status = tool_usage(tool, "-o %s: unknown word", name);
	}
	return status;
}

int tool_option(struct tool *tool, int opt)
{
	switch (opt) {
	case 'f':
		tool->format = optarg;
		if (strcmp(optarg, "raw") && strcmp(optarg, "qcow2"))
			return tool_usage(tool, "-f %s: give raw or qcow2", optarg);
		return STATUS_OK;
	case 'o':
		return set_words(tool, optarg);
	case 'q':
		tool->quiet = true;
		return STATUS_OK;
	case 'U':
		tool->how.force_share = true;
		return STATUS_OK;
	default:
		return tool_usage(tool, "wrong option");
	}
}

/* ---- progress ---- */

#define BAR_WIDTH 50

void progress_begin(struct progress *progress, const struct tool *tool, bool always)
{
	*progress = (struct progress){
		.shown = !tool->quiet && (always || isatty(STDERR_FILENO)),
		.permille = UINT32_MAX,
	};
	progress_set(progress, 0, 1);
}

void progress_set(struct progress *progress, uint64_t done, uint64_t total)
{
	unsigned permille = total ? (unsigned)((double)done / total * 1000) : 1000;
	unsigned filled = permille * BAR_WIDTH / 1000;

	if (!progress->shown || permille == progress->permille)
		return;
	progress->permille = permille;
	fprintf(stderr, "\r  [%.*s%*s] %5.1f %%", (int)filled,
		"##################################################", (int)(BAR_WIDTH - filled), "",
		permille / 10.0);
}

void progress_end(struct progress *progress)
{
	if (progress->shown)
		fputc('\n', stderr);
	progress->shown = false;
}
