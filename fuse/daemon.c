/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * daemon: see daemon.h.
 */
#include "fuse/daemon.h"

#include "fuse/helper.h"
#include "fuse/log.h"
#include "fuse/options.h"
#include "io/stdio.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* Out of the way of the standard streams, which become /dev/null. 0 or -errno. */
static int take_ready_fd(struct daemon *daemon, int fd)
{
	daemon->ready_fd = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	if (daemon->ready_fd < 0)
		return -errno;
	if (fd > STDERR_FILENO)
		close(fd);
	return 0;
}

/* The parent: the status that the child reports, or what became of it. */
static int await_status(int fd, pid_t child)
{
	int status, wait_status;
	ssize_t res;

	do
		res = read(fd, &status, sizeof(status));
	while (res < 0 && errno == EINTR);
	if (res == sizeof(status))
		return status;
	if (waitpid(child, &wait_status, 0) == child && WIFSIGNALED(wait_status))
		log_error("the server was killed by signal %d (%s)", WTERMSIG(wait_status),
			  strsignal(WTERMSIG(wait_status)));
	else
		log_error("the server ended before it was ready");
	return EXIT_MOUNT;
}

static int go_into_background(struct daemon *daemon)
{
	int fds[2];
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	pid = fork();
	if (pid < 0) {
		int res = -errno;

		close(fds[0]);
		close(fds[1]);
		return res;
	}
	if (pid > 0) {
		close(fds[1]);
		_exit(await_status(fds[0], pid));
	}
	close(fds[0]);
	setsid();
	daemon->status_fd = fds[1];
	return 0;
}

int daemon_begin(struct daemon *daemon, bool foreground, int ready_fd, const char *pidfile)
{
	int res;

	*daemon = (struct daemon){.status_fd = -1,
				  .ready_fd = -1,
				  .null_fd = -1,
				  .notify_fd = -1,
				  .pidfile = pidfile};
	res = ready_fd >= 0 ? take_ready_fd(daemon, ready_fd) : 0;
	if (res < 0) {
		log_error("--ready-fd=%d: %s", ready_fd, strerror(-res));
		return res;
	}
	res = foreground ? 0 : go_into_background(daemon);
	if (res < 0)
		log_error("cannot start: %s", strerror(-res));
	return res;
}

static void tell_status(struct daemon *daemon, int status)
{
	ssize_t res;

	if (daemon->status_fd < 0)
		return;
	do
		res = write(daemon->status_fd, &status, sizeof(status));
	while (res < 0 && errno == EINTR);
	close(daemon->status_fd);
	daemon->status_fd = -1;
}

/* Connected now: a confined server makes no sockets. */
static void open_notify(struct daemon *daemon)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	socklen_t len;

	if (!path || !path[0] || strlen(path) >= sizeof(address.sun_path))
		return;
	strcpy(address.sun_path, path);
	len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
	if (path[0] == '@')
		address.sun_path[0] = '\0';
	daemon->notify_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (daemon->notify_fd < 0 ||
	    connect(daemon->notify_fd, (struct sockaddr *)&address, len) == 0)
		return;
	log_warning("cannot notify the service manager: %s", strerror(errno));
	close(daemon->notify_fd);
	daemon->notify_fd = -1;
}

int daemon_prepare(struct daemon *daemon, const char *mountpoint, bool auto_unmount)
{
	open_notify(daemon);
	if (daemon->status_fd >= 0) {
		daemon->null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
		if (daemon->null_fd < 0)
			return -errno;
	}
	return helper_start(&(struct helper_params){.mountpoint = mountpoint,
						    .pidfile = daemon->pidfile,
						    .auto_unmount = auto_unmount},
			    &daemon->helper);
}

int daemon_leave_folder(const struct daemon *daemon)
{
	return daemon->status_fd >= 0 && chdir("/") < 0 ? -errno : 0;
}

/* Whoever waited for the start was killed: to everybody it has failed, so it shall have. */
static bool is_abandoned(const struct daemon *daemon)
{
	struct pollfd fds = {.fd = daemon->status_fd}; /* POLLERR: nobody can read it */

	return poll(&fds, 1, 0) > 0;
}

static void close_streams(struct daemon *daemon)
{
	fflush(stdout);
	stdio_replace(daemon->null_fd);
	close(daemon->null_fd);
}

int daemon_ready(struct daemon *daemon)
{
	int res = is_abandoned(daemon) ? -ECANCELED : helper_settle(daemon->helper);

	if (res < 0)
		return res;
	if (daemon->status_fd >= 0) {
		log_detach(daemon->helper);
		close_streams(daemon);
	}
	if (daemon->ready_fd >= 0) {
		if (write(daemon->ready_fd, "\n", 1) < 0)
			log_warning("cannot write to --ready-fd: %s", strerror(errno));
		close(daemon->ready_fd);
		daemon->ready_fd = -1;
	}
	daemon_notify(daemon, "READY=1");
	tell_status(daemon, EXIT_OK);
	return 0;
}

void daemon_end(struct daemon *daemon, int status)
{
	log_close();
	helper_end(daemon->helper);
	tell_status(daemon, status);
	exit(status);
}

void daemon_notify(const struct daemon *daemon, const char *message)
{
	if (daemon->notify_fd >= 0 && write(daemon->notify_fd, message, strlen(message)) < 0)
		log_warning("cannot notify the service manager: %s", strerror(errno));
}
