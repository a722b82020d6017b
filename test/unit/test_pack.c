/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * test_pack: where compressed clusters are placed, on the simulated disk: one behind the other,
 * and a host cluster that was begun is filled although somebody else has taken the next one.
 */
#include "test/sim/lab.h"

#include "core/compress.h"
#include "core/format.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define CLUSTER 4096u
#define CLUSTER_BITS 12u
#define NB_PACKED 18u /* they need more than one host cluster */

struct packed {
	uint64_t host_off;
	uint32_t sectors_bytes;
};

static struct packed get_packed(const struct lab *lab, unsigned index)
{
	const uint8_t *data = lab->sim.disk->files[0].bytes.data;
	uint64_t l1 = be64_get(data + offsetof(struct qcow2_header, l1_table_offset));
	uint64_t l2 = be64_get(data + l1) & L1_OFFSET_MASK;
	uint64_t entry = be64_get(data + l2 + index * 8);
	struct packed packed;

	assert_true(entry & L2_COMPRESSED);
	compress_decode_descriptor(CLUSTER_BITS, entry & ~(3ull << 62), &packed.host_off,
				   &packed.sectors_bytes);
	return packed;
}

/* The operations are performed, the crashes explored; what was packed is in `packed`. */
static void pack(const struct guest_op *ops, unsigned nb_ops, struct packed *packed)
{
	struct lab lab;

	lab_open(&lab, "c4k-r16-v3");
	lab_prepare(&lab, 1, ops, nb_ops, 1);
	lab_explore(&lab);
	for (unsigned i = 0; i < NB_PACKED; i++)
		packed[i] = get_packed(&lab, i);
	lab_close(&lab);
}

static void test_a_run_has_no_gaps(void **state)
{
	const struct guest_op ops[] = {{GUEST_PACK, 0, NB_PACKED * CLUSTER}, {GUEST_FLUSH, 0, 0}};
	struct packed packed[NB_PACKED];

	pack(ops, 2, packed);
	/* A descriptor counts whole sectors, the last of which its successor shares. */
	for (unsigned i = 1; i < NB_PACKED; i++) {
		uint64_t end = packed[i - 1].host_off + packed[i - 1].sectors_bytes;

		assert_true(packed[i].host_off > packed[i - 1].host_off);
		assert_true(packed[i].host_off <= end && packed[i].host_off + 512 > end);
	}
}

static void test_the_open_cluster_is_filled_first(void **state)
{
	/* The plain write takes the host cluster behind the one that is being filled. */
	const struct guest_op ops[] = {{GUEST_PACK, 0, CLUSTER},
				       {GUEST_WRITE, 20 * CLUSTER, CLUSTER},
				       {GUEST_PACK, CLUSTER, (NB_PACKED - 1) * CLUSTER},
				       {GUEST_FLUSH, 0, 0}};
	struct packed packed[NB_PACKED];
	uint64_t open_cluster;
	unsigned nb_inside = 1, first_bytes;

	pack(ops, 4, packed);
	open_cluster = packed[0].host_off / CLUSTER;
	first_bytes = packed[1].host_off - packed[0].host_off;
	assert_true(first_bytes <= packed[0].sectors_bytes);
	while (nb_inside < NB_PACKED && packed[nb_inside].host_off / CLUSTER == open_cluster)
		nb_inside++;
	/* All of them are about as long as the first, which is much shorter than a cluster. */
	assert_in_range(nb_inside, CLUSTER / first_bytes - 1, NB_PACKED - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_run_has_no_gaps),
		cmocka_unit_test(test_the_open_cluster_is_filled_first),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
