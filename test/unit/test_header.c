/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * header: every bound, each refusal with its class and words, values at their limits that
 * are accepted, and updates that change their own field and nothing else.
 */
#include "test/sim/disk.h"
#include "test/unit/hand_image.h"

#include "core/header.h"

#define SIZE (8ull << 12)
#define EXT_OFF sizeof(struct qcow2_header)
#define EINVALID ERROR_OPEN, EINVAL
#define EUNSUPPORTED ERROR_UNSUPPORTED, ENOTSUP

struct patch {
	unsigned off, len_bytes;
	uint64_t value;
};
#define SET(field, value)                                                   \
	{                                                                   \
		offsetof(struct qcow2_header, field),                       \
			sizeof(((struct qcow2_header *)NULL)->field), value \
	}

struct refusal {
	struct patch patches[3];
	enum error_class class;
	int err;
	const char *text;
};

static void apply(uint8_t *bytes, const struct patch *patches, unsigned nb)
{
	for (unsigned i = 0; i < nb; i++) {
		uint8_t *p = bytes + patches[i].off;

		if (patches[i].len_bytes == 8)
			be64_put(p, patches[i].value);
		else if (patches[i].len_bytes == 4)
			be32_put(p, patches[i].value);
		else if (patches[i].len_bytes == 1)
			*p = patches[i].value;
	}
}

static void coroutine_fn expect_refusal(enum error_class class, int err, const char *text)
{
	struct file *file = hand_open_file("a");
	struct error *error = NULL;
	struct header header;

	assert_int_equal(header_read(file, &header, &error), -err);
	hand_expect_error(error, class, err, text);
	file_close(file);
}

static void coroutine_fn read_good(struct file **ret_file, struct header *ret_header)
{
	struct error *error = NULL;

	*ret_file = hand_open_file("a");
	if (header_read(*ret_file, ret_header, &error))
		fail_msg("%s", error->msg);
}

/* Each on an image that is fine otherwise, of 4 KiB clusters. */
static void coroutine_fn expect_refusals(const struct refusal *refusals, unsigned nb)
{
	hand.disk->mode = SIM_DIRECT;
	for (unsigned i = 0; i < nb; i++) {
		uint8_t *bytes = hand_image("a", 3, 12, 6, SIZE);

		apply(bytes, refusals[i].patches, NB_ELEMENTS(refusals[i].patches));
		expect_refusal(refusals[i].class, refusals[i].err, refusals[i].text);
		sim_disk_reset(hand.disk);
		hand.disk->mode = SIM_DIRECT;
	}
}

CO_TEST(test_numbers_out_of_bounds)
{
	static const struct refusal refusals[] = {
		{{SET(magic, 0x514649fc)}, EINVALID, "not a qcow2 image"},
		{{SET(version, 1)}, EUNSUPPORTED, "version 1"},
		{{SET(version, 4)}, EUNSUPPORTED, "version 4"},
		{{SET(cluster_bits, 8)}, EINVALID, "cluster_bits"},
		{{SET(cluster_bits, 22)}, EINVALID, "cluster_bits"},
		{{SET(cluster_bits, UINT32_MAX)}, EINVALID, "cluster_bits"},
		{{SET(header_length, 96)}, EINVALID, "header_length"},
		{{SET(header_length, 108)}, EINVALID, "header_length"},
		{{SET(header_length, 4104)}, EINVALID, "header_length"},
		{{SET(header_length, UINT32_MAX)}, EINVALID, "header_length"},
		{{SET(refcount_order, 7)}, EINVALID, "refcount_order"},
		{{SET(size, INT64_MAX)}, EINVALID, "virtual size"},
		{{SET(size, UINT64_MAX)}, EINVALID, "virtual size"},
		{{SET(size, 1ull << 62)}, EINVALID, "too large for this cluster size"},
	};

	expect_refusals(refusals, NB_ELEMENTS(refusals));
}

CO_TEST(test_tables_out_of_bounds)
{
	static const struct refusal refusals[] = {
		{{SET(l1_size, (4u << 20) + 1)}, EINVALID, "L1 table is larger than 32 MiB"},
		{{SET(l1_size, UINT32_MAX)}, EINVALID, "L1 table is larger than 32 MiB"},
		{{SET(l1_size, 0)}, EINVALID, "L1 table is too small"},
		{{SET(size, (2ull << 20) + 1)}, EINVALID, "L1 table is too small"},
		{{SET(l1_table_offset, (3u << 12) + 8)}, EINVALID, "L1 table's offset"},
		{{SET(l1_table_offset, 1ull << 63)}, EINVALID, "L1 table's offset"},
		{{SET(l1_table_offset, INT64_MAX - 4095), SET(l1_size, 513)},
		 EINVALID,
		 "L1 table's offset"},
		{{SET(l1_table_offset, UINT64_MAX - 4095), SET(l1_size, 512)},
		 EINVALID,
		 "L1 table's offset"},
		{{SET(refcount_table_clusters, 0)}, EINVALID, "refcount table is empty"},
		{{SET(refcount_table_clusters, 2049)}, EINVALID, "larger than 8 MiB"},
		{{SET(refcount_table_clusters, UINT32_MAX)}, EINVALID, "larger than 8 MiB"},
		{{SET(refcount_table_offset, 0)}, EINVALID, "refcount table's offset"},
		{{SET(refcount_table_offset, 512)}, EINVALID, "refcount table's offset"},
		{{SET(refcount_table_offset, 1ull << 63)}, EINVALID, "refcount table's offset"},
		{{SET(nb_snapshots, 65537)}, EINVALID, "more than 65536 snapshots"},
		{{SET(snapshots_offset, 512)}, EINVALID, "snapshot table's offset"},
		{{SET(snapshots_offset, 1ull << 63)}, EINVALID, "snapshot table's offset"},
		{{SET(nb_snapshots, 1), SET(snapshots_offset, 512)},
		 EINVALID,
		 "snapshot table's offset"},
		{{SET(nb_snapshots, 1), SET(snapshots_offset, 1ull << 63)},
		 EINVALID,
		 "snapshot table's offset"},
	};

	expect_refusals(refusals, NB_ELEMENTS(refusals));
}

CO_TEST(test_features_that_are_refused)
{
	static const struct refusal refusals[] = {
		{{SET(incompatible_features, 1ull << 5)},
		 EUNSUPPORTED,
		 "unsupported feature (incompatible bit 5)"},
		{{SET(incompatible_features, 1ull << 63)}, EUNSUPPORTED, "incompatible bit 63"},
		{{SET(crypt_method, 1)}, EUNSUPPORTED, "AES-CBC"},
		{{SET(crypt_method, 2)}, EUNSUPPORTED, "LUKS"},
		{{SET(crypt_method, 3)}, EINVALID, "unknown encryption method"},
		{{SET(compression_type, 1)}, EINVALID, "compression type contradicts"},
		{{SET(incompatible_features, INCOMPAT_COMPRESSION)},
		 EINVALID,
		 "compression type contradicts"},
		{{SET(incompatible_features, INCOMPAT_COMPRESSION), SET(compression_type, 2)},
		 EUNSUPPORTED,
		 "compression type 2"},
		{{SET(incompatible_features, INCOMPAT_EXTENDED_L2)}, EINVALID, "16 KiB or more"},
		{{SET(autoclear_features, AUTOCLEAR_DATA_FILE_RAW)},
		 EINVALID,
		 "without a data file"},
	};

	expect_refusals(refusals, NB_ELEMENTS(refusals));
}

CO_TEST(test_backing_names_out_of_bounds)
{
	static const struct refusal refusals[] = {
		{{SET(backing_file_offset, 104), SET(backing_file_size, 4)}, EINVALID, "outside"},
		{{SET(backing_file_offset, 4093), SET(backing_file_size, 4)}, EINVALID, "outside"},
		{{SET(backing_file_offset, 4097)}, EINVALID, "outside"},
		{{SET(backing_file_offset, UINT64_MAX), SET(backing_file_size, 4)},
		 EINVALID,
		 "outside"},
		{{SET(backing_file_offset, 2048), SET(backing_file_size, 1024)},
		 EINVALID,
		 "outside"},
		{{SET(backing_file_offset, 2048), SET(backing_file_size, 4)}, EINVALID, "NUL byte"},
	};

	expect_refusals(refusals, NB_ELEMENTS(refusals));
}

CO_TEST(test_bitmaps_out_of_bounds)
{
	/* number, size and offset of the directory */
	static const uint64_t values[][3] = {
		{0, 24, 4096},       {65536, 65536 * 24, 4096},  {1, 23, 4096},
		{3, 48, 4096},       {1, (64u << 20) + 1, 4096}, {1, 24, 4097},
		{1, 24, 1ull << 63},
	};

	for (unsigned i = 0; i < NB_ELEMENTS(values); i++) {
		uint8_t *bytes = hand_image("a", 3, 12, 6, SIZE), data[24] = {0};
		uint32_t off = EXT_OFF;

		be64_put(HAND_FIELD(bytes, autoclear_features), AUTOCLEAR_BITMAPS);
		be32_put(data, values[i][0]);
		be64_put(data + 8, values[i][1]);
		be64_put(data + 16, values[i][2]);
		hand_add_extension(bytes, &off, EXT_BITMAPS, data, sizeof(data));
		expect_refusal(ERROR_OPEN, EINVAL, "bitmaps extension is out of range");
		sim_disk_reset(hand.disk);
	}
}

CO_TEST(test_bitmaps_extension_of_wrong_length)
{
	uint8_t *bytes = hand_image("a", 3, 12, 6, SIZE), data[32] = {0};
	uint32_t off = EXT_OFF;

	be64_put(HAND_FIELD(bytes, autoclear_features), AUTOCLEAR_BITMAPS);
	hand_add_extension(bytes, &off, EXT_BITMAPS, data, sizeof(data));
	expect_refusal(ERROR_OPEN, EINVAL, "bitmaps extension has a wrong length");
}

/* Without its autoclear bit the extension means nothing, however wrong it is. */
CO_TEST(test_stale_bitmaps_are_ignored)
{
	uint8_t *bytes = hand_image("a", 3, 12, 6, SIZE);
	uint32_t off = EXT_OFF;
	struct header header;
	struct file *file;

	hand_add_extension(bytes, &off, EXT_BITMAPS, "stale", 5);
	read_good(&file, &header);
	assert_false(header.has_bitmaps);
	header_finish(&header);
	file_close(file);
}

CO_TEST(test_unknown_feature_is_called_by_its_name)
{
	static const struct {
		uint8_t entry[FEATURE_NAME_ENTRY_BYTES + 1];
		const char *text;
	} names[] = {
		{"\0\6"
		 "frobnication",
		 "unsupported feature \"frobnication\" (incompatible bit 6)"},
		{"\0\6"
		 "a\033[31mb",
		 "unsupported feature \"a?[31mb\" (incompatible bit 6)"},
		/* 46 bytes, not terminated */
		{"\0\6"
		 "0123456789012345678901234567890123456789012345",
		 "\"0123456789012345678901234567890123456789012345\""},
		{"\1\6"
		 "compatible",
		 "unsupported feature (incompatible bit 6)"},
		{"\0\7"
		 "another",
		 "unsupported feature (incompatible bit 6)"},
	};

	for (unsigned i = 0; i < NB_ELEMENTS(names); i++) {
		uint8_t *bytes = hand_image("a", 3, 12, 6, SIZE);
		uint32_t off = EXT_OFF;

		be64_put(HAND_FIELD(bytes, incompatible_features), 1ull << 6);
		hand_add_extension(bytes, &off, EXT_FEATURE_NAMES, names[i].entry,
				   FEATURE_NAME_ENTRY_BYTES);
		expect_refusal(ERROR_UNSUPPORTED, ENOTSUP, names[i].text);
		sim_disk_reset(hand.disk);
	}
}

CO_TEST(test_extensions_end_inside_the_cluster)
{
	uint8_t *bytes = hand_image("a", 3, 12, 6, SIZE);

	be32_put(bytes + EXT_OFF, 0x12345678);
	be32_put(bytes + EXT_OFF + 4, 4096 - EXT_OFF - 8 + 1);
	expect_refusal(ERROR_OPEN, EINVAL, "header extension is too long");
	be32_put(bytes + EXT_OFF + 4, UINT32_MAX);
	expect_refusal(ERROR_OPEN, EINVAL, "header extension is too long");
}

/* The backing file name bounds the extensions, and is none itself. */
CO_TEST(test_extensions_end_before_the_backing_name)
{
	uint8_t *bytes = hand_image("a", 3, 12, 6, SIZE);

	hand_set_backing(bytes, "base", NULL);
	be32_put(bytes + EXT_OFF, 0x12345678);
	be32_put(bytes + EXT_OFF + 4, 8);
	expect_refusal(ERROR_OPEN, EINVAL, "header extension is too long");
}

CO_TEST(test_names_in_extensions)
{
	static const struct {
		uint32_t type;
		const char *name;
		uint32_t len_bytes;
	} names[] = {
		{EXT_BACKING_FORMAT, "qc\0w2", 5},
		{EXT_BACKING_FORMAT, "0123456789abcdef", 16},
		{EXT_DATA_FILE, "data\0", 5},
	};

	for (unsigned i = 0; i < NB_ELEMENTS(names); i++) {
		uint8_t *bytes = hand_image("a", 3, 12, 6, SIZE);
		uint32_t off = EXT_OFF;

		hand_add_extension(bytes, &off, names[i].type, names[i].name, names[i].len_bytes);
		expect_refusal(ERROR_OPEN, EINVAL, "header extension holds an invalid name");
		sim_disk_reset(hand.disk);
	}
}

CO_TEST(test_file_too_short)
{
	hand_image("a", 3, 12, 6, SIZE);
	sim_bytes_resize(&hand.disk->files[0].bytes, QCOW2_V2_HEADER_BYTES - 1);
	expect_refusal(ERROR_OPEN, EINVAL, "the file is too short");
}

CO_TEST(test_read_error)
{
	hand_image("a", 3, 12, 6, SIZE);
	hand.disk->fault = (struct sim_fault){.at = 0, .count = 1, .err = EIO};
	expect_refusal(ERROR_OPEN, EIO, "cannot read the header");
}

/* ---- accepted ---- */

CO_TEST(test_values_at_their_limits)
{
	static const struct refusal good[] = {
		{{SET(header_length, 104)}},
		{{SET(header_length, 4096)}},
		{{SET(refcount_order, 0)}},
		{{SET(refcount_order, 6)}},
		{{SET(size, 0), SET(l1_size, 0)}},
		{{SET(size, 2ull << 20)}},
		{{SET(size, 1)}},
		{{SET(l1_size, 4u << 20)}},
		{{SET(l1_table_offset, INT64_MAX - 4095), SET(l1_size, 511)}},
		{{SET(refcount_table_clusters, 2048)}},
		{{SET(nb_snapshots, 65536), SET(snapshots_offset, 4096)}},
		{{SET(compatible_features, UINT64_MAX), SET(autoclear_features, 1ull << 40)}},
		{{SET(incompatible_features, INCOMPAT_DIRTY | INCOMPAT_CORRUPT)}},
		{{SET(backing_file_offset, 4096), SET(backing_file_size, 0)}},
	};

	for (unsigned i = 0; i < NB_ELEMENTS(good); i++) {
		uint8_t *bytes = hand_image("a", 3, 12, 6, SIZE);
		struct header header;
		struct file *file;

		apply(bytes, good[i].patches, NB_ELEMENTS(good[i].patches));
		read_good(&file, &header);
		header_finish(&header);
		file_close(file);
		sim_disk_reset(hand.disk);
	}
}

CO_TEST(test_all_cluster_sizes)
{
	for (unsigned bits = CLUSTER_BITS_MIN; bits <= CLUSTER_BITS_MAX; bits++) {
		struct header header;
		struct file *file;

		hand_image("a", 3, bits, 6, 1);
		read_good(&file, &header);
		assert_int_equal(header.cluster_bits, bits);
		header_finish(&header);
		file_close(file);
		sim_disk_reset(hand.disk);
	}
}

CO_TEST(test_names_and_bitmaps)
{
	uint8_t *bytes = hand_image("a", 3, 12, 6, SIZE), data[24] = {0};
	uint32_t off = EXT_OFF;
	struct header header;
	struct file *file;

	be64_put(HAND_FIELD(bytes, autoclear_features), AUTOCLEAR_BITMAPS);
	be32_put(data, 2);
	be64_put(data + 8, 64);
	be64_put(data + 16, 8192);
	hand_add_extension(bytes, &off, 0x12345678, "unknown", 7);
	hand_add_extension(bytes, &off, EXT_DATA_FILE, "guest.raw", 9);
	hand_add_extension(bytes, &off, EXT_BITMAPS, data, sizeof(data));
	hand_add_extension(bytes, &off, EXT_BACKING_FORMAT, "qcow2", 5);
	hand_add_extension(bytes, &off, EXT_END, "", 0);
	/* What follows the end is no extension. */
	hand_add_extension(bytes, &off, EXT_BACKING_FORMAT, "raw", 3);
	memcpy(bytes + 4096 - 8, "base.img", 8);
	apply(bytes,
	      (struct patch[]){SET(backing_file_offset, 4096 - 8), SET(backing_file_size, 8)}, 2);
	read_good(&file, &header);
	assert_string_equal(header.backing_name, "base.img");
	assert_string_equal(header.backing_format, "qcow2");
	assert_string_equal(header.data_name, "guest.raw");
	assert_true(header.has_bitmaps);
	assert_int_equal(header.nb_bitmaps, 2);
	assert_int_equal(header.bitmap_directory_size, 64);
	assert_int_equal(header.bitmap_directory_offset, 8192);
	header_finish(&header);
	file_close(file);
}

/* Version 2 has 72 bytes of header; extensions follow at once and are no feature bits. */
CO_TEST(test_version_2)
{
	uint8_t *bytes = hand_image("a", 2, 12, 6, SIZE);
	uint32_t off = QCOW2_V2_HEADER_BYTES;
	struct header header;
	struct file *file;

	hand_add_extension(bytes, &off, EXT_BACKING_FORMAT, "raw", 3);
	hand_add_extension(bytes, &off, 0x7fffffff, "0123456789abcdef0123456789abcdef", 32);
	read_good(&file, &header);
	assert_int_equal(header.refcount_order, 4);
	assert_int_equal(header.header_length, QCOW2_V2_HEADER_BYTES);
	assert_int_equal(header.incompatible_features, 0);
	assert_int_equal(header.autoclear_features, 0);
	assert_int_equal(header.compression_type, COMPRESSION_ZLIB);
	assert_string_equal(header.backing_format, "raw");
	header_finish(&header);
	file_close(file);
}

/* A header of 104 bytes has no compression type: the byte there is something else. */
CO_TEST(test_short_header_has_no_compression_type)
{
	uint8_t *bytes = hand_image("a", 3, 12, 6, SIZE);
	uint32_t off = QCOW2_V3_HEADER_BYTES_MIN;
	struct header header;
	struct file *file;

	be32_put(HAND_FIELD(bytes, header_length), QCOW2_V3_HEADER_BYTES_MIN);
	hand_add_extension(bytes, &off, EXT_BACKING_FORMAT, "raw", 3);
	assert_int_not_equal(*HAND_FIELD(bytes, compression_type), 0);
	read_good(&file, &header);
	assert_int_equal(header.compression_type, COMPRESSION_ZLIB);
	header_finish(&header);
	file_close(file);
}

/* ---- updates ---- */

enum update { SWITCH_L1, SWITCH_REFTABLE, SET_SIZE, SET_FEATURES, SWITCH_ALL, NB_UPDATES };

static int coroutine_fn update(enum update which, struct file *file, struct header *header)
{
	struct header_change change = header_change_none(header);

	switch (which) {
	case SWITCH_L1:
		return header_switch_l1(file, header, 7ull << 33, 77);
	case SWITCH_REFTABLE:
		return header_switch_reftable(file, header, 5ull << 33, 55);
	case SET_SIZE:
		return header_set_size(file, header, 3ull << 33);
	case SET_FEATURES:
		return header_set_features(file, header, INCOMPAT_DIRTY, 0);
	default:
		change.nb_snapshots = 9;
		change.snapshots_offset = 9ull << 33;
		change.incompatible_features = INCOMPAT_CORRUPT;
		return header_switch(file, header, &change);
	}
}

static const struct patch updated[NB_UPDATES][3] = {
	[SWITCH_L1] = {SET(l1_table_offset, 7ull << 33), SET(l1_size, 77)},
	[SWITCH_REFTABLE] = {SET(refcount_table_offset, 5ull << 33),
			     SET(refcount_table_clusters, 55)},
	[SET_SIZE] = {SET(size, 3ull << 33)},
	[SET_FEATURES] = {SET(incompatible_features, INCOMPAT_DIRTY), SET(autoclear_features, 0)},
	[SWITCH_ALL] = {SET(nb_snapshots, 9), SET(snapshots_offset, 9ull << 33),
			SET(incompatible_features, INCOMPAT_CORRUPT)},
};

/* With a long header and unknown things in it. */
static uint8_t *decorated_image(void)
{
	uint8_t *bytes = hand_image("a", 3, 12, 6, SIZE);
	uint32_t off = 160;

	be32_put(HAND_FIELD(bytes, header_length), off);
	be64_put(HAND_FIELD(bytes, compatible_features), 0xf0);
	be64_put(HAND_FIELD(bytes, autoclear_features), 1ull << 41);
	memset(bytes + EXT_OFF, 0xa5, off - EXT_OFF);
	hand_add_extension(bytes, &off, 0x12345678, "unknown extension", 17);
	memset(bytes + 400, 0x5a, 4096 - 400);
	return bytes;
}

CO_TEST(test_updates_change_their_fields_only)
{
	for (enum update which = 0; which < NB_UPDATES; which++) {
		uint8_t *bytes = decorated_image(), *expected = malloc(6 << 12);
		struct header header;
		struct file *file;

		memcpy(expected, bytes, 6 << 12);
		apply(expected, updated[which], NB_ELEMENTS(updated[which]));
		read_good(&file, &header);
		assert_int_equal(update(which, file, &header), 0);
		assert_memory_equal(hand.disk->files[0].bytes.data, expected, 6 << 12);
		/* What is in memory is what the file says. */
		assert_memory_equal(header.sector, expected, HEADER_SECTOR_BYTES);
		assert_int_equal(header.l1_size, be32_get(HAND_FIELD(expected, l1_size)));
		assert_int_equal(header.size, be64_get(HAND_FIELD(expected, size)));
		assert_int_equal(header.nb_snapshots, be32_get(HAND_FIELD(expected, nb_snapshots)));
		assert_int_equal(header.refcount_table_clusters,
				 be32_get(HAND_FIELD(expected, refcount_table_clusters)));
		assert_int_equal(header.incompatible_features,
				 be64_get(HAND_FIELD(expected, incompatible_features)));
		header_finish(&header);
		file_close(file);
		free(expected);
		sim_disk_reset(hand.disk);
	}
}

/* I2: one write inside one sector, between two flushes. */
CO_TEST(test_updates_stand_between_flushes)
{
	for (enum update which = 0; which < NB_UPDATES; which++) {
		const struct sim_record *log;
		struct header header;
		struct file *file;

		decorated_image();
		read_good(&file, &header);
		assert_int_equal(update(which, file, &header), 0);
		log = hand.disk->log;
		assert_int_equal(hand.disk->nb_log, 3);
		assert_int_equal(log[0].op, IO_FLUSH);
		assert_int_equal(log[1].op, IO_WRITE);
		assert_int_equal(log[1].off, 0);
		assert_int_equal(log[1].len, HEADER_SECTOR_BYTES);
		assert_true(log[1].t_issue > log[0].t_done);
		assert_int_equal(log[2].op, IO_FLUSH);
		assert_true(log[1].t_covered == log[2].t_done);
		header_finish(&header);
		file_close(file);
		sim_disk_reset(hand.disk);
	}
}

/* Whichever of the three requests fails. */
CO_TEST(test_failed_updates_leave_the_fields)
{
	for (enum update which = 0; which < NB_UPDATES; which++) {
		for (unsigned at = 0; at < 3; at++) {
			struct header header, before;
			struct file *file;

			decorated_image();
			read_good(&file, &header);
			before = header;
			hand.disk->fault = (struct sim_fault){
				.at = hand.disk->nb_requests + at, .count = 1, .err = EIO};
			assert_int_equal(update(which, file, &header), -EIO);
			assert_memory_equal(&header, &before, sizeof(header));
			header_finish(&header);
			file_close(file);
			sim_disk_reset(hand.disk);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		HAND_TEST(test_numbers_out_of_bounds),
		HAND_TEST(test_tables_out_of_bounds),
		HAND_TEST(test_features_that_are_refused),
		HAND_TEST(test_backing_names_out_of_bounds),
		HAND_TEST(test_bitmaps_out_of_bounds),
		HAND_TEST(test_bitmaps_extension_of_wrong_length),
		HAND_TEST(test_stale_bitmaps_are_ignored),
		HAND_TEST(test_unknown_feature_is_called_by_its_name),
		HAND_TEST(test_extensions_end_inside_the_cluster),
		HAND_TEST(test_extensions_end_before_the_backing_name),
		HAND_TEST(test_names_in_extensions),
		HAND_TEST(test_file_too_short),
		HAND_TEST(test_read_error),
		HAND_TEST(test_values_at_their_limits),
		HAND_TEST(test_all_cluster_sizes),
		HAND_TEST(test_names_and_bitmaps),
		HAND_TEST(test_version_2),
		HAND_TEST(test_short_header_has_no_compression_type),
		HAND_TEST(test_updates_change_their_fields_only),
		HAND_TEST(test_updates_stand_between_flushes),
		HAND_TEST(test_failed_updates_leave_the_fields),
	};

	return cmocka_run_group_tests(tests, hand_group_setup, NULL);
}
