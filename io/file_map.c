/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * file_map: which parts of a host file hold data, by SEEK_DATA and SEEK_HOLE. A local file
 * system looks at its extent tree, one behind a network or a server may take its time: a
 * worker asks.
 */
#include "io/file.h"
#include "io/worker.h"

#include <errno.h>
#include <unistd.h>

struct question {
	int fd;
	off_t off;
	off_t data, hole; /* as lseek() returns them; hole: only where `off` is data */
	int data_errno;
};

static void ask(void *arg)
{
	struct question *question = arg;

	question->data = lseek(question->fd, question->off, SEEK_DATA);
	question->data_errno = errno;
	if (question->data == question->off)
		question->hole = lseek(question->fd, question->off, SEEK_HOLE);
}

int coroutine_fn file_map(struct file *file, uint64_t host_off, uint64_t max_bytes,
			  bool *ret_is_data, uint64_t *ret_len_bytes)
{
	struct question question = {.fd = file->fd, .off = (off_t)host_off};
	off_t data, hole;

	*ret_is_data = host_off < file->size_bytes;
	*ret_len_bytes = max_bytes;
	if (file->fd < 0 || file->is_block_device || host_off >= file->size_bytes)
		return 0;
	worker_run(ask, &question);
	data = question.data;
	hole = question.hole;
	if (data < 0 && question.data_errno == ENXIO) {
		*ret_is_data = false;
		return 0;
	}
	if (data < 0)
		return question.data_errno == EINVAL || question.data_errno == EOPNOTSUPP
			       ? 0
			       : -question.data_errno;
	if (data > question.off) {
		*ret_is_data = false;
		if ((uint64_t)(data - question.off) < max_bytes)
			*ret_len_bytes = (uint64_t)(data - question.off);
		return 0;
	}
	if (hole > data && (uint64_t)(hole - question.off) < max_bytes)
		*ret_len_bytes = (uint64_t)(hole - question.off);
	return 0;
}
