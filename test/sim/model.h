/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * model: what the guest may see, and guest data that describes itself.
 *
 * Every 512-byte sector that a run writes carries a magic number, its own LBA, the
 * id of the write, its ordinal among the versions of that LBA and a checksum; a
 * sector found anywhere can so be traced back to the write that made it, and data
 * that is misdirected, torn or stale is recognised as such.
 *
 * For each sector the model keeps all versions with the logical times at which
 * their operation started and ended. A version v is excluded at a time when some
 * version w that started after v had ended is itself settled: for a read, w ended
 * before the read started; for a crash, w ended before a flush was issued that
 * reported success. Everything else that had started is legal. This is per-sector
 * linearizability, and with it: the newest flushed version or a newer one, or zero
 * under an unflushed discard. A failed operation never settles: old and new stay
 * legal until a later operation settles over both.
 */
#ifndef QCOW2FS_TEST_SIM_MODEL_H
#define QCOW2FS_TEST_SIM_MODEL_H

#include "test/sim/disk.h"

#include <stdbool.h>
#include <stdint.h>

/* Id of a write in the high half, ordinal among the versions of its LBA in the low half. */
typedef uint64_t content_t;
#define CONTENT_ZERO 0ull
#define CONTENT_ID_IMAGE 1u          /* what the image of a cell holds at first */
#define CONTENT_ID_BACKING 2u        /* the same of its backing file */
#define CONTENT_ID_FIRST 16u         /* writes of runs */
#define CONTENT_ID_MIXED 0xc0000000u /* + index: parts of two versions */

struct model_version {
	content_t content;
	uint64_t t_start, t_end;
	uint64_t t_seen; /* a read that returned it ended then */
	int older;       /* index in the pool, -1 at the end */
};

struct model_flush {
	uint64_t t_start, t_end; /* of a flush that succeeded */
};

struct model_mixed {
	int older; /* of the same sector: index in the pool, -1 at the end */
	uint8_t bytes[SIM_SECTOR];
};

struct model {
	unsigned max_sectors;
	int *newest; /* per sector; one more at the end is the disk's size in sectors */
	struct model_version *versions;
	unsigned nb_versions, max_versions;
	struct model_flush *flushes;
	unsigned nb_flushes, max_flushes;
	int *newest_mixed; /* per sector, -1: none */
	struct model_mixed *mixed;
	unsigned nb_mixed, max_mixed;
	uint32_t next_id;
};

/* What a guest operation changes; filled by model_begin(). */
struct model_op {
	unsigned first_sector, nb_sectors;
	int first_version; /* its versions are consecutive in the pool */
	uint32_t id;
	bool resizes;
};

/* A disk of `nb_sectors` zeros that never grows beyond `max_sectors`. */
void model_init(struct model *model, unsigned nb_sectors, unsigned max_sectors);
void model_free(struct model *model);
void model_set_initial(struct model *model, unsigned lba, content_t content);

/* Begins an operation: with `buf` a write, whose payload is filled in; else zeros. */
void model_begin(struct model *model, struct model_op *op, uint64_t now, uint64_t guest_off,
		 uint64_t len_bytes, uint8_t *buf);
void model_begin_resize(struct model *model, struct model_op *op, uint64_t now,
			unsigned nb_sectors);
/* Ends it: only a successful one settles. */
void model_end(struct model *model, const struct model_op *op, uint64_t now, bool success);
/* A flush (or close) that started at t_start has succeeded at t_end. */
void model_flushed(struct model *model, uint64_t t_start, uint64_t t_end);

/* Latest size in sectors that has been asked for. */
unsigned model_nb_sectors(const struct model *model);

/* When the newest flush that had succeeded by `now` was issued; 0: none. */
uint64_t model_flush_floor(const struct model *model, uint64_t now);

/*
 * Is it legal that sector `lba` holds `bytes`, when versions started by `now` may be
 * there and those that ended before `floor` are settled? Fails the verdict if not.
 */
bool model_judge_sector(const struct model *model, unsigned lba, const uint8_t *bytes, uint64_t now,
			uint64_t floor, bool is_read, content_t *ret_content);
/* The same for the size of the disk. */
bool model_judge_size(const struct model *model, unsigned nb_sectors, uint64_t now, uint64_t floor);
/*
 * A read from t_start to t_end has returned `content`: later reads must not go back. Of zeros
 * that two versions may have left, nobody can tell which they are: then nothing is learnt.
 */
void model_observe(struct model *model, unsigned lba, content_t content, uint64_t t_start,
		   uint64_t t_end);

/* Hash of everything that is legal, independent of ids. */
uint64_t model_legal_digest(const struct model *model, uint64_t now, uint64_t floor);

/* The bytes of sector `lba` when it holds `content`. */
void model_content_bytes(const struct model *model, unsigned lba, content_t content,
			 uint8_t *sector);

/* ---- payloads ---- */
void payload_fill(uint8_t *sector, uint64_t lba, content_t content);
/* True when `sector` is zero or an intact payload of any LBA. */
bool payload_parse(const uint8_t *sector, uint64_t *ret_lba, content_t *ret_content);
bool sector_is_zero(const uint8_t *sector);
/* Hash of a sector's bytes in which payloads count by LBA and ordinal, not by id. */
uint64_t sector_hash(const uint8_t *sector);

#endif
