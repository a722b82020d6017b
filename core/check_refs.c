/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * check_refs: the references that were found, one counter per cluster of the file.
 *
 * Nearly every cluster has one reference, so counters start at one byte and all
 * become wider together when the first one needs it. Memory is one to four bytes
 * and a bit per cluster; the pages that stay zero are never touched.
 */
#include "core/check_int.h"

#include <errno.h>

int check_refs_init(struct check_refs *refs, uint64_t nb_clusters)
{
	/* A short last cluster lets a compressed cluster reach into the next one. */
	uint64_t cap = nb_clusters + 2;

	*refs = (struct check_refs){.width = 1, .nb = nb_clusters, .cap = cap};
	refs->counts = calloc(cap, 1);
	refs->owned = calloc(cap / 64 + 1, sizeof(uint64_t));
	if (refs->counts && refs->owned)
		return 0;
	check_refs_finish(refs);
	return -ENOMEM;
}

void check_refs_finish(struct check_refs *refs)
{
	free(refs->counts);
	free(refs->owned);
	*refs = (struct check_refs){0};
}

uint64_t check_refs_get(const struct check_refs *refs, uint64_t cluster)
{
	switch (refs->width) {
	case 1:
		return ((const uint8_t *)refs->counts)[cluster];
	case 2:
		return ((const uint16_t *)refs->counts)[cluster];
	default:
		return ((const uint32_t *)refs->counts)[cluster];
	}
}

static void refs_put(struct check_refs *refs, uint64_t cluster, uint64_t count)
{
	switch (refs->width) {
	case 1:
		((uint8_t *)refs->counts)[cluster] = count;
		break;
	case 2:
		((uint16_t *)refs->counts)[cluster] = count;
		break;
	default:
		((uint32_t *)refs->counts)[cluster] = count;
	}
}

static int refs_widen(struct check_refs *refs)
{
	struct check_refs wide = *refs;

	wide.width = refs->width * 2;
	wide.counts = calloc(refs->cap, wide.width);
	if (!wide.counts)
		return -ENOMEM;
	for (uint64_t i = 0; i < refs->cap; i++) {
		uint64_t count = check_refs_get(refs, i);

		if (count)
			refs_put(&wide, i, count);
	}
	free(refs->counts);
	*refs = wide;
	return 0;
}

int check_refs_add(struct check_refs *refs, uint64_t cluster, uint32_t times)
{
	uint64_t count = check_refs_get(refs, cluster) + times;

	if (count > UINT32_MAX)
		return -EOVERFLOW;
	while (count >> (8 * refs->width)) {
		int err = refs_widen(refs);

		if (err)
			return err;
	}
	refs_put(refs, cluster, count);
	return 0;
}
