/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * encoder: see encoder.h.
 *
 * deflate: a window of 4 KiB, which is what readers of the format are prepared for;
 * libdeflate cannot limit its distances, so it is zlib that compresses.
 */
#include "core/encoder.h"

#include <stdlib.h>
#include <zlib.h>
#ifndef NO_ZSTD
#include <zstd.h>
#endif

#define DEFLATE_WINDOW_BITS (-12)
/*
 * Measured on programs, libraries and texts with clusters of 64 KiB and a window of 4 KiB: with
 * these hash tables, smaller than zlib's largest, and a quarter of level 6's search for matches,
 * a core compresses half as much again per second as with level 6 and memory level 9, into 0.2 %
 * more bytes.
 */
#define DEFLATE_MEM_LEVEL 7
#define DEFLATE_GOOD_LENGTH 8
#define DEFLATE_MAX_LAZY 16
#define DEFLATE_NICE_LENGTH 128
#define DEFLATE_MAX_CHAIN 32

struct encoder {
	struct encoder *next;
	z_stream z;
	void *zstd;
};

static void encoder_free(struct encoder *encoder)
{
	deflateEnd(&encoder->z);
#ifndef NO_ZSTD
	ZSTD_freeCCtx(encoder->zstd);
#endif
	free(encoder);
}

static struct encoder *encoder_new(bool zstd)
{
	struct encoder *encoder = calloc(1, sizeof(*encoder));

	if (!encoder)
		return NULL;
#ifndef NO_ZSTD
	if (zstd) {
		encoder->zstd = ZSTD_createCCtx();
		if (encoder->zstd)
			return encoder;
		free(encoder);
		return NULL;
	}
#endif
	if (deflateInit2(&encoder->z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, DEFLATE_WINDOW_BITS,
			 DEFLATE_MEM_LEVEL, Z_DEFAULT_STRATEGY) == Z_OK)
		return encoder;
	free(encoder);
	return NULL;
}

size_t encoder_run(struct encoder *encoder, const uint8_t *in, size_t in_bytes, uint8_t *out)
{
	z_stream *z = &encoder->z;

#ifndef NO_ZSTD
	if (encoder->zstd) {
		size_t n = ZSTD_compressCCtx(encoder->zstd, out, in_bytes - 1, in, in_bytes,
					     ZSTD_CLEVEL_DEFAULT);

		return ZSTD_isError(n) ? 0 : n;
	}
#endif
	z->next_in = (uint8_t *)in;
	z->avail_in = in_bytes;
	z->next_out = out;
	z->avail_out = in_bytes - 1;
	/* A reset takes the tuning back. */
	if (deflateReset(z) != Z_OK ||
	    deflateTune(z, DEFLATE_GOOD_LENGTH, DEFLATE_MAX_LAZY, DEFLATE_NICE_LENGTH,
			DEFLATE_MAX_CHAIN) != Z_OK ||
	    deflate(z, Z_FINISH) != Z_STREAM_END)
		return 0;
	return in_bytes - 1 - z->avail_out;
}

struct encoder *encoder_take(struct encoder **idle, bool zstd)
{
	struct encoder *encoder = *idle;

	if (!encoder)
		return encoder_new(zstd);
	*idle = encoder->next;
	return encoder;
}

void encoder_put_back(struct encoder **idle, struct encoder *encoder)
{
	encoder->next = *idle;
	*idle = encoder;
}

void encoder_free_all(struct encoder **idle)
{
	struct encoder *encoder;

	while ((encoder = *idle)) {
		*idle = encoder->next;
		encoder_free(encoder);
	}
}
