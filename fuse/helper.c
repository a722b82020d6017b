/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * helper: see helper.h.
 *
 * Both talk by packets: a struct order, followed by a line for ORDER_LOG, which is not
 * answered; then an int, 0 or -errno. Whoever has taken the server over can send all of these and
 * nothing else: unmount its own mount, write and remove its own pid file, fill the log.
 *
 * The server's end never blocks, so that no request waits for a log.
 *
 * Of a server that dies the helper learns by the end of the conversation, whatever becomes of the
 * server's other files at what time. With auto_unmount it then detaches the mount, by its
 * identity, which it has been told before anything was served.
 */
#include "fuse/helper.h"

#include "fuse/mountpoint.h"
#include "io/stdio.h"
#include "io/text.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <syslog.h>
#include <unistd.h>

#define READ_AHEAD_KIB 4096u
#define LINE_BYTES 2048u

#ifndef SYS_close_range
#define SYS_close_range 436
#endif

enum order_kind {
	ORDER_MOUNTED,
	ORDER_TRY_MOUNT,
	ORDER_SETTLE,
	ORDER_DETACH,
	ORDER_LOG,
	ORDER_END,
};

struct order {
	enum order_kind kind;
	int argument; /* ORDER_DETACH: lazily; ORDER_LOG: the priority */
};

struct packet {
	struct order order;
	char line[LINE_BYTES];
};

struct helper {
	int fd;
	pid_t pid;
};

/* ---- in the helper ---- */

struct duty {
	/* what it was started with: */
	struct helper_params params;
	pid_t server;
	int fd;
	/* what has come of it: */
	bool has_pidfile, is_mounted;
	struct mount_id mount; /* when is_mounted */
};

/*
 * The mount's read-ahead lets one sequential reader keep several large requests under way.
 * Only root may set it, and nothing depends on it.
 */
static void raise_read_ahead(dev_t dev)
{
	char path[96];
	FILE *file;

	snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/read_ahead_kb", major(dev), minor(dev));
	file = fopen(path, "we");
	if (!file)
		return;
	fprintf(file, "%u\n", READ_AHEAD_KIB);
	fclose(file);
}

static int note_mount(struct duty *duty)
{
	int res = mountpoint_identify(duty->params.mountpoint, &duty->mount);

	duty->is_mounted = res == 0;
	return res;
}

static int try_mount(const struct duty *duty)
{
	struct stat st;

	if (stat(duty->params.mountpoint, &st) < 0)
		return -errno;
	raise_read_ahead(st.st_dev);
	return 0;
}

static int write_pidfile(struct duty *duty)
{
	FILE *file = fopen(duty->params.pidfile, "we");
	char *absolute;

	if (!file)
		return -errno;
	fprintf(file, "%ld\n", (long)duty->server);
	duty->has_pidfile = true;
	if (fclose(file) != 0)
		return -errno;
	/* It is removed after the working directory has changed. */
	absolute = realpath(duty->params.pidfile, NULL);
	if (absolute)
		duty->params.pidfile = absolute;
	return 0;
}

static int settle(struct duty *duty)
{
	int res = duty->params.pidfile ? write_pidfile(duty) : 0;

	return res == 0 && chdir("/") < 0 ? -errno : res;
}

/* Once it is gone, another one may be in its place: that one is left alone. */
static int detach(const struct duty *duty, bool lazy)
{
	if (!duty->is_mounted)
		return -EINVAL;
	return mountpoint_detach_mount(duty->params.mountpoint, &duty->mount, lazy);
}

static void log_line(const struct duty *duty, int priority, char *line)
{
	text_make_printable(line);
	syslog(priority & LOG_PRIMASK, "%s", line);
}

static int obey(struct duty *duty, const struct order *order)
{
	switch (order->kind) {
	case ORDER_MOUNTED:
		return duty->params.mountpoint ? note_mount(duty) : 0;
	case ORDER_TRY_MOUNT:
		return duty->params.mountpoint ? try_mount(duty) : 0;
	case ORDER_SETTLE:
		return settle(duty);
	case ORDER_DETACH:
		return detach(duty, order->argument);
	case ORDER_END:
		if (duty->has_pidfile)
			unlink(duty->params.pidfile);
		return 0;
	default:
		return -EINVAL;
	}
}

static void serve(struct duty *duty) __attribute__((noreturn));
static void serve(struct duty *duty)
{
	struct packet packet;
	ssize_t len;
	int res;

	while ((len = read(duty->fd, &packet, sizeof(packet) - 1)) > 0 ||
	       (len < 0 && errno == EINTR)) {
		if (len < (ssize_t)sizeof(packet.order))
			continue;
		((char *)&packet)[len] = '\0';
		if (packet.order.kind == ORDER_LOG) {
			log_line(duty, packet.order.argument, packet.line);
			continue;
		}
		res = obey(duty, &packet.order);
		if (write(duty->fd, &res, sizeof(res)) < 0)
			break;
	}
	if (duty->params.auto_unmount)
		detach(duty, true);
	_exit(0);
}

static void close_all_but(int keep)
{
	if (keep > STDERR_FILENO + 1)
		syscall(SYS_close_range, STDERR_FILENO + 1, keep - 1, 0);
	if (syscall(SYS_close_range, keep + 1, ~0u, 0) == 0)
		return;
	for (int fd = STDERR_FILENO + 1; fd < sysconf(_SC_OPEN_MAX); fd++) {
		if (fd != keep)
			close(fd);
	}
}

/* Nothing of the caller's shall stay open: pipes to it, the FUSE device. */
static void begin(struct duty *duty)
{
	int null_fd = open("/dev/null", O_RDWR);
	char ident[32];
	sigset_t all;

	if (null_fd >= 0)
		stdio_replace(null_fd);
	close_all_but(duty->fd);
	/* Signals for the whole group, session or unit are the server's business. */
	setsid();
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	prctl(PR_SET_NAME, "qcow2fs-helper");
	snprintf(ident, sizeof(ident), "qcow2fs[%ld]", (long)duty->server);
	openlog(ident, LOG_NDELAY, LOG_DAEMON);
	serve(duty);
}

/* ---- in the server ---- */

int helper_start(const struct helper_params *params, struct helper **ret_helper)
{
	struct duty duty = {.params = *params, .server = getpid()};
	struct helper *helper = calloc(1, sizeof(*helper));
	int fds[2], res = 0;

	if (!helper)
		return -ENOMEM;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0) {
		free(helper);
		return -errno;
	}
	helper->fd = fds[0];
	helper->pid = fork();
	if (helper->pid == 0) {
		duty.fd = fds[1];
		begin(&duty);
	}
	if (helper->pid < 0 || fcntl(fds[0], F_SETFL, O_NONBLOCK) < 0)
		res = -errno;
	close(fds[1]);
	if (res < 0) {
		close(fds[0]);
		free(helper);
		return res;
	}
	*ret_helper = helper;
	return 0;
}

static void await(struct helper *helper, short events)
{
	struct pollfd fds = {.fd = helper->fd, .events = events};

	poll(&fds, 1, -1);
}

/* Returns what the helper answers, or -errno. */
static int ask(struct helper *helper, enum order_kind kind, int argument)
{
	struct order order = {.kind = kind, .argument = argument};
	int answer;
	ssize_t len;

	while ((len = write(helper->fd, &order, sizeof(order))) < 0 &&
	       (errno == EAGAIN || errno == EINTR))
		await(helper, POLLOUT);
	if (len < 0)
		return -errno;
	while ((len = read(helper->fd, &answer, sizeof(answer))) < 0 &&
	       (errno == EAGAIN || errno == EINTR))
		await(helper, POLLIN);
	return len == sizeof(answer) ? answer : -EPIPE;
}

int helper_note_mount(struct helper *helper)
{
	return ask(helper, ORDER_MOUNTED, 0);
}

int helper_try_mount(struct helper *helper)
{
	return ask(helper, ORDER_TRY_MOUNT, 0);
}

int helper_settle(struct helper *helper)
{
	return ask(helper, ORDER_SETTLE, 0);
}

int helper_detach(struct helper *helper, bool lazy)
{
	return ask(helper, ORDER_DETACH, lazy);
}

void helper_log(struct helper *helper, int priority, const char *line, size_t len)
{
	struct packet packet = {.order = {.kind = ORDER_LOG, .argument = priority}};

	if (len > LINE_BYTES - 1)
		len = LINE_BYTES - 1;
	memcpy(packet.line, line, len);
	while (write(helper->fd, &packet, offsetof(struct packet, line) + len) < 0 &&
	       errno == EINTR)
		;
}

void helper_end(struct helper *helper)
{
	if (!helper)
		return;
	ask(helper, ORDER_END, 0);
	close(helper->fd);
	while (waitpid(helper->pid, NULL, 0) < 0 && errno == EINTR)
		;
	free(helper);
}
