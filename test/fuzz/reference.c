/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * reference: see reference.h. Field positions are written as numbers, as the
 * specification gives them, so that a mistake in core/format.h shows.
 */
#include "test/fuzz/reference.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#ifndef NO_ZSTD
#include <zstd.h>
#include <zstd_errors.h>
#endif

/* ---- bytes ---- */

static uint64_t get(const struct reference_bytes *bytes, uint64_t off, unsigned width)
{
	uint64_t value = 0;

	for (unsigned i = 0; i < width; i++)
		value = value << 8 | (off + i < bytes->size ? bytes->data[off + i] : 0);
	return value;
}

static bool holds(const struct reference_bytes *bytes, uint64_t off, uint64_t len)
{
	return off <= bytes->size && len <= bytes->size - off;
}

/* What lies beyond the end of a file reads as zeros. */
static void copy_out(const struct reference_bytes *bytes, uint64_t off, uint8_t *buf, size_t len)
{
	for (size_t i = 0; i < len; i++)
		buf[i] = off + i < bytes->size ? bytes->data[off + i] : 0;
}

/* ---- header ---- */

enum { AT_BACKING = 8, AT_BACKING_LEN = 16, AT_CLUSTER_BITS = 20, AT_SIZE = 24, AT_CRYPT = 32 };
enum { AT_NB_L1 = 36, AT_L1 = 40, AT_NB_SNAPSHOTS = 60, AT_INCOMPATIBLE = 72 };
enum { AT_REFCOUNT_ORDER = 96, AT_HEADER_LENGTH = 100, AT_COMPRESSION = 104 };

#define BIT_DATA_FILE (1u << 2)
#define BIT_COMPRESSION (1u << 3)
#define BIT_EXTENDED (1u << 4)
#define BITS_KNOWN 0x1fu

static bool is_text(const struct reference_bytes *bytes, uint64_t off, uint64_t len,
		    const char *text)
{
	return len == strlen(text) && holds(bytes, off, len) &&
	       !memcmp(bytes->data + off, text, len);
}

/* The names that extensions give: of the data file, and of the backing file's format. */
static enum verdict read_extensions(const struct reference *ref, uint64_t off, uint64_t end,
				    bool *ret_data_named, bool *ret_format_raw)
{
	const struct reference_bytes *image = &ref->image;

	*ret_data_named = *ret_format_raw = false;
	while (off + 8 <= end) {
		uint64_t type = get(image, off, 4), len = get(image, off + 4, 4);

		if (type == 0)
			return VERDICT_GOOD;
		off += 8;
		if (len > end - off)
			return VERDICT_BAD;
		if (type == 0x44415441)
			*ret_data_named = is_text(image, off, len, "data.raw");
		if (type == 0xe2792aca)
			*ret_format_raw = is_text(image, off, len, "raw");
		off += (len + 7) / 8 * 8;
	}
	return VERDICT_GOOD;
}

static enum verdict read_names(struct reference *ref, uint64_t header_length)
{
	const struct reference_bytes *image = &ref->image;
	uint64_t backing = get(image, AT_BACKING, 8), len = get(image, AT_BACKING_LEN, 4);
	uint64_t end = 1ull << ref->cluster_bits;
	bool data_named, format_raw;
	enum verdict verdict;

	ref->backed = backing && len;
	if (ref->backed && backing < end)
		end = backing;
	verdict = read_extensions(ref, header_length, end, &data_named, &format_raw);
	if (verdict != VERDICT_GOOD)
		return verdict;
	/* Other names are a matter of which files there are. */
	if (ref->external && !data_named)
		return VERDICT_UNSURE;
	if (ref->backed && (!format_raw || !is_text(image, backing, len, "base.raw")))
		return VERDICT_UNSURE;
	return VERDICT_GOOD;
}

static enum verdict read_features(struct reference *ref, uint64_t *ret_header_length)
{
	const struct reference_bytes *image = &ref->image;
	uint64_t bits = get(image, AT_INCOMPATIBLE, 8), length = get(image, AT_HEADER_LENGTH, 4);

	if (bits & ~(uint64_t)BITS_KNOWN)
		return VERDICT_BAD;
	if (length < 104 || length > 1u << ref->cluster_bits ||
	    get(image, AT_REFCOUNT_ORDER, 4) > 6)
		return VERDICT_BAD;
	ref->external = bits & BIT_DATA_FILE;
	ref->extended = bits & BIT_EXTENDED;
	if (ref->extended && ref->cluster_bits < 14)
		return VERDICT_BAD;
	if (bits & BIT_COMPRESSION) {
		ref->compression = length > AT_COMPRESSION ? get(image, AT_COMPRESSION, 1) : 0;
		if (ref->compression != 1)
			return VERDICT_BAD;
	} else if (length > AT_COMPRESSION && get(image, AT_COMPRESSION, 1)) {
		return VERDICT_BAD;
	}
	*ret_header_length = length;
	return VERDICT_GOOD;
}

enum verdict reference_open(struct reference *ref)
{
	const struct reference_bytes *image = &ref->image;
	uint64_t bits = get(image, AT_CLUSTER_BITS, 4), header_length = 72, per_l1;
	enum verdict verdict = VERDICT_GOOD;

	if (get(image, 0, 4) != 0x514649fb)
		return VERDICT_BAD;
	ref->version = get(image, 4, 4);
	if ((ref->version != 2 && ref->version != 3) || bits < 9 || bits > 21)
		return VERDICT_BAD;
	ref->cluster_bits = bits;
	ref->compression = 0;
	ref->external = ref->extended = false;
	ref->size = get(image, AT_SIZE, 8);
	ref->nb_l1 = get(image, AT_NB_L1, 4);
	ref->l1_off = get(image, AT_L1, 8);
	if (get(image, AT_CRYPT, 4))
		return VERDICT_BAD;
	if (ref->version == 3)
		verdict = read_features(ref, &header_length);
	if (verdict != VERDICT_GOOD)
		return verdict;
	if (ref->l1_off % (1u << bits) || ref->nb_l1 > (32u << 20) / 8)
		return VERDICT_BAD;
	/* One L1 entry is for a table of one cluster. */
	per_l1 = 1ull << (bits + bits - (ref->extended ? 4 : 3));
	if (ref->size / per_l1 + !!(ref->size % per_l1) > ref->nb_l1)
		return VERDICT_BAD;
	return read_names(ref, header_length);
}

/* ---- compressed data ---- */

/* libdeflate takes streams that zlib refuses: lengths of codes that repeat beyond the last one. */
#ifdef HAVE_LIBDEFLATE
#define VERDICT_REFUSED VERDICT_UNSURE
#else
#define VERDICT_REFUSED VERDICT_BAD
#endif

static enum verdict inflate_deflate(const uint8_t *in, size_t in_bytes, uint8_t *out,
				    size_t out_bytes)
{
	z_stream z = {.next_in = (uint8_t *)in,
		      .avail_in = in_bytes,
		      .next_out = out,
		      .avail_out = out_bytes};
	int res;

	/* The largest window: a writer that used more than 4 KiB of it is understood by some. */
	if (inflateInit2(&z, -15) != Z_OK)
		abort();
	do {
		res = inflate(&z, Z_NO_FLUSH);
	} while (res == Z_OK && z.avail_out && z.avail_in);
	inflateEnd(&z);
	return z.avail_out ? VERDICT_REFUSED : VERDICT_GOOD;
}

#ifndef NO_ZSTD
/*
 * libzstd itself takes some frames as a whole that it refuses as a stream: blocks that are larger
 * than the window.
 */
static bool holds_frames(const uint8_t *in, size_t in_bytes, size_t out_bytes)
{
	uint8_t *out = malloc(out_bytes);
	size_t done = 0;

	if (!out)
		abort();
	while (done < out_bytes) {
		size_t frame_bytes = ZSTD_findFrameCompressedSize(in, in_bytes), n;

		if (ZSTD_isError(frame_bytes))
			break;
		n = ZSTD_decompress(out + done, out_bytes - done, in, frame_bytes);
		if (ZSTD_isError(n))
			break;
		done += n;
		in += frame_bytes;
		in_bytes -= frame_bytes;
	}
	free(out);
	return done == out_bytes;
}

/* More than a cluster can need. A window is memory here; who inflates in place needs none. */
#define WINDOW_LOG_MAX 23

static enum verdict inflate_zstd(const uint8_t *in_data, size_t in_bytes, uint8_t *out_data,
				 size_t out_bytes)
{
	ZSTD_inBuffer in = {.src = in_data, .size = in_bytes};
	ZSTD_outBuffer out = {.dst = out_data, .size = out_bytes};
	ZSTD_DStream *stream = ZSTD_createDStream();
	size_t res = 0;

	if (!stream)
		abort();
	ZSTD_DCtx_setParameter(stream, ZSTD_d_windowLogMax, WINDOW_LOG_MAX);
	while (out.pos < out.size && !ZSTD_isError(res)) {
		size_t before = in.pos + out.pos;

		res = ZSTD_decompressStream(stream, &out, &in);
		if (in.pos + out.pos == before)
			break;
	}
	ZSTD_freeDStream(stream);
	if (ZSTD_getErrorCode(res) == ZSTD_error_frameParameter_windowTooLarge)
		return VERDICT_UNSURE;
	if (out.pos == out.size)
		return VERDICT_GOOD;
	return holds_frames(in_data, in_bytes, out_bytes) ? VERDICT_UNSURE : VERDICT_BAD;
}
#else
static enum verdict inflate_zstd(const uint8_t *in, size_t in_bytes, uint8_t *out, size_t out_bytes)
{
	return VERDICT_UNSURE;
}
#endif

enum verdict reference_inflate(bool zstd, const uint8_t *in, size_t in_bytes, uint8_t *out,
			       size_t out_bytes)
{
	return zstd ? inflate_zstd(in, in_bytes, out, out_bytes)
		    : inflate_deflate(in, in_bytes, out, out_bytes);
}

static enum verdict read_compressed(const struct reference *ref, uint64_t descriptor, uint64_t skip,
				    uint8_t *buf, size_t len_bytes)
{
	unsigned x = 62 - (ref->cluster_bits - 8);
	uint64_t host_off = descriptor & ((1ull << x) - 1);
	uint64_t nb_sectors = (descriptor & ((1ull << 62) - 1)) >> x;
	size_t in_bytes = (nb_sectors + 1) * 512 - host_off % 512;
	size_t cluster_bytes = (size_t)1 << ref->cluster_bits;
	uint8_t *in, *out;
	enum verdict verdict;

	if (ref->external || host_off >= 1ull << 56)
		return VERDICT_UNSURE;
	in = malloc(in_bytes);
	out = calloc(1, cluster_bytes);
	if (!in || !out)
		abort();
	copy_out(&ref->image, host_off, in, in_bytes);
	verdict = reference_inflate(ref->compression == 1, in, in_bytes, out, cluster_bytes);
	memcpy(buf, out + skip, len_bytes);
	free(in);
	free(out);
	return verdict;
}

/* ---- mapping ---- */

uint64_t reference_unit(const struct reference *ref, uint64_t guest_off)
{
	uint64_t unit = 1ull << (ref->cluster_bits - (ref->extended ? 5 : 0));

	return unit - guest_off % unit;
}

static enum verdict read_below(const struct reference *ref, uint64_t guest_off, uint8_t *buf,
			       size_t len_bytes)
{
	if (ref->backed)
		copy_out(&ref->backing_file, guest_off, buf, len_bytes);
	else
		memset(buf, 0, len_bytes);
	return VERDICT_GOOD;
}

static enum verdict read_host(const struct reference *ref, uint64_t guest_off, uint64_t host_off,
			      uint8_t *buf, size_t len_bytes)
{
	uint64_t cluster_bytes = 1ull << ref->cluster_bits;

	if (host_off % cluster_bytes)
		return VERDICT_BAD;
	if (ref->external) {
		if (host_off != guest_off / cluster_bytes * cluster_bytes)
			return VERDICT_UNSURE;
		copy_out(&ref->data_file, guest_off, buf, len_bytes);
	} else {
		copy_out(&ref->image, host_off + guest_off % cluster_bytes, buf, len_bytes);
	}
	return VERDICT_GOOD;
}

static enum verdict read_entry(const struct reference *ref, uint64_t entry, uint64_t bitmap,
			       uint64_t guest_off, uint8_t *buf, size_t len_bytes)
{
	uint64_t cluster_bytes = 1ull << ref->cluster_bits;
	uint64_t host_off = entry & 0x00fffffffffffe00ull;
	bool allocated = host_off || (ref->external && entry >> 63), zero = entry & 1;

	if (entry >> 62 & 1) {
		if (bitmap)
			return VERDICT_UNSURE;
		return read_compressed(ref, entry, guest_off % cluster_bytes, buf, len_bytes);
	}
	/* Reserved bits: bit 0 has a meaning in standard entries of version 3 alone. */
	if (entry & 0x3f000000000001feull || (zero && (ref->version == 2 || ref->extended)))
		return VERDICT_BAD;
	if (ref->extended) {
		unsigned subcluster = guest_off % cluster_bytes / (cluster_bytes / 32);

		if ((bitmap >> 32) & (uint32_t)bitmap)
			return (bitmap >> (32 + subcluster)) & (bitmap >> subcluster) & 1
				       ? VERDICT_BAD
				       : VERDICT_UNSURE;
		zero = bitmap >> (32 + subcluster) & 1;
		if ((bitmap >> subcluster & 1) && !allocated)
			return VERDICT_BAD;
		allocated = bitmap >> subcluster & 1;
	}
	if (zero) {
		memset(buf, 0, len_bytes);
		return host_off % cluster_bytes ? VERDICT_UNSURE : VERDICT_GOOD;
	}
	return allocated ? read_host(ref, guest_off, host_off, buf, len_bytes)
			 : read_below(ref, guest_off, buf, len_bytes);
}

enum verdict reference_read(const struct reference *ref, uint64_t guest_off, uint8_t *buf,
			    size_t len_bytes)
{
	unsigned entry_bytes = ref->extended ? 16 : 8;
	uint64_t cluster_bytes = 1ull << ref->cluster_bits;
	uint64_t cluster = guest_off >> ref->cluster_bits, per_table = cluster_bytes / entry_bytes;
	uint64_t l1, l2_off, at;

	l1 = get(&ref->image, ref->l1_off + cluster / per_table * 8, 8);
	l2_off = l1 & 0x00fffffffffffe00ull;
	if (l1 & 0x7f000000000001ffull || l2_off % cluster_bytes)
		return VERDICT_BAD;
	if (!l2_off)
		return read_below(ref, guest_off, buf, len_bytes);
	/* A table that the file does not hold. */
	if (!holds(&ref->image, l2_off, cluster_bytes))
		return VERDICT_UNSURE;
	at = l2_off + cluster % per_table * entry_bytes;
	return read_entry(ref, get(&ref->image, at, 8),
			  ref->extended ? get(&ref->image, at + 8, 8) : 0, guest_off, buf,
			  len_bytes);
}
