/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * zeros: see zeros.h.
 */
#include "fuse/zeros.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>
#include <unistd.h>

/* What is really there; pages of any size fit. */
#define PATTERN_BYTES (64u << 10)

static_assert(ZEROS_BYTES % PATTERN_BYTES == 0, "the area is made of whole patterns");

/* Lays the pattern over the whole area. */
static int cover(char *area, int fd)
{
	if (ftruncate(fd, PATTERN_BYTES) < 0)
		return -errno;
	for (size_t off = 0; off < ZEROS_BYTES; off += PATTERN_BYTES)
		if (mmap(area + off, PATTERN_BYTES, PROT_READ,
			 MAP_SHARED | MAP_FIXED | MAP_POPULATE, fd, 0) == MAP_FAILED)
			return -errno;
	return 0;
}

int zeros_map(const char **ret_zeros)
{
	int res, fd = memfd_create("qcow2fs-zeros", MFD_CLOEXEC);
	char *area;

	if (fd < 0)
		return -errno;
	area = mmap(NULL, ZEROS_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	res = area == MAP_FAILED ? -errno : cover(area, fd);
	close(fd);
	if (res == 0)
		*ret_zeros = area;
	else if (area != MAP_FAILED)
		munmap(area, ZEROS_BYTES);
	return res;
}

void zeros_unmap(const char *zeros)
{
	if (zeros)
		munmap((void *)zeros, ZEROS_BYTES);
}
