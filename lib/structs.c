/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * structs: structures of the interface that grow from version to version. Their first
 * member is a uint32_t with the size that the caller was compiled for.
 */
#include "lib/internal.h"

#include <errno.h>
#include <string.h>

static uint32_t size_of(const void *structure)
{
	uint32_t size;

	memcpy(&size, structure, sizeof(size));
	return size;
}

int struct_take(void *to, size_t to_bytes, const void *from, size_t first_bytes)
{
	size_t from_bytes;

	memset(to, 0, to_bytes);
	if (!from)
		return 0;
	from_bytes = size_of(from);
	if (from_bytes < first_bytes)
		return -EINVAL;
	for (size_t i = to_bytes; i < from_bytes; i++)
		if (((const uint8_t *)from)[i])
			return -E2BIG;
	memcpy(to, from, from_bytes < to_bytes ? from_bytes : to_bytes);
	return 0;
}

int struct_give(void *to, const void *from, size_t from_bytes, size_t first_bytes)
{
	uint32_t to_bytes = size_of(to);

	if (to_bytes < first_bytes)
		return -EINVAL;
	if (to_bytes > from_bytes)
		memset((uint8_t *)to + from_bytes, 0, to_bytes - from_bytes);
	memcpy(to, from, to_bytes < from_bytes ? to_bytes : from_bytes);
	memcpy(to, &to_bytes, sizeof(to_bytes));
	return 0;
}
