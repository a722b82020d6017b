/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * log: where messages go: to standard error while a person waits, afterwards to
 * syslog or to the file of --log-file. Every message is one line. [any thread]
 *
 * Once requests are served, a thread of its own writes: a pipe that nobody reads, or a log on a
 * disk that does not answer, holds up no request. What comes while the queue is full is lost and
 * counted.
 */
#ifndef QCOW2FS_FUSE_LOG_H
#define QCOW2FS_FUSE_LOG_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum log_level {
	LOG_LEVEL_ERROR,
	LOG_LEVEL_WARNING,
	LOG_LEVEL_INFO,
	LOG_LEVEL_DEBUG, /* for --debug: not prefixed */
};

/*
 * Opens what will be logged to after log_detach(): the file, or nothing (for syslog) when path is
 * NULL. Returns 0 or -errno. With `quiet`, warnings to standard error are dropped.
 */
int log_open(const char *path, bool quiet);
/* From now on who logs does not wait. Returns 0 or -errno. */
int log_start_thread(void);
struct helper;
/* From now on to the file, or through the helper to syslog, instead of standard error. */
void log_detach(struct helper *helper);
/*
 * Writes what is left, as far as somebody takes it within a second. Nothing is logged any more.
 */
void log_close(void);

void log_print(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_print(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_print(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...) log_print(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_print(LOG_LEVEL_DEBUG, __VA_ARGS__)

/* Lets LOG_BURST messages through in every LOG_PERIOD_S and counts the others. */
#define LOG_BURST 10u
#define LOG_PERIOD_S 10u
struct log_limit {
	_Atomic int64_t period; /* number of the period that `used` is about */
	_Atomic unsigned used, dropped;
};
/* May a message be printed now? *ret_dropped: how many were not since the last one. */
bool log_limit_pass(struct log_limit *limit, unsigned *ret_dropped);

#endif
