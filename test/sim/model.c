/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* model: versions of sectors, legality, and payloads. See model.h. */
#include "test/sim/model.h"
#include "test/sim/choose.h"
#include "test/sim/verdict.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAYLOAD_MAGIC 0x51465053494d3031ull

struct payload {
	uint64_t magic, lba, content, sum;
	uint64_t fill[60]; /* two words in turn: compressible, but of this version alone */
};
static_assert(sizeof(struct payload) == SIM_SECTOR, "a payload is one sector");

/* ---- payloads ---- */

static uint64_t payload_sum(const struct payload *p)
{
	uint64_t a = p->magic ^ p->lba * 3, b = p->content;

	for (unsigned i = 0; i < 60; i += 2) {
		a = (a ^ p->fill[i]) * 0x9e3779b97f4a7c15ull;
		b = (b ^ p->fill[i + 1]) * 0xbf58476d1ce4e5b9ull;
	}
	return mix64(a ^ (b << 1 | b >> 63));
}

void payload_fill(uint8_t *sector, uint64_t lba, content_t content)
{
	struct payload p = {.magic = PAYLOAD_MAGIC, .lba = lba, .content = content};
	uint64_t odd = mix64(lba << 32 ^ content);

	if (content == CONTENT_ZERO) {
		memset(sector, 0, SIM_SECTOR);
		return;
	}
	for (unsigned i = 0; i < 60; i += 2) {
		p.fill[i] = lba + 1;
		p.fill[i + 1] = odd;
	}
	p.sum = payload_sum(&p);
	memcpy(sector, &p, sizeof(p));
}

bool sector_is_zero(const uint8_t *sector)
{
	uint64_t first;

	memcpy(&first, sector, sizeof(first));
	return first == 0 && memcmp(sector, sector + 8, SIM_SECTOR - 8) == 0;
}

bool payload_parse(const uint8_t *sector, uint64_t *ret_lba, content_t *ret_content)
{
	struct payload p;

	memcpy(&p.magic, sector, sizeof(p.magic));
	if (p.magic != PAYLOAD_MAGIC) {
		*ret_lba = UINT64_MAX;
		*ret_content = CONTENT_ZERO;
		return sector_is_zero(sector);
	}
	memcpy(&p, sector, sizeof(p));
	*ret_lba = p.lba;
	*ret_content = p.content;
	return p.sum == payload_sum(&p);
}

uint64_t sector_hash(const uint8_t *sector)
{
	uint64_t lba, h = 0, word;
	content_t content;

	if (payload_parse(sector, &lba, &content)) {
		uint32_t id = (uint32_t)(content >> 32);

		if (content == CONTENT_ZERO)
			return 0;
		return mix64(lba << 40 ^ (id < CONTENT_ID_FIRST ? id : 0) << 20 ^
			     (uint32_t)content);
	}
	for (unsigned i = 0; i < SIM_SECTOR; i += 8) {
		memcpy(&word, sector + i, sizeof(word));
		h = (h ^ word) * 0x9e3779b97f4a7c15ull;
		h ^= h >> 29;
	}
	return mix64(h);
}

/* ---- versions ---- */

void model_init(struct model *model, unsigned nb_sectors, unsigned max_sectors)
{
	*model = (struct model){.max_sectors = max_sectors, .next_id = CONTENT_ID_FIRST};
	model->newest = malloc((max_sectors + 1) * sizeof(*model->newest));
	model->newest_mixed = malloc(max_sectors * sizeof(*model->newest_mixed));
	model->max_versions = max_sectors + 1 + 256;
	model->versions = malloc(model->max_versions * sizeof(*model->versions));
	if (!model->newest || !model->newest_mixed || !model->versions)
		abort();
	memset(model->newest_mixed, -1, max_sectors * sizeof(*model->newest_mixed));
	for (unsigned i = 0; i <= max_sectors; i++) {
		model->versions[i] = (struct model_version){.t_seen = SIM_NEVER, .older = -1};
		model->newest[i] = (int)i;
	}
	model->versions[max_sectors].content = nb_sectors;
	model->nb_versions = max_sectors + 1;
}

void model_free(struct model *model)
{
	free(model->newest);
	free(model->newest_mixed);
	free(model->versions);
	free(model->flushes);
	free(model->mixed);
	*model = (struct model){0};
}

void model_set_initial(struct model *model, unsigned lba, content_t content)
{
	model->versions[model->newest[lba]].content = content;
}

unsigned model_nb_sectors(const struct model *model)
{
	return (unsigned)model->versions[model->newest[model->max_sectors]].content;
}

static int push_version(struct model *model, unsigned slot, content_t content, uint64_t now)
{
	if (model->nb_versions == model->max_versions) {
		model->max_versions *= 2;
		model->versions =
			realloc(model->versions, model->max_versions * sizeof(*model->versions));
		if (!model->versions)
			abort();
	}
	model->versions[model->nb_versions] = (struct model_version){.content = content,
								     .t_start = now,
								     .t_end = SIM_NEVER,
								     .t_seen = SIM_NEVER,
								     .older = model->newest[slot]};
	model->newest[slot] = (int)model->nb_versions;
	return (int)model->nb_versions++;
}

static uint32_t nb_older(const struct model *model, unsigned slot)
{
	uint32_t nb = 0;

	for (int i = model->newest[slot]; i >= 0; i = model->versions[i].older)
		nb++;
	return nb;
}

void model_content_bytes(const struct model *model, unsigned lba, content_t content,
			 uint8_t *sector)
{
	uint32_t id = (uint32_t)(content >> 32);

	if (id >= CONTENT_ID_MIXED)
		memcpy(sector, model->mixed[id - CONTENT_ID_MIXED].bytes, SIM_SECTOR);
	else
		payload_fill(sector, lba, content);
}

static bool find_mixed(const struct model *model, unsigned lba, const uint8_t *bytes,
		       content_t *ret_content)
{
	for (int i = model->newest_mixed[lba]; i >= 0; i = model->mixed[i].older) {
		if (memcmp(model->mixed[i].bytes, bytes, SIM_SECTOR) == 0) {
			*ret_content = (uint64_t)(CONTENT_ID_MIXED + (unsigned)i) << 32;
			return true;
		}
	}
	return false;
}

/* The version that replacing bytes [from, to) of the newest one by `bytes` makes. */
static content_t mix_content(struct model *model, unsigned lba, const uint8_t *bytes, unsigned from,
			     unsigned to, uint32_t ordinal)
{
	content_t old = model->versions[model->newest[lba]].content;
	struct model_mixed *mixed;
	uint8_t sector[SIM_SECTOR];
	content_t known;

	model_content_bytes(model, lba, old, sector);
	memcpy(sector + from, bytes + from, to - from);
	if (sector_is_zero(sector))
		return CONTENT_ZERO;
	if (find_mixed(model, lba, sector, &known))
		return known | ordinal;
	if (model->nb_mixed == model->max_mixed) {
		model->max_mixed = model->max_mixed ? model->max_mixed * 2 : 16;
		model->mixed = realloc(model->mixed, model->max_mixed * sizeof(*mixed));
		if (!model->mixed)
			abort();
	}
	mixed = &model->mixed[model->nb_mixed];
	mixed->older = model->newest_mixed[lba];
	model->newest_mixed[lba] = (int)model->nb_mixed;
	memcpy(mixed->bytes, sector, SIM_SECTOR);
	return (uint64_t)(CONTENT_ID_MIXED + model->nb_mixed++) << 32 | ordinal;
}

void model_begin(struct model *model, struct model_op *op, uint64_t now, uint64_t guest_off,
		 uint64_t len_bytes, uint8_t *buf)
{
	uint64_t end = guest_off + len_bytes;
	uint8_t sector[SIM_SECTOR];

	*op = (struct model_op){.first_sector = (unsigned)(guest_off / SIM_SECTOR),
				.nb_sectors = (unsigned)((end + SIM_SECTOR - 1) / SIM_SECTOR -
							 guest_off / SIM_SECTOR),
				.first_version = (int)model->nb_versions,
				.id = buf ? model->next_id++ : 0};
	for (unsigned i = 0; i < op->nb_sectors; i++) {
		unsigned lba = op->first_sector + i;
		uint64_t start = (uint64_t)lba * SIM_SECTOR;
		unsigned from = guest_off > start ? (unsigned)(guest_off - start) : 0;
		unsigned to = end - start < SIM_SECTOR ? (unsigned)(end - start) : SIM_SECTOR;
		uint32_t ordinal = nb_older(model, lba);
		content_t content = buf ? (uint64_t)op->id << 32 | ordinal : CONTENT_ZERO;

		payload_fill(sector, lba, content);
		if (buf)
			memcpy(buf + (start + from - guest_off), sector + from, to - from);
		if (from > 0 || to < SIM_SECTOR)
			content = mix_content(model, lba, sector, from, to, ordinal);
		push_version(model, lba, content, now);
	}
}

void model_begin_resize(struct model *model, struct model_op *op, uint64_t now, unsigned nb_sectors)
{
	unsigned old = model_nb_sectors(model);

	*op = (struct model_op){.first_version = (int)model->nb_versions, .resizes = true};
	if (nb_sectors < old) {
		op->first_sector = nb_sectors;
		op->nb_sectors = old - nb_sectors;
	}
	for (unsigned i = 0; i < op->nb_sectors; i++)
		push_version(model, op->first_sector + i, CONTENT_ZERO, now);
	push_version(model, model->max_sectors, nb_sectors, now);
}

void model_end(struct model *model, const struct model_op *op, uint64_t now, bool success)
{
	if (!success)
		return;
	for (unsigned i = 0; i < op->nb_sectors + op->resizes; i++)
		model->versions[op->first_version + (int)i].t_end = now;
}

void model_flushed(struct model *model, uint64_t t_start, uint64_t t_end)
{
	if (model->nb_flushes == model->max_flushes) {
		model->max_flushes = model->max_flushes ? model->max_flushes * 2 : 16;
		model->flushes =
			realloc(model->flushes, model->max_flushes * sizeof(*model->flushes));
		if (!model->flushes)
			abort();
	}
	model->flushes[model->nb_flushes++] = (struct model_flush){t_start, t_end};
}

uint64_t model_flush_floor(const struct model *model, uint64_t now)
{
	uint64_t floor = 0;

	for (unsigned i = 0; i < model->nb_flushes; i++) {
		if (model->flushes[i].t_end <= now && model->flushes[i].t_start > floor)
			floor = model->flushes[i].t_start;
	}
	return floor;
}

/* ---- legality ---- */

/* The newest start among versions that are settled: v is excluded if it ended before. */
static uint64_t settled_start(const struct model *model, unsigned slot, uint64_t floor,
			      bool is_read)
{
	uint64_t start = 0;

	for (int i = model->newest[slot]; i >= 0; i = model->versions[i].older) {
		const struct model_version *w = &model->versions[i];
		uint64_t end = is_read && w->t_seen < w->t_end ? w->t_seen : w->t_end;

		if (end < floor && w->t_start > start)
			start = w->t_start;
	}
	return start;
}

static bool is_legal(const struct model_version *v, uint64_t now, uint64_t settled, bool is_read)
{
	uint64_t end = is_read && v->t_seen < v->t_end ? v->t_seen : v->t_end;

	return v->t_start <= now && !(settled && end < settled);
}

static const char *describe(content_t content, char *buf, size_t size)
{
	uint32_t id = (uint32_t)(content >> 32);

	if (content == CONTENT_ZERO)
		return "zeros";
	snprintf(buf, size, "%s %u (version %u)", id >= CONTENT_ID_MIXED ? "mixed write" : "write",
		 id >= CONTENT_ID_MIXED ? id - CONTENT_ID_MIXED : id, (unsigned)content);
	return buf;
}

static bool reject(const struct model *model, unsigned lba, content_t found, uint64_t now,
		   uint64_t floor, bool is_read)
{
	uint64_t settled = settled_start(model, lba, floor, is_read);
	char legal[256] = "", name[64];

	for (int i = model->newest[lba]; i >= 0; i = model->versions[i].older) {
		size_t used = strlen(legal);

		if (is_legal(&model->versions[i], now, settled, is_read))
			snprintf(legal + used, sizeof(legal) - used, "%s%s", used ? ", " : "",
				 describe(model->versions[i].content, name, sizeof(name)));
	}
	verdict_fail("%s: sector %u holds %s; legal: %s", is_read ? "read" : "after the crash", lba,
		     describe(found, name, sizeof(name)), legal);
	return false;
}

static bool same_content(content_t a, content_t b)
{
	/* The ordinal of a mixed version is not found in its bytes. */
	return a == b || (a >> 32 >= CONTENT_ID_MIXED && a >> 32 == b >> 32);
}

bool model_judge_sector(const struct model *model, unsigned lba, const uint8_t *bytes, uint64_t now,
			uint64_t floor, bool is_read, content_t *ret_content)
{
	uint64_t settled, found_lba;
	content_t content;

	if (!find_mixed(model, lba, bytes, &content)) {
		if (!payload_parse(bytes, &found_lba, &content)) {
			verdict_fail("%s: sector %u is torn or no guest data (starts %02x%02x%02x"
				     "%02x%02x%02x%02x%02x)",
				     is_read ? "read" : "after the crash", lba, bytes[0], bytes[1],
				     bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]);
			return false;
		}
		if (content != CONTENT_ZERO && found_lba != lba) {
			verdict_fail("%s: sector %u holds the data of sector %llu (write %u)",
				     is_read ? "read" : "after the crash", lba,
				     (unsigned long long)found_lba, (unsigned)(content >> 32));
			return false;
		}
	}
	if (ret_content)
		*ret_content = content;
	settled = settled_start(model, lba, floor, is_read);
	for (int i = model->newest[lba]; i >= 0; i = model->versions[i].older) {
		const struct model_version *v = &model->versions[i];

		if (same_content(v->content, content) && is_legal(v, now, settled, is_read))
			return true;
	}
	return reject(model, lba, content, now, floor, is_read);
}

bool model_judge_size(const struct model *model, unsigned nb_sectors, uint64_t now, uint64_t floor)
{
	unsigned slot = model->max_sectors;
	uint64_t settled = settled_start(model, slot, floor, false);

	for (int i = model->newest[slot]; i >= 0; i = model->versions[i].older) {
		if (model->versions[i].content == nb_sectors &&
		    is_legal(&model->versions[i], now, settled, false))
			return true;
	}
	verdict_fail("after the crash: the disk has %u sectors", nb_sectors);
	return false;
}

void model_observe(struct model *model, unsigned lba, content_t content, uint64_t t_start,
		   uint64_t t_end)
{
	uint64_t settled = settled_start(model, lba, t_start, true);
	struct model_version *seen = NULL;

	for (int i = model->newest[lba]; i >= 0; i = model->versions[i].older) {
		struct model_version *v = &model->versions[i];

		if (!same_content(v->content, content) || !is_legal(v, t_end, settled, true))
			continue;
		if (seen)
			return;
		seen = v;
	}
	if (seen && seen->t_seen == SIM_NEVER)
		seen->t_seen = t_end;
}

uint64_t model_legal_digest(const struct model *model, uint64_t now, uint64_t floor)
{
	uint64_t digest = 0;

	for (unsigned slot = 0; slot <= model->max_sectors; slot++) {
		uint64_t settled;

		if (model->versions[model->newest[slot]].older < 0)
			continue;
		settled = settled_start(model, slot, floor, false);
		for (int i = model->newest[slot]; i >= 0; i = model->versions[i].older) {
			const struct model_version *v = &model->versions[i];

			if (is_legal(v, now, settled, false))
				digest += mix64((uint64_t)slot << 32 ^ (uint32_t)v->content ^
						(v->content == CONTENT_ZERO) << 20);
		}
	}
	return digest;
}
