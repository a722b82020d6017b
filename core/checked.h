/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * checked: overflow-checked sums and products for numbers that come from an image.
 * Each returns true when the result does not fit (then *ret is not to be used).
 */
#ifndef QCOW2FS_CORE_CHECKED_H
#define QCOW2FS_CORE_CHECKED_H

#include <stdbool.h>
#include <stdint.h>

static inline bool __attribute__((warn_unused_result))
checked_add(uint64_t a, uint64_t b, uint64_t *ret)
{
	return __builtin_add_overflow(a, b, ret);
}

static inline bool __attribute__((warn_unused_result))
checked_mul(uint64_t a, uint64_t b, uint64_t *ret)
{
	return __builtin_mul_overflow(a, b, ret);
}

static inline uint64_t round_down(uint64_t n, uint64_t power_of_two)
{
	return n & ~(power_of_two - 1);
}
/* n is at most UINT64_MAX - power_of_two. */
static inline uint64_t round_up(uint64_t n, uint64_t power_of_two)
{
	return (n + power_of_two - 1) & ~(power_of_two - 1);
}
static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}
static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}
static inline uint64_t div_up(uint64_t n, uint64_t by)
{
	return n / by + (n % by != 0);
}

#endif
