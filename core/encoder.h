/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * encoder: compresses one cluster ("Compressed Clusters Descriptor"). Encoders are kept in
 * a list of idle ones, because setting one up costs as much as a small cluster.
 *
 * An encoder is used by one thread at a time, a list by one.
 */
#ifndef QCOW2FS_CORE_ENCODER_H
#define QCOW2FS_CORE_ENCODER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct encoder;

/* One from the list, or a new one; all of a list are of one kind. NULL: out of memory. */
struct encoder *encoder_take(struct encoder **idle, bool zstd);
void encoder_put_back(struct encoder **idle, struct encoder *encoder);
void encoder_free_all(struct encoder **idle);

/* The number of bytes in `out`, 0 when they are not fewer than went in. [any thread] */
size_t encoder_run(struct encoder *encoder, const uint8_t *in, size_t in_bytes, uint8_t *out);

#endif
