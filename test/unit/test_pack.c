/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * test_pack: where compressed clusters are placed, on the simulated disk: one behind the other,
 * and a host cluster that was begun is filled although somebody else has taken the next one.
 */
#include "test/sim/disk.h"
#include "test/sim/lab.h"
#include "test/unit/hand_image.h"

#include "core/compress.h"
#include "core/compress_write.h"
#include "core/format.h"
#include "core/writer.h"

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

/* A descriptor has 49 bits for the offset when clusters have 2 MiB: what lies behind is refused. */
CO_TEST(test_no_descriptor_reaches_behind_its_bits)
{
	const uint64_t size = 2 << 20, block_off = HAND_DATA * size, behind = (1ull << 49) / size;
	uint8_t *bytes = hand_image("a", 3, 21, HAND_DATA + 1, 4 * size), *data = buf_get(size);
	struct packer *packer;
	struct image *image;

	/* The range behind has a refcount block, within the file. */
	be64_put(bytes + HAND_REFTABLE * size + (behind >> 20) * 8, block_off);
	be16_put(bytes + HAND_REFBLOCK * size + HAND_DATA * 2, 1);
	memset(data, 0x41, size);
	image = hand_open("a", &(struct image_options){.writable = true});
	image->writer->scan = image->writer->tail = behind;
	assert_int_equal(packer_create(image, &packer), 0);
	assert_int_equal(packer_write(packer, 0, data, size), -EFBIG);
	packer_destroy(packer);
	image->writer->zero_from = 0; /* the simulated disk's file is not to grow that much */
	assert_int_equal(image_close(image), 0);
	buf_put(data, size);
	bytes = hand.disk->files[0].bytes.data;
	assert_int_equal(be64_get(bytes + HAND_L2 * size), 0);
	assert_int_equal(be16_get(bytes + block_off), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_run_has_no_gaps),
		cmocka_unit_test(test_the_open_cluster_is_filled_first),
		HAND_TEST(test_no_descriptor_reaches_behind_its_bits),
	};

	return cmocka_run_group_tests(tests, hand_group_setup, NULL);
}
