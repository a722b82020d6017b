/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * mutate: see mutate.h.
 */
#include "test/hostile/mutate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHANGES_MAX 4u

static uint64_t next_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

/* Kinds of fields are equally likely, however many fields there are of each. */
static const struct field *pick_field(const struct seed *seed, uint64_t *random)
{
	for (;;) {
		enum field_kind kind = next_random(random) % FIELD_COUNT;
		unsigned nb = 0, skip;

		for (unsigned i = 0; i < seed->nb_fields; i++)
			nb += seed->fields[i].kind == kind;
		if (!nb)
			continue;
		skip = next_random(random) % nb;
		for (unsigned i = 0; i < seed->nb_fields; i++)
			if (seed->fields[i].kind == kind && skip-- == 0)
				return &seed->fields[i];
	}
}

/* Values that code is afraid of, some of which speak of this image. */
static uint64_t pick_value(const struct seed *seed, uint64_t old, uint64_t *random)
{
	uint64_t r = next_random(random);
	uint64_t place = seed->places[r >> 32 & 0xff ? (r >> 40) % PLACE_COUNT : 0];

	switch (r % 16) {
	case 0:
		return 0;
	case 1:
		return UINT64_MAX;
	case 2:
		return old + 1;
	case 3:
		return old - 1;
	case 4:
		return old ^ 1ull << (r >> 8) % 64;
	case 5:
		return old * 2;
	case 6:
		return 1ull << (r >> 8) % 64;
	case 7:
		return (1ull << (r >> 8) % 64) - 1;
	case 8:
		return old + seed->cluster_size;
	case 9:
		return seed->size - (r >> 8) % 3 * 256;
	case 10:
		return place | 1ull << 63;
	case 11:
		return place | 1ull << 62 | (r >> 50) << 48;
	case 12:
		return place + (r >> 8) % seed->cluster_size;
	case 13:
		return next_random(random) >> (r >> 8) % 64;
	default:
		return place;
	}
}

static void flip_bytes(struct seed *seed, uint64_t *random)
{
	unsigned nb = 1 + next_random(random) % 16;

	while (nb--)
		seed->data[next_random(random) % seed->stored] ^= 1 + next_random(random) % 255;
}

static void copy_cluster(struct seed *seed, uint64_t *random)
{
	uint64_t nb = seed->stored / seed->cluster_size;
	uint64_t from = next_random(random) % nb, to = next_random(random) % nb;

	memmove(seed->data + to * seed->cluster_size, seed->data + from * seed->cluster_size,
		seed->cluster_size);
}

static void change_field(struct seed *seed, uint64_t *random)
{
	const struct field *field = pick_field(seed, random);
	uint64_t old = seed_get(seed, field->off, field->width);

	seed_put(seed, field->off, field->width, pick_value(seed, old, random));
}

static void change_size(struct seed *seed, uint64_t *random)
{
	uint64_t r = next_random(random);

	if (r % 4 == 0)
		seed->size += (r >> 8) % (1ull << (r >> 48) % 31);
	else
		seed->size = seed->stored = 1 + (r >> 8) % seed->stored;
}

static void change_something(struct seed *seed, uint64_t *random)
{
	switch (next_random(random) % 16) {
	case 0:
		flip_bytes(seed, random);
		break;
	case 1:
		if (seed->stored >= seed->cluster_size)
			copy_cluster(seed, random);
		break;
	case 2:
		change_size(seed, random);
		break;
	default:
		change_field(seed, random);
	}
}

void mutate_add_companions(const struct seed *seed, struct bundle *bundle)
{
	static const struct {
		unsigned feature;
		const char *name;
	} companions[] = {{SEED_BACKING, "base.raw"}, {SEED_DATA_FILE, "data.raw"}};

	for (unsigned c = 0; c < 2; c++) {
		struct seed raw = {.kind = seed->kind, .cluster_size = 512};

		if (!(seed->kind->features & companions[c].feature))
			continue;
		seed_extend(&raw, 9000);
		for (unsigned i = 0; i < 9000; i++)
			raw.data[i] = i / 100 + c;
		bundle_add(bundle, companions[c].name, &raw);
	}
}

void mutate_make(uint64_t seed, uint64_t number, struct bundle *ret_bundle)
{
	static struct seed *kinds;
	uint64_t random = seed * 0x2545f4914f6cdd1dull + number;
	unsigned nb_changes = 1 + next_random(&random) % CHANGES_MAX;
	const struct seed *from;

	if (!kinds) {
		kinds = calloc(nb_seed_kinds, sizeof(*kinds));
		if (!kinds)
			broken("no memory");
		for (unsigned i = 0; i < nb_seed_kinds; i++)
			seed_build(&seed_kinds[i], &kinds[i]);
	}
	from = &kinds[next_random(&random) % nb_seed_kinds];
	ret_bundle->nb_extras = 0;
	snprintf(ret_bundle->name, sizeof(ret_bundle->name), "%llu:%llu (%s)",
		 (unsigned long long)seed, (unsigned long long)number, from->kind->name);
	seed_copy(from, &ret_bundle->image);
	while (nb_changes--)
		change_something(&ret_bundle->image, &random);
	mutate_add_companions(&ret_bundle->image, ret_bundle);
}
