/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * options: see options.h. This part takes the switches and the names of files.
 */
#include "fuse/options_int.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

	if (parse_number(value, 10, INT_MAX / 1000, &number) < 0 || number == 0)
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
		parser->switch_r = true;
		return 0;
	case 'w':
		parser->switch_w = true;
		return 0;
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

static int take_mountpoint(struct parser *parser, const char *text)
{
	if (!*text)
		return complain(parser, "the name of the mount point is empty");
	return set_string(&parser->options->mountpoint, text);
}

static int take_positionals(struct parser *parser, int nb, char **args)
{
	struct options *options = parser->options;
	int res;

	if (options->action == ACTION_UNMOUNT) {
		if (nb != 1)
			return complain(parser, "--unmount takes one MOUNTPOINT");
		return take_mountpoint(parser, args[0]);
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
	return take_mountpoint(parser, args[nb - 1]);
}

/* As for mount(8), the last of ro and rw holds; a switch that says the opposite is a mistake. */
static int settle_access(struct parser *parser)
{
	struct options *options = parser->options;

	if (parser->switch_r && parser->switch_w)
		return complain(parser, "-r and -w exclude each other");
	if (parser->switch_r && options->access == ACCESS_WRITABLE)
		return complain(parser, "-r and -o rw exclude each other");
	if (parser->switch_w && options->access == ACCESS_READ_ONLY)
		return complain(parser, "-w and -o ro exclude each other");
	if (parser->switch_r)
		options->access = ACCESS_READ_ONLY;
	if (parser->switch_w)
		options->access = ACCESS_WRITABLE;
	return 0;
}

/* What excludes one another. */
static int check_access(struct parser *parser)
{
	const struct options *options = parser->options;

	if (options->grow && options->access == ACCESS_READ_ONLY)
		return complain(parser, "-o grow is for writing: it excludes -r and -o ro");
	if (options->shrink && options->access == ACCESS_READ_ONLY)
		return complain(parser, "-o shrink is for writing: it excludes -r and -o ro");
	if (options->overlay && options->access == ACCESS_READ_ONLY)
		return complain(parser,
				"-o overlay is there to be written: it excludes -r and -o ro");
	if (options->overlay_file && options->snapshot)
		return complain(parser, "an overlay that is kept cannot record a snapshot: give "
					"-o overlay without a file");
	if (options->snapshot && options->snapshots)
		return complain(parser,
				"-o snapshot= shows one snapshot: it excludes -o snapshots");
	if (options->partitions && options->shrink)
		return complain(parser, "-o partitions excludes -o shrink: what is cut off may be "
					"part of one");
	/* With an overlay it is not the image that is written. */
	if (options->access != ACCESS_WRITABLE || options->overlay)
		return 0;
	if (options->force_share)
		return complain(parser,
				"--force-share reads beside a writer: it excludes -w and -o rw");
	if (options->snapshot)
		return complain(parser, "-o snapshot= is read-only: it excludes -w and -o rw");
	return 0;
}

/* What names one file is for one image. */
static int check_several_images(struct parser *parser)
{
	const struct options *options = parser->options;

	if (options->name)
		return complain(parser, "-o name= is for one image; give NAME=IMAGE");
	if (options->snapshot)
		return complain(parser, "-o snapshot= is for one image");
	if (options->backing_file || options->data_file)
		return complain(parser, "-o backing_file= and data_file= are for one image");
	if (options->overlay_file)
		return complain(parser, "-o overlay=FILE is for one image; give -o overlay");
	return 0;
}

static int check_combination(struct parser *parser)
{
	const struct options *options = parser->options;
	int res;

	if (options->action == ACTION_UNMOUNT)
		return 0;
	if (options->lazy || options->unmount_timeout_s >= 0)
		return complain(parser, "-z and --timeout belong to --unmount");
	res = settle_access(parser);
	if (res == 0)
		res = check_access(parser);
	if (res == 0 && options->nb_images > 1)
		res = check_several_images(parser);
	return res;
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
	if (res == 0 && (ret_options->force_share || ret_options->snapshot) &&
	    !ret_options->overlay)
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
	free(options->overlay_file);
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
