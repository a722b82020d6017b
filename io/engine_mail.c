/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * engine_mail: executed requests on their way back. See engine_mail.h.
 */
#include "io/engine_mail.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

int io_mail_init(struct io_mail *mail)
{
	*mail = (struct io_mail){.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
	if (mail->fd < 0)
		return -errno;
	pthread_mutex_init(&mail->lock, NULL);
	return 0;
}

void io_mail_finish(struct io_mail *mail)
{
	close(mail->fd);
	pthread_mutex_destroy(&mail->lock);
}

void io_mail_ring(struct io_mail *mail)
{
	/* It fails only when the counter is full, and then the eventfd is readable anyway. */
	while (eventfd_write(mail->fd, 1) < 0 && errno == EINTR)
		;
}

void io_mail_clear(struct io_mail *mail)
{
	eventfd_t count;

	while (eventfd_read(mail->fd, &count) < 0 && errno == EINTR)
		;
}

void io_mail_post(struct io_mail *mail, struct io_req *req)
{
	bool ring;

	req->next = NULL;
	pthread_mutex_lock(&mail->lock);
	if (mail->tail)
		mail->tail->next = req;
	else
		mail->head = req;
	mail->tail = req;
	ring = mail->sleeping;
	mail->sleeping = false;
	pthread_mutex_unlock(&mail->lock);
	if (ring)
		io_mail_ring(mail);
}

unsigned io_mail_deliver(struct io_mail *mail, bool will_sleep)
{
	struct io_req *req, *next;
	unsigned nb_delivered = 0;

	pthread_mutex_lock(&mail->lock);
	req = mail->head;
	mail->head = mail->tail = NULL;
	mail->sleeping = will_sleep && !req;
	pthread_mutex_unlock(&mail->lock);
	for (; req; req = next, nb_delivered++) {
		next = req->next;
		io_complete(req, req->result);
	}
	return nb_delivered;
}

void io_mail_watched(struct io_mail *mail)
{
	struct engine_watch *watch = mail->watch;

	mail->watch = NULL;
	watch->ready(watch);
}

void io_mail_wait(struct io_mail *mail, uint64_t timeout_ns)
{
	/* poll(2) passes over a negative descriptor. */
	struct pollfd fds[] = {
		{.fd = mail->fd, .events = POLLIN},
		{.fd = mail->watch ? mail->watch->fd : -1, .events = POLLIN},
	};
	struct timespec timeout = {
		.tv_sec = (time_t)(timeout_ns / 1000000000u),
		.tv_nsec = (long)(timeout_ns % 1000000000u),
	};

	if (io_mail_deliver(mail, timeout_ns) || !timeout_ns)
		return;
	if (ppoll(fds, 2, timeout_ns == UINT64_MAX ? NULL : &timeout, NULL) > 0) {
		if (fds[0].revents)
			io_mail_clear(mail);
		if (fds[1].revents)
			io_mail_watched(mail);
	}
	io_mail_deliver(mail, false);
}
