/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * log: see log.h. A line is put together first and written with one system call,
 * so that lines of several threads do not mix.
 */
#include "fuse/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#define LINE_BYTES 2048

static struct {
	int fd;                /* of --log-file, -1: syslog */
	_Atomic bool detached; /* set while the reactor may already log */
	bool quiet;
} sink = {.fd = -1};

int log_open(const char *path, bool quiet)
{
	sink.quiet = quiet;
	if (path) {
		sink.fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
		return sink.fd < 0 ? -errno : 0;
	}
	openlog("qcow2fs", LOG_PID | LOG_NDELAY, LOG_DAEMON);
	return 0;
}

void log_detach(void)
{
	sink.detached = true;
}

void log_close(void)
{
	if (sink.fd >= 0)
		close(sink.fd);
	else
		closelog();
	sink.fd = -1;
}

static void write_line(int fd, char *line, size_t len)
{
	ssize_t res;

	do
		res = write(fd, line, len);
	while (res < 0 && errno == EINTR);
}

void log_print(enum log_level level, const char *fmt, ...)
{
	static const int priorities[] = {
		[LOG_LEVEL_ERROR] = LOG_ERR,
		[LOG_LEVEL_WARNING] = LOG_WARNING,
		[LOG_LEVEL_INFO] = LOG_INFO,
	};
	char line[LINE_BYTES];
	size_t len = 0;
	va_list ap;
	int res;

	if (!sink.detached && sink.quiet && level != LOG_LEVEL_ERROR)
		return;
	if (sink.detached && sink.fd >= 0) {
		time_t now = time(NULL);
		struct tm tm;

		localtime_r(&now, &tm);
		len = strftime(line, sizeof(line), "%Y-%m-%dT%H:%M:%S%z ", &tm);
	}
	if (!sink.detached || sink.fd >= 0)
		len += (size_t)sprintf(line + len, "qcow2fs: ");
	va_start(ap, fmt);
	res = vsnprintf(line + len, sizeof(line) - len - 1, fmt, ap);
	va_end(ap);
	if (res < 0)
		return;
	len = len + (size_t)res < sizeof(line) - 2 ? len + (size_t)res : sizeof(line) - 2;
	if (sink.detached && sink.fd < 0) {
		syslog(priorities[level], "%.*s", (int)len, line);
		return;
	}
	line[len++] = '\n';
	write_line(sink.detached ? sink.fd : STDERR_FILENO, line, len);
}

bool log_limit_pass(struct log_limit *limit, unsigned *ret_dropped)
{
	struct timespec now;
	int64_t period, seen = limit->period;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	/* Periods count from 1, so that a limit of zero bytes begins a new one. */
	period = now.tv_sec / LOG_PERIOD_S + 1;
	if (seen != period && atomic_compare_exchange_strong(&limit->period, &seen, period))
		limit->used = 0;
	if (atomic_fetch_add(&limit->used, 1) >= LOG_BURST) {
		atomic_fetch_add(&limit->dropped, 1);
		return false;
	}
	*ret_dropped = atomic_exchange(&limit->dropped, 0);
	return true;
}
