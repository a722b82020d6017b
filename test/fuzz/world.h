/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * world: what every fuzz target runs in: files in memory (test/hostile/disk.h), a
 * reactor on the caller's thread, and a bug that ends the process by abort(), which
 * fuzzers understand. Made once; each input begins with fresh files.
 *
 * A target is a file fuzz_*.c that defines LLVMFuzzerTestOneInput(), linked with libFuzzer, with
 * AFL++'s driver, or with driver.c, which runs it over files.
 */
#ifndef QCOW2FS_TEST_FUZZ_WORLD_H
#define QCOW2FS_TEST_FUZZ_WORLD_H

#include "test/hostile/disk.h"

#include <stddef.h>
#include <stdint.h>

#define WORLD_IMAGE "image.qcow2"
#define WORLD_BACKING "base.raw" /* the names that images of the corpus refer to */
#define WORLD_DATA "data.raw"
#define WORLD_COMPANION_BYTES 9000u

struct world {
	struct disk *disk;
	struct reactor *reactor;
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct world *world_get(void);
/* Removes all files. No coroutine may be left. */
void world_clear(struct world *world);
/* Fresh files: the image, and a backing and a data file of fixed contents. */
struct disk_file *world_put_image(struct world *world, const uint8_t *data, size_t size);
/* Byte `off` of the backing file (which 0) or the data file (1). */
uint8_t world_companion_byte(unsigned which, uint64_t off);
/* Runs fn(arg) as a coroutine to its end. */
void world_run(struct world *world, void (*fn)(void *arg), void *arg);

/* Numbers from an input, zeros beyond its end. */
struct bytes {
	const uint8_t *data;
	size_t left;
};
static inline uint64_t bytes_take(struct bytes *bytes, unsigned width)
{
	uint64_t value = 0;

	for (unsigned i = 0; i < width; i++) {
		value = value << 8 | (bytes->left ? *bytes->data : 0);
		bytes->data += bytes->left > 0;
		bytes->left -= bytes->left > 0;
	}
	return value;
}

#endif
