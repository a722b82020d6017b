/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * options_words: the words of -o, in one table: what is ours with a function that
 * stores it, what goes on to the kernel and libfuse, and what mount(8) and fstab(5)
 * say to others and is accepted in silence.
 */
#include "fuse/options_int.h"

#include <ctype.h>
#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int complain(struct parser *parser, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (!parser->message && vasprintf(&parser->message, fmt, ap) < 0)
		parser->message = NULL;
	va_end(ap);
	return -EINVAL;
}

int set_string(char **field, const char *value)
{
	char *copy = strdup(value);

	if (!copy)
		return -ENOMEM;
	free(*field);
	*field = copy;
	return 0;
}

/* A decimal (or, with base 8, octal) number without sign, spaces or rest. */
int parse_number(const char *text, int base, unsigned long max, unsigned long *ret_value)
{
	char *end;
	unsigned long value;

	if (!isdigit((unsigned char)*text))
		return -EINVAL;
	errno = 0;
	value = strtoul(text, &end, base);
	if (errno || *end || value > max)
		return -EINVAL;
	*ret_value = value;
	return 0;
}

/* A number of bytes with an optional suffix K, M, G or T (powers of 1024). */
static int parse_size(const char *text, uint64_t *ret_bytes)
{
	static const char suffixes[] = "kmgt";
	unsigned long long value;
	const char *suffix;
	unsigned shift = 0;
	char *end;

	if (!isdigit((unsigned char)*text))
		return -EINVAL;
	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno)
		return -EINVAL;
	if (*end) {
		suffix = strchr(suffixes, tolower((unsigned char)*end));
		if (!suffix || end[1])
			return -EINVAL;
		shift = 10 * (unsigned)(suffix - suffixes + 1);
	}
	if (value > (UINT64_MAX >> shift))
		return -EINVAL;
	*ret_bytes = (uint64_t)value << shift;
	return 0;
}

/* ---- the words of -o that are ours ---- */

static int word_ro(struct parser *parser, const char *value)
{
	parser->options->access = ACCESS_READ_ONLY;
	return 0;
}

static int word_rw(struct parser *parser, const char *value)
{
	parser->options->access = ACCESS_WRITABLE;
	return 0;
}

static int word_remount(struct parser *parser, const char *value)
{
	return complain(parser, "-o remount: the options of a mount cannot change; unmount it with "
				"qcow2fs -u, and mount it again");
}

static int word_snapshot(struct parser *parser, const char *value)
{
	return set_string(&parser->options->snapshot, value);
}

static int word_backing(struct parser *parser, const char *value)
{
	static const char *const names[] = {
		[NAMES_AUTO] = "auto",
		[NAMES_ANY] = "any",
		[NAMES_BENEATH] = "beneath",
		[NAMES_NONE] = "none",
	};

	for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (!strcmp(value, names[i])) {
			parser->options->names = (enum names_policy)i;
			return 0;
		}
	}
	return complain(parser, "-o backing=%s: give auto, any, beneath or none", value);
}

static int word_backing_file(struct parser *parser, const char *value)
{
	return set_string(&parser->options->backing_file, value);
}

static int word_data_file(struct parser *parser, const char *value)
{
	return set_string(&parser->options->data_file, value);
}

static int word_overlay(struct parser *parser, const char *value)
{
	parser->options->overlay = true;
	free(parser->options->overlay_file);
	parser->options->overlay_file = NULL;
	return 0;
}

static int word_overlay_file(struct parser *parser, const char *value)
{
	parser->options->overlay = true;
	return set_string(&parser->options->overlay_file, value);
}

static int word_discard(struct parser *parser, const char *value)
{
	bool keep = !strcmp(value, "ignore");

	if (!keep && strcmp(value, "unmap"))
		return complain(parser, "-o discard=%s: give unmap or ignore", value);
	parser->options->discard_keeps_space = keep;
	return 0;
}

static int word_grow(struct parser *parser, const char *value)
{
	parser->options->grow = true;
	return 0;
}

static int word_shrink(struct parser *parser, const char *value)
{
	parser->options->shrink = true;
	return 0;
}

static int word_snapshots(struct parser *parser, const char *value)
{
	parser->options->snapshots = true;
	return 0;
}

static int word_partitions(struct parser *parser, const char *value)
{
	parser->options->partitions = true;
	return 0;
}

static int word_timeout(struct parser *parser, const char *value)
{
	unsigned long number;

	if (parse_number(value, 10, INT_MAX / 1000, &number) < 0 || number == 0)
		return complain(parser, "-o timeout=%s: give a number of seconds", value);
	parser->options->idle_timeout_s = (unsigned)number;
	return 0;
}

static int word_auto_unmount(struct parser *parser, const char *value)
{
	parser->options->auto_unmount = true;
	return 0;
}

static int word_sandbox(struct parser *parser, const char *value)
{
	parser->options->no_sandbox = !strcmp(value, "off");
	if (strcmp(value, "on") && strcmp(value, "off"))
		return complain(parser, "-o sandbox=%s: give on or off", value);
	return 0;
}

static int word_threads(struct parser *parser, const char *value)
{
	unsigned long number;

	if (parse_number(value, 10, OPTIONS_THREADS_MAX, &number) < 0 || number == 0)
		return complain(parser, "-o threads=%s: give a number from 1 to %u", value,
				OPTIONS_THREADS_MAX);
	parser->options->nb_threads = (unsigned)number;
	return 0;
}

static int word_l2_cache(struct parser *parser, const char *value)
{
	if (parse_size(value, &parser->options->l2_cache_bytes) < 0)
		return complain(parser, "-o l2_cache=%s: give a size such as 32M", value);
	return 0;
}

static int word_cache(struct parser *parser, const char *value)
{
	struct options *options = parser->options;

	if (!strcmp(value, "auto"))
		options->cache = CACHE_AUTO;
	else if (!strcmp(value, "none"))
		options->cache = CACHE_NONE;
	else if (!strcmp(value, "writeback"))
		options->cache = CACHE_WRITEBACK;
	else
		return complain(parser, "-o cache=%s: give auto, none or writeback", value);
	return 0;
}

static int word_io(struct parser *parser, const char *value)
{
	if (strcmp(value, "auto") && strcmp(value, "uring") && strcmp(value, "threads"))
		return complain(parser, "-o io=%s: give auto, uring or threads", value);
	return set_string(&parser->options->engine, value);
}

static int word_transport(struct parser *parser, const char *value)
{
	struct options *options = parser->options;

	if (!strcmp(value, "auto"))
		options->transport = WISH_AUTO;
	else if (!strcmp(value, "dev"))
		options->transport = WISH_DEV;
	else if (!strcmp(value, "uring"))
		options->transport = WISH_URING;
	else
		return complain(parser, "-o transport=%s: give auto, dev or uring", value);
	return 0;
}

static int word_name(struct parser *parser, const char *value)
{
	if (!*value || strchr(value, '/') || !strcmp(value, ".") || !strcmp(value, ".."))
		return complain(parser, "-o name=%s: give a file name", value);
	return set_string(&parser->options->name, value);
}

static int word_uid(struct parser *parser, const char *value)
{
	const struct passwd *user;
	unsigned long number;

	if (parse_number(value, 10, UINT_MAX - 1, &number) == 0) {
		parser->options->uid = (uid_t)number;
	} else {
		user = getpwnam(value);
		if (!user)
			return complain(parser, "-o uid=%s: no such user", value);
		parser->options->uid = user->pw_uid;
	}
	parser->options->has_uid = true;
	return 0;
}

static int word_gid(struct parser *parser, const char *value)
{
	const struct group *group;
	unsigned long number;

	if (parse_number(value, 10, UINT_MAX - 1, &number) == 0) {
		parser->options->gid = (gid_t)number;
	} else {
		group = getgrnam(value);
		if (!group)
			return complain(parser, "-o gid=%s: no such group", value);
		parser->options->gid = group->gr_gid;
	}
	parser->options->has_gid = true;
	return 0;
}

static int word_umask(struct parser *parser, const char *value)
{
	unsigned long number;

	if (parse_number(value, 8, 0777, &number) < 0)
		return complain(parser, "-o umask=%s: give an octal number such as 022", value);
	parser->options->umask = (mode_t)number;
	parser->options->has_umask = true;
	return 0;
}

/* ---- words that the kernel or libfuse wants too ---- */

static int pass_on(struct parser *parser, const char *word, const char *value)
{
	struct options *options = parser->options;
	const char *parts[2] = {word, value};
	size_t room = strlen(word) + 2 * strlen(value) + 2, used = 0;
	char *joined;

	if (options->kernel_words)
		used = strlen(options->kernel_words);
	joined = realloc(options->kernel_words, used + room);
	if (!joined)
		return -ENOMEM;
	options->kernel_words = joined;
	if (used)
		joined[used++] = ',';
	for (unsigned i = 0; i < 2; i++) {
		for (const char *from = parts[i]; *from; from++) {
			if (*from == ',' || *from == '\\')
				joined[used++] = '\\';
			joined[used++] = *from;
		}
	}
	joined[used] = '\0';
	return 0;
}

static int word_allow_other(struct parser *parser, const char *value)
{
	parser->options->allow_other = true;
	return 0;
}

static int word_allow_root(struct parser *parser, const char *value)
{
	parser->options->allow_root = true;
	return 0;
}

/* Always asked for, except where somebody else mounts: see session.c. */
static int word_default_permissions(struct parser *parser, const char *value)
{
	parser->options->default_permissions = true;
	return 0;
}

static int word_sync(struct parser *parser, const char *value)
{
	parser->options->sync = true;
	return 0;
}

static int word_async(struct parser *parser, const char *value)
{
	parser->options->sync = false;
	return 0;
}

static int word_fsname(struct parser *parser, const char *value)
{
	parser->options->has_fsname = true;
	return 0;
}

static int word_subtype(struct parser *parser, const char *value)
{
	parser->options->has_subtype = true;
	return 0;
}

static int word_max_read(struct parser *parser, const char *value)
{
	unsigned long number;

	if (parse_number(value, 10, UINT_MAX, &number) < 0 || number < 4096)
		return complain(parser, "-o max_read=%s: give a number of bytes", value);
	parser->options->max_read_bytes = (unsigned)number;
	return 0;
}

enum word_kind {
	WORD_OWN,     /* store() takes it */
	WORD_KERNEL,  /* passed on, after store() where there is one */
	WORD_REFUSED, /* store() says what to do instead */
	WORD_IGNORE,  /* meant for mount(8) or systemd, or without effect on a single file */
};

struct word {
	const char *name; /* ends with '=' when a value follows, with '*' when anything may */
	enum word_kind kind;
	int (*store)(struct parser *parser, const char *value);
};

static const struct word word_table[] = {
	{"ro", WORD_OWN, word_ro},
	{"rw", WORD_OWN, word_rw},
	{"snapshot=", WORD_OWN, word_snapshot},
	{"backing=", WORD_OWN, word_backing},
	{"backing_file=", WORD_OWN, word_backing_file},
	{"data_file=", WORD_OWN, word_data_file},
	{"overlay", WORD_OWN, word_overlay},
	{"overlay=", WORD_OWN, word_overlay_file},
	{"name=", WORD_OWN, word_name},
	{"snapshots", WORD_OWN, word_snapshots},
	{"partitions", WORD_OWN, word_partitions},
	{"timeout=", WORD_OWN, word_timeout},
	{"auto_unmount", WORD_OWN, word_auto_unmount},
	{"sandbox=", WORD_OWN, word_sandbox},
	{"uid=", WORD_OWN, word_uid},
	{"gid=", WORD_OWN, word_gid},
	{"umask=", WORD_OWN, word_umask},
	{"discard=", WORD_OWN, word_discard},
	{"grow", WORD_OWN, word_grow},
	{"shrink", WORD_OWN, word_shrink},
	{"threads=", WORD_OWN, word_threads},
	{"max_threads=", WORD_OWN, word_threads},
	{"l2_cache=", WORD_OWN, word_l2_cache},
	{"cache=", WORD_OWN, word_cache},
	{"io=", WORD_OWN, word_io},
	{"transport=", WORD_OWN, word_transport},

	{"allow_other", WORD_KERNEL, word_allow_other},
	{"allow_root", WORD_KERNEL, word_allow_root},
	{"fsname=", WORD_KERNEL, word_fsname},
	{"subtype=", WORD_KERNEL, word_subtype},
	{"max_read=", WORD_KERNEL, word_max_read},
	{"sync", WORD_KERNEL, word_sync},
	{"async", WORD_KERNEL, word_async},
	{"dirsync", WORD_KERNEL},
	{"exec", WORD_KERNEL},
	{"noexec", WORD_KERNEL},
	{"atime", WORD_KERNEL},
	{"noatime", WORD_KERNEL},
	{"context=", WORD_KERNEL},
	{"fscontext=", WORD_KERNEL},
	{"defcontext=", WORD_KERNEL},
	{"rootcontext=", WORD_KERNEL},

	/* nosuid and nodev hold always: there are no programs and devices here. */
	{"dev", WORD_IGNORE},
	{"nodev", WORD_IGNORE},
	{"suid", WORD_IGNORE},
	{"nosuid", WORD_IGNORE},
	{"remount", WORD_REFUSED, word_remount},
	{"default_permissions", WORD_OWN, word_default_permissions},
	{"defaults", WORD_IGNORE},
	{"auto", WORD_IGNORE},
	{"noauto", WORD_IGNORE},
	{"fail", WORD_IGNORE},
	{"nofail", WORD_IGNORE},
	{"user", WORD_IGNORE},
	{"user=", WORD_IGNORE},
	{"nouser", WORD_IGNORE},
	{"users", WORD_IGNORE},
	{"owner", WORD_IGNORE},
	{"group", WORD_IGNORE},
	{"_netdev", WORD_IGNORE},
	{"comment=", WORD_IGNORE},
	{"x-*", WORD_IGNORE},
	{"X-*", WORD_IGNORE},
	{"relatime", WORD_IGNORE},
	{"norelatime", WORD_IGNORE},
	{"strictatime", WORD_IGNORE},
	{"nostrictatime", WORD_IGNORE},
	{"diratime", WORD_IGNORE},
	{"nodiratime", WORD_IGNORE},
	{"lazytime", WORD_IGNORE},
	{"nolazytime", WORD_IGNORE},
	{"iversion", WORD_IGNORE},
	{"noiversion", WORD_IGNORE},
	{"mand", WORD_IGNORE},
	{"nomand", WORD_IGNORE},
	{"silent", WORD_IGNORE},
	{"loud", WORD_IGNORE},
	{"symfollow", WORD_IGNORE},
	{"nosymfollow", WORD_IGNORE},
	{"clone_fd", WORD_IGNORE},
	{"max_idle_threads=", WORD_IGNORE},
};

/* Does `text` match? *ret_value is what follows the name. */
static bool word_matches(const struct word *word, const char *text, const char **ret_value)
{
	size_t len = strlen(word->name);
	char last = word->name[len - 1];

	if (last == '*') {
		*ret_value = "";
		return !strncmp(text, word->name, len - 1);
	}
	*ret_value = text + len;
	return last == '=' ? !strncmp(text, word->name, len) : !strcmp(text, word->name);
}

static int take_word(struct parser *parser, const char *text)
{
	size_t len = strcspn(text, "=");

	for (size_t i = 0; i < sizeof(word_table) / sizeof(word_table[0]); i++) {
		const struct word *word = &word_table[i];
		const char *value;
		int res = 0;

		if (!word_matches(word, text, &value))
			continue;
		if (word->name[strlen(word->name) - 1] == '=' && !*value && word->kind == WORD_OWN)
			return complain(parser, "-o %s needs a value", text);
		if (word->store)
			res = word->store(parser, value);
		if (res == 0 && word->kind == WORD_KERNEL)
			res = pass_on(parser, word->name, value);
		return res;
	}
	for (size_t i = 0; i < sizeof(word_table) / sizeof(word_table[0]); i++) {
		const char *name = word_table[i].name;

		if (strlen(name) == len + 1 && name[len] == '=' && !strncmp(text, name, len))
			return complain(parser, "-o %.*s needs a value", (int)len, text);
		if (strlen(name) == len && !strncmp(text, name, len))
			return complain(parser, "-o %.*s takes no value", (int)len, text);
	}
	return complain(parser, "unknown option -o %s", text);
}

/* Splits at commas; a backslash takes the next character as it is. */
int take_words(struct parser *parser, const char *list)
{
	char *word = malloc(strlen(list) + 1);
	int res = 0;

	if (!word)
		return -ENOMEM;
	while (res == 0 && *list) {
		size_t len = 0;

		for (; *list && *list != ','; list++) {
			if (*list == '\\' && list[1])
				list++;
			word[len++] = *list;
		}
		word[len] = '\0';
		if (*list == ',')
			list++;
		if (len > 0)
			res = take_word(parser, word);
	}
	free(word);
	return res;
}
