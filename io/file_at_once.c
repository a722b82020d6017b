/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * file_at_once: reads by system calls of the calling thread. See file.h.
 */
#include "io/file.h"

#include <sys/uio.h>

bool file_reads_at_once(const struct file *file)
{
	return file->fd >= 0 && (file->path == FILE_MEMORY ||
				 (file->path == FILE_BUFFERED && !(file->refused & 1u << IO_READ)));
}

bool file_read_at_once(const struct file *file, uint64_t host_off, void *buf, size_t len_bytes)
{
	struct iovec iov = {.iov_base = buf, .iov_len = len_bytes};
	ssize_t res = file->path == FILE_MEMORY
			      ? preadv(file->fd, &iov, 1, (off_t)host_off)
			      : preadv2(file->fd, &iov, 1, (off_t)host_off, RWF_NOWAIT);

	return res == (ssize_t)len_bytes;
}

void file_count_at_once(struct file *file, size_t len_bytes)
{
	file->stats.nb_reads++;
	file->stats.read_bytes += len_bytes;
}

void file_count_beside(struct file *file, size_t len_bytes)
{
	atomic_fetch_add_explicit(&file->nb_reads_beside, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&file->read_beside_bytes, len_bytes, memory_order_relaxed);
}
