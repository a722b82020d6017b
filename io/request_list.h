/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * request_list: I/O requests in the order in which they came, for an engine's queues.
 */
#ifndef QCOW2FS_IO_REQUEST_LIST_H
#define QCOW2FS_IO_REQUEST_LIST_H

#include "io/engine.h"

#include <stddef.h>

/* All zeros: empty. */
struct request_list {
	struct io_req *head, *tail;
	unsigned nb;
};

static inline void request_list_append(struct request_list *list, struct io_req *req)
{
	req->next = NULL;
	if (list->tail)
		list->tail->next = req;
	else
		list->head = req;
	list->tail = req;
	list->nb++;
}

/* The first one; the list is not empty. */
static inline struct io_req *request_list_take(struct request_list *list)
{
	struct io_req *req = list->head;

	list->head = req->next;
	if (!list->head)
		list->tail = NULL;
	list->nb--;
	return req;
}

#endif
