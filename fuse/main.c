/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * qcow2fs: shows qcow2 images as raw disks.
 */
#include "fuse/log.h"
#include "fuse/options.h"
#include "fuse/session.h"
#include "fuse/unmount.h"
#include "io/stdio.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What was asked for and could not be written is a failure. */
static enum exit_status check_output(void)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return EXIT_OK;
	log_error("standard output: %s", strerror(errno));
	return EXIT_SYSTEM;
}

int main(int argc, char **argv)
{
	struct options options;
	enum exit_status status = EXIT_OK;
	char *message;
	int res = stdio_reserve();

	/* Of a caller that ignores it this is inherited, and waiting for a child would fail. */
	signal(SIGCHLD, SIG_DFL);
	/* mount(8) gives the options last, and the environment that it has. */
	unsetenv("POSIXLY_CORRECT");
	if (res < 0) {
		log_error("/dev/null: %s", strerror(-res));
		return EXIT_SYSTEM;
	}
	res = options_parse(&options, argc, argv, &message);
	if (res < 0) {
		log_error("%s", message ? message : strerror(-res));
		fprintf(stderr, "Try 'qcow2fs --help'.\n");
		free(message);
		options_finish(&options);
		return res == -ENOMEM ? EXIT_SYSTEM : EXIT_USAGE;
	}
	switch (options.action) {
	case ACTION_HELP:
		fputs(options_help(), stdout);
		status = check_output();
		break;
	case ACTION_VERSION:
		printf("qcow2fs %s\n", QCOW2FS_VERSION);
		status = check_output();
		break;
	case ACTION_MOUNT:
		session_run(&options);
	case ACTION_UNMOUNT:
		status = unmount_run(&options);
		break;
	case ACTION_NOTHING:
		break;
	}
	options_finish(&options);
	return status;
}
