/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * file_map: which parts of a host file hold data, by SEEK_DATA and SEEK_HOLE. The
 * calls look at the file system's extent tree only and run on the caller's thread.
 */
#include "io/file.h"

#include <errno.h>
#include <unistd.h>

int coroutine_fn file_map(struct file *file, uint64_t host_off, uint64_t max_bytes,
			  bool *ret_is_data, uint64_t *ret_len_bytes)
{
	off_t data, hole;

	*ret_is_data = host_off < file->size_bytes;
	*ret_len_bytes = max_bytes;
	if (file->fd < 0 || file->is_block_device || host_off >= file->size_bytes)
		return 0;
	data = lseek(file->fd, (off_t)host_off, SEEK_DATA);
	if (data < 0 && errno == ENXIO) {
		*ret_is_data = false;
		return 0;
	}
	if (data < 0)
		return errno == EINVAL || errno == EOPNOTSUPP ? 0 : -errno;
	if ((uint64_t)data > host_off) {
		*ret_is_data = false;
		if ((uint64_t)data - host_off < max_bytes)
			*ret_len_bytes = (uint64_t)data - host_off;
		return 0;
	}
	hole = lseek(file->fd, (off_t)host_off, SEEK_HOLE);
	if (hole > data && (uint64_t)hole - host_off < max_bytes)
		*ret_len_bytes = (uint64_t)hole - host_off;
	return 0;
}
