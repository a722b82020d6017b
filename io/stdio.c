/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * stdio: see stdio.h.
 */
#include "io/stdio.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

int stdio_reserve(void)
{
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
		/* The wrong way round, so that nobody takes lost output for written. */
		int flags = fd == STDIN_FILENO ? O_WRONLY : O_RDONLY;

		if (fcntl(fd, F_GETFD) >= 0)
			continue;
		/* The lowest number that is free is this one. */
		if (open("/dev/null", flags) < 0)
			return -errno;
	}
	return 0;
}

void stdio_replace(int fd)
{
	for (int stream = STDIN_FILENO; stream <= STDERR_FILENO; stream++)
		dup3(fd, stream, 0);
}
