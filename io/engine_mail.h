/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * engine_mail: how executed requests come back from other threads, and the
 * eventfd that ends an engine's sleep.
 *
 * The eventfd is written only when the reactor sleeps or is about to: whoever
 * posts sees `sleeping` under the lock under which the reactor set it after it
 * had found the list empty. Requests travel on io_req.next, so posting cannot
 * fail.
 *
 * It also keeps what the reactor watches besides (engine_ops.watch).
 */
#ifndef QCOW2FS_IO_ENGINE_MAIL_H
#define QCOW2FS_IO_ENGINE_MAIL_H

#include "io/engine.h"

#include <pthread.h>

/* Embedded in an engine; fields are this module's, except that `fd` may be polled. */
struct io_mail {
	pthread_mutex_t lock;
	struct io_req *head, *tail;
	bool sleeping;
	int fd;
	struct engine_watch *watch; /* the reactor's thread's; NULL: nothing */
};

/* 0 or -errno. */
int io_mail_init(struct io_mail *mail);
void io_mail_finish(struct io_mail *mail);

/* Hands back a request whose `result` is set. [any thread] */
void io_mail_post(struct io_mail *mail, struct io_req *req);

/* Completes what has been posted. If there was nothing and `will_sleep` is set, the next
 * post rings the eventfd. Returns the number of completed requests. */
unsigned io_mail_deliver(struct io_mail *mail, bool will_sleep);

/* Ends the sleep under way, or the next one. [any thread] */
void io_mail_ring(struct io_mail *mail);
/* Makes the eventfd silent again. */
void io_mail_clear(struct io_mail *mail);

/* What is watched is readable: tells its owner, and forgets it. */
void io_mail_watched(struct io_mail *mail);

/* Delivers what is there, else sleeps until a post, a ring, what is watched or the timeout, and
 * delivers. */
void io_mail_wait(struct io_mail *mail, uint64_t timeout_ns);

#endif
