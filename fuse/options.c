/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * options: see options.h. The -o words stand in one table: what is ours with a
 * function that stores it, what goes on to the kernel and libfuse, and what
 * mount(8) and fstab(5) say to others and is accepted in silence.
 */
#include "fuse/options.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct parser {
	struct options *options;
	char *message; /* the first complaint */
};

static int complain(struct parser *parser, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

static int complain(struct parser *parser, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (!parser->message && vasprintf(&parser->message, fmt, ap) < 0)
		parser->message = NULL;
	va_end(ap);
	return -EINVAL;
}

static int set_string(char **field, const char *value)
{
	char *copy = strdup(value);

	if (!copy)
		return -ENOMEM;
	free(*field);
	*field = copy;
	return 0;
}

/* A decimal (or, with base 8, octal) number without sign, spaces or rest. */
static int parse_number(const char *text, int base, unsigned long max, unsigned long *ret_value)
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
	WORD_OWN,    /* store() takes it */
	WORD_KERNEL, /* passed on, after store() where there is one */
	WORD_IGNORE, /* meant for mount(8) or systemd, or without effect on a single file */
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
	{"name=", WORD_OWN, word_name},
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

	{"allow_other", WORD_KERNEL, word_allow_other},
	{"allow_root", WORD_KERNEL, word_allow_root},
	{"auto_unmount", WORD_KERNEL},
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
	{"default_permissions", WORD_IGNORE},
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
static int take_words(struct parser *parser, const char *list)
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

/* ---- switches ---- */

enum long_option { LONG_PIDFILE = 256, LONG_LOG_FILE, LONG_READY_FD, LONG_TIMEOUT };

static const struct option long_options[] = {
	{"foreground", no_argument, NULL, 'f'},
	{"debug", no_argument, NULL, 'd'},
	{"quiet", no_argument, NULL, 'q'},
	{"verbose", no_argument, NULL, 'v'},
	{"help", no_argument, NULL, 'h'},
	{"version", no_argument, NULL, 'V'},
	{"read-only", no_argument, NULL, 'r'},
	{"writable", no_argument, NULL, 'w'},
	{"force-share", no_argument, NULL, 'U'},
	{"unmount", no_argument, NULL, 'u'},
	{"lazy", no_argument, NULL, 'z'},
	{"options", required_argument, NULL, 'o'},
	{"pidfile", required_argument, NULL, LONG_PIDFILE},
	{"log-file", required_argument, NULL, LONG_LOG_FILE},
	{"ready-fd", required_argument, NULL, LONG_READY_FD},
	{"timeout", required_argument, NULL, LONG_TIMEOUT},
	{0},
};

static int take_ready_fd(struct parser *parser, const char *value)
{
	unsigned long number;

	if (parse_number(value, 10, INT_MAX, &number) < 0)
		return complain(parser, "--ready-fd=%s: give the number of an open descriptor",
				value);
	parser->options->ready_fd = (int)number;
	return 0;
}

static int take_timeout(struct parser *parser, const char *value)
{
	unsigned long number;

	if (parse_number(value, 10, INT_MAX / 1000, &number) < 0)
		return complain(parser, "--timeout=%s: give a number of seconds", value);
	parser->options->unmount_timeout_s = (int)number;
	return 0;
}

static int take_switch(struct parser *parser, int key, const char *value)
{
	struct options *options = parser->options;

	switch (key) {
	case 'd':
		options->debug = true;
		options->foreground = true;
		return 0;
	case 'f':
		options->foreground = true;
		return 0;
	case 's':
		options->nb_threads = 1;
		return 0;
	case 'q':
		options->quiet = true;
		return 0;
	case 'v':
		options->verbose = true;
		return 0;
	case 'h':
		options->action = ACTION_HELP;
		return 0;
	case 'V':
		options->action = ACTION_VERSION;
		return 0;
	case 'r':
		return word_ro(parser, "");
	case 'w':
		return word_rw(parser, "");
	case 'U':
		options->force_share = true;
		return 0;
	case 'u':
		options->action = ACTION_UNMOUNT;
		return 0;
	case 'z':
		options->lazy = true;
		return 0;
	case 'o':
		return take_words(parser, value);
	case LONG_PIDFILE:
		return set_string(&options->pidfile, value);
	case LONG_LOG_FILE:
		return set_string(&options->log_file, value);
	case LONG_READY_FD:
		return take_ready_fd(parser, value);
	case LONG_TIMEOUT:
		return take_timeout(parser, value);
	default:
		return -EINVAL;
	}
}

/*
 * What mount(8) says to the program behind /sbin/mount.TYPE, where some letters mean
 * something else: -s tolerates unknown words, -f is a dry run, -n leaves mtab alone.
 */
static int take_helper_switch(struct parser *parser, int key, const char *value)
{
	switch (key) {
	case 'f':
		parser->options->action = ACTION_NOTHING;
		return 0;
	case 's':
	case 'n':
	case 't':
		return 0;
	default:
		return take_switch(parser, key, value);
	}
}

static bool is_mount_helper(const char *argv0)
{
	const char *slash = argv0 ? strrchr(argv0, '/') : NULL;

	return argv0 && !strncmp(slash ? slash + 1 : argv0, "mount.", 6);
}

static int take_switches(struct parser *parser, int argc, char **argv)
{
	bool helper = is_mount_helper(argv[0]);
	const char *letters = helper ? ":fnst:rwvo:" : ":fdsqvhVrwUuzo:";
	int key, res = 0;

	optind = 0; /* begin anew, also in a second call */
	while (res == 0 && (key = getopt_long(argc, argv, letters, long_options, NULL)) != -1) {
		if (key == ':')
			return complain(parser, "%s needs a value", argv[optind - 1]);
		if (key == '?' && optopt && optopt < 256)
			return complain(parser, "unknown option -%c", optopt);
		if (key == '?')
			return complain(parser, "unknown or misused option %s", argv[optind - 1]);
		res = helper ? take_helper_switch(parser, key, optarg)
			     : take_switch(parser, key, optarg);
	}
	return res;
}

/* ---- IMAGE... MOUNTPOINT ---- */

/* NAME=IMAGE, unless the name would hold a slash or the whole is an existing file. */
static int take_image(struct parser *parser, const char *text)
{
	struct options *options = parser->options;
	struct image_argument *image = &options->images[options->nb_images];
	const char *equals = strchr(text, '='), *slash = strchr(text, '/');

	if (!*text)
		return complain(parser, "the name of an image is empty");
	options->nb_images++;
	if (equals && equals > text && (!slash || slash > equals) && access(text, F_OK) < 0) {
		image->name = strndup(text, (size_t)(equals - text));
		if (!image->name)
			return -ENOMEM;
		text = equals + 1;
		if (!*text)
			return complain(parser, "%s=: the name of an image is missing",
					image->name);
	}
	return set_string(&image->path, text);
}

static int take_positionals(struct parser *parser, int nb, char **args)
{
	struct options *options = parser->options;
	int res;

	if (options->action == ACTION_UNMOUNT) {
		if (nb != 1)
			return complain(parser, "--unmount takes one MOUNTPOINT");
		return set_string(&options->mountpoint, args[0]);
	}
	if (nb == 0)
		return complain(parser, "IMAGE and MOUNTPOINT are missing");
	if (nb == 1)
		return complain(parser, "MOUNTPOINT is missing");
	if ((unsigned)nb - 1 > OPTIONS_IMAGES_MAX)
		return complain(parser, "more than %u images", OPTIONS_IMAGES_MAX);
	options->images = calloc((size_t)nb - 1, sizeof(*options->images));
	if (!options->images)
		return -ENOMEM;
	for (int i = 0; i < nb - 1; i++) {
		res = take_image(parser, args[i]);
		if (res < 0)
			return res;
	}
	return set_string(&options->mountpoint, args[nb - 1]);
}

/* What excludes one another. */
static int check_combination(struct parser *parser)
{
	const struct options *options = parser->options;

	if (options->action == ACTION_UNMOUNT)
		return 0;
	if (options->lazy || options->unmount_timeout_s >= 0)
		return complain(parser, "-z and --timeout belong to --unmount");
	if (options->force_share && options->access == ACCESS_WRITABLE)
		return complain(parser,
				"--force-share reads beside a writer: it excludes -w and -o rw");
	if (options->snapshot && options->access == ACCESS_WRITABLE)
		return complain(parser, "-o snapshot= is read-only: it excludes -w and -o rw");
	if (options->nb_images > 1) {
		if (options->name)
			return complain(parser, "-o name= is for one image; give NAME=IMAGE");
		if (options->snapshot)
			return complain(parser, "-o snapshot= is for one image");
		if (options->backing_file || options->data_file)
			return complain(parser,
					"-o backing_file= and data_file= are for one image");
	}
	return 0;
}

int options_parse(struct options *ret_options, int argc, char **argv, char **ret_message)
{
	struct parser parser = {.options = ret_options};
	int res;

	*ret_options = (struct options){.ready_fd = -1, .unmount_timeout_s = -1};
	*ret_message = NULL;
	res = set_string(&ret_options->engine, "auto");
	if (res == 0)
		res = take_switches(&parser, argc, argv);
	if (res == 0 && ret_options->action != ACTION_HELP &&
	    ret_options->action != ACTION_VERSION) {
		res = take_positionals(&parser, argc - optind, argv + optind);
		if (res == 0)
			res = check_combination(&parser);
	}
	if (res == 0 && (ret_options->force_share || ret_options->snapshot))
		ret_options->access = ACCESS_READ_ONLY;
	*ret_message = parser.message;
	return res;
}

void options_finish(struct options *options)
{
	for (unsigned i = 0; i < options->nb_images; i++) {
		free(options->images[i].name);
		free(options->images[i].path);
	}
	free(options->images);
	free(options->mountpoint);
	free(options->pidfile);
	free(options->log_file);
	free(options->snapshot);
	free(options->backing_file);
	free(options->data_file);
	free(options->name);
	free(options->engine);
	free(options->kernel_words);
	*options = (struct options){.ready_fd = -1};
}

enum exit_status options_status_of(enum error_class error_class)
{
	switch (error_class) {
	case ERROR_SYSTEM:
		return EXIT_MOUNT;
	case ERROR_OPEN:
		return EXIT_OPEN;
	case ERROR_UNSUPPORTED:
		return EXIT_UNSUPPORTED;
	case ERROR_LOCKED:
		return EXIT_LOCKED;
	case ERROR_CORRUPT:
		return EXIT_CORRUPT;
	case ERROR_BACKING:
		return EXIT_BACKING;
	}
	return EXIT_MOUNT;
}
