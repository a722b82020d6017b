/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * log: see log.h. A line is put together first and written with one system call,
 * so that lines of several threads do not mix.
 *
 * The thread takes all that has been queued at once: one of two batches is filled
 * while the other one is written.
 */
#include "fuse/log.h"

#include "fuse/helper.h"
#include "io/text.h"
#include "io/thread.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#define LINE_BYTES 2048
/* A time, the prefix, the newline. */
#define STAMP_BYTES 64
#define BATCH_BYTES (256u << 10)
/* How long the end waits for somebody to read the last lines. */
#define CLOSE_S 1

static struct {
	int fd;                /* of --log-file, -1: syslog */
	struct helper *helper; /* who logs there */
	_Atomic bool detached; /* set while the reactor may already log */
	bool quiet;
} sink = {.fd = -1};

/* In a batch, followed by the text. */
struct line {
	time_t time;
	enum log_level level;
	unsigned len;
};

struct batch {
	size_t used;
	unsigned nb_lost; /* found no room */
	char bytes[BATCH_BYTES];
};

static struct {
	pthread_t thread;
	pthread_mutex_t mutex;
	pthread_cond_t filled, written;
	struct batch batches[2];
	struct batch *filling;
	_Atomic bool started;
	bool writing, stopping;
} queue = {.mutex = PTHREAD_MUTEX_INITIALIZER, .filled = PTHREAD_COND_INITIALIZER};

int log_open(const char *path, bool quiet)
{
	sink.quiet = quiet;
	if (path) {
		sink.fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
		/* The time zone's file cannot be read later. */
		tzset();
		return sink.fd < 0 ? -errno : 0;
	}
	return 0;
}

/* ---- writing ---- */

static void write_line(int fd, const char *line, size_t len)
{
	ssize_t res;

	do
		res = write(fd, line, len);
	while (res < 0 && errno == EINTR);
}

static void write_text(enum log_level level, time_t when, const char *text, size_t len)
{
	static const int priorities[] = {
		[LOG_LEVEL_ERROR] = LOG_ERR,
		[LOG_LEVEL_WARNING] = LOG_WARNING,
		[LOG_LEVEL_INFO] = LOG_INFO,
		[LOG_LEVEL_DEBUG] = LOG_DEBUG,
	};
	char line[STAMP_BYTES + LINE_BYTES];
	bool detached = sink.detached;
	size_t used = 0;
	struct tm tm;

	if (detached && sink.fd < 0) {
		if (sink.helper)
			helper_log(sink.helper, priorities[level], text, len);
		return;
	}
	if (detached) {
		localtime_r(&when, &tm);
		used = strftime(line, sizeof(line), "%Y-%m-%dT%H:%M:%S%z ", &tm);
	}
	if (level != LOG_LEVEL_DEBUG)
		used += (size_t)sprintf(line + used, "qcow2fs: ");
	memcpy(line + used, text, len);
	used += len;
	line[used++] = '\n';
	write_line(detached ? sink.fd : STDERR_FILENO, line, used);
}

/* ---- the thread ---- */

static void write_batch(struct batch *batch)
{
	struct line line;
	char note[64];

	for (size_t at = 0; at < batch->used; at += line.len) {
		memcpy(&line, batch->bytes + at, sizeof(line));
		at += sizeof(line);
		write_text(line.level, line.time, batch->bytes + at, line.len);
	}
	if (batch->nb_lost)
		write_text(LOG_LEVEL_WARNING, time(NULL), note,
			   (size_t)sprintf(note, "%u messages were lost: they came too fast",
					   batch->nb_lost));
}

static void *write_queue(void *arg)
{
	(void)arg;
	pthread_mutex_lock(&queue.mutex);
	for (;;) {
		struct batch *batch = queue.filling;

		if (batch->used > 0) {
			queue.filling = &queue.batches[batch == &queue.batches[0]];
			queue.writing = true;
			pthread_mutex_unlock(&queue.mutex);
			write_batch(batch);
			batch->used = batch->nb_lost = 0;
			pthread_mutex_lock(&queue.mutex);
			queue.writing = false;
			pthread_cond_broadcast(&queue.written);
		} else if (queue.stopping) {
			break;
		} else {
			pthread_cond_wait(&queue.filled, &queue.mutex);
		}
	}
	pthread_mutex_unlock(&queue.mutex);
	return NULL;
}

int log_start_thread(void)
{
	pthread_condattr_t attr;
	int res;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&queue.written, &attr);
	pthread_condattr_destroy(&attr);
	queue.filling = &queue.batches[0];
	res = thread_start(&queue.thread, "qf-log", write_queue, NULL);
	queue.started = res == 0;
	return res;
}

static void enqueue(const struct line *line, const char *text)
{
	struct batch *batch;

	pthread_mutex_lock(&queue.mutex);
	batch = queue.filling;
	if (sizeof(*line) + line->len <= BATCH_BYTES - batch->used) {
		memcpy(batch->bytes + batch->used, line, sizeof(*line));
		memcpy(batch->bytes + batch->used + sizeof(*line), text, line->len);
		batch->used += sizeof(*line) + line->len;
	} else {
		batch->nb_lost++;
	}
	pthread_cond_signal(&queue.filled);
	pthread_mutex_unlock(&queue.mutex);
}

/* Whether everything has been written, after a while. */
static bool flush(void)
{
	struct timespec until;
	bool done;
	int res = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += CLOSE_S;
	pthread_mutex_lock(&queue.mutex);
	while (res == 0 && (queue.writing || queue.filling->used > 0))
		res = pthread_cond_timedwait(&queue.written, &queue.mutex, &until);
	done = !queue.writing && queue.filling->used == 0;
	pthread_mutex_unlock(&queue.mutex);
	return done;
}

void log_detach(struct helper *helper)
{
	if (queue.started)
		flush();
	sink.helper = helper;
	sink.detached = true;
}

void log_close(void)
{
	if (queue.started) {
		/* A thread that waits for a reader ends with the process. */
		if (!flush())
			return;
		pthread_mutex_lock(&queue.mutex);
		queue.stopping = true;
		pthread_cond_signal(&queue.filled);
		pthread_mutex_unlock(&queue.mutex);
		pthread_join(queue.thread, NULL);
		queue.started = false;
	}
	if (sink.fd >= 0)
		close(sink.fd);
	sink.fd = -1;
	sink.helper = NULL;
}

/* ---- whoever has something to say ---- */

void log_print(enum log_level level, const char *fmt, ...)
{
	struct line line = {.time = time(NULL), .level = level};
	char text[LINE_BYTES];
	va_list ap;
	int res;

	if (!sink.detached && sink.quiet && (level == LOG_LEVEL_WARNING || level == LOG_LEVEL_INFO))
		return;
	va_start(ap, fmt);
	res = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (res < 0)
		return;
	text_make_printable(text);
	line.len = (size_t)res < sizeof(text) ? (unsigned)res : sizeof(text) - 1;
	if (queue.started)
		enqueue(&line, text);
	else
		write_text(level, line.time, text, line.len);
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
