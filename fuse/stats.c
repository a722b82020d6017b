/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * stats: see stats.h. Counters are relaxed: a reader sees each of them soon, not all at
 * one moment.
 */
#include "fuse/stats.h"

#include <inttypes.h>
#include <time.h>

static void add(_Atomic uint64_t *counter, uint64_t value)
{
	atomic_fetch_add_explicit(counter, value, memory_order_relaxed);
}

static uint64_t get(const _Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

uint64_t stats_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Values below 4 have a bucket each; then the two bits below the highest one choose. */
unsigned stats_bucket(uint64_t latency_ns)
{
	unsigned shift, bucket;

	if (latency_ns < 4)
		return (unsigned)latency_ns;
	shift = 61u - (unsigned)__builtin_clzll(latency_ns);
	bucket = 4 * shift + (unsigned)(latency_ns >> shift);
	return bucket < STATS_BUCKETS ? bucket : STATS_BUCKETS - 1;
}

uint64_t stats_bucket_end_ns(unsigned bucket)
{
	if (bucket < 4)
		return bucket + 1;
	return (uint64_t)(4 + bucket % 4 + 1) << (bucket / 4 - 1);
}

void stats_note(struct stats *stats, enum stats_class class, int error, uint64_t bytes,
		uint64_t latency_ns)
{
	struct stats_counter *counter = &stats->counters[class];
	uint64_t max_ns = get(&counter->max_ns);

	add(&counter->nb, 1);
	add(&counter->bytes, bytes);
	if (error)
		add(&counter->nb_errors, 1);
	add(&counter->buckets[stats_bucket(latency_ns)], 1);
	while (latency_ns > max_ns &&
	       !atomic_compare_exchange_weak(&counter->max_ns, &max_ns, latency_ns))
		;
}

uint64_t stats_percentile_ns(const struct stats_counter *counter, unsigned percent)
{
	uint64_t nb = 0, seen = 0, max_ns = get(&counter->max_ns);

	for (unsigned i = 0; i < STATS_BUCKETS; i++)
		nb += get(&counter->buckets[i]);
	if (nb == 0)
		return 0;
	for (unsigned i = 0; i < STATS_BUCKETS; i++) {
		uint64_t end_ns = stats_bucket_end_ns(i);

		seen += get(&counter->buckets[i]);
		if (seen * 100 >= nb * percent)
			return end_ns < max_ns ? end_ns : max_ns;
	}
	return max_ns;
}

void stats_print_json(const struct stats *stats, FILE *out)
{
	static const char *const names[STATS_CLASS_COUNT] = {
		[STATS_READ] = "read",   [STATS_WRITE] = "write", [STATS_FLUSH] = "flush",
		[STATS_SPACE] = "space", [STATS_OTHER] = "other",
	};
	static const struct stats none;

	if (!stats)
		stats = &none;
	for (unsigned i = 0; i < STATS_CLASS_COUNT; i++) {
		const struct stats_counter *counter = &stats->counters[i];

		fprintf(out,
			"%s\"%s\": {\"count\": %" PRIu64 ", \"errors\": %" PRIu64
			", \"bytes\": %" PRIu64 ", \"latency_us\": {\"p50\": %.1f, \"p90\": %.1f, "
			"\"p99\": %.1f, \"max\": %.1f}}",
			i ? ", " : "{", names[i], get(&counter->nb), get(&counter->nb_errors),
			get(&counter->bytes), (double)stats_percentile_ns(counter, 50) / 1e3,
			(double)stats_percentile_ns(counter, 90) / 1e3,
			(double)stats_percentile_ns(counter, 99) / 1e3,
			(double)get(&counter->max_ns) / 1e3);
	}
	fputc('}', out);
}
