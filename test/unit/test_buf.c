/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* buf: alignment, size classes, what is kept and what is given back. */
#include "io/buf.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

static int trim(void **state)
{
	buf_trim();
	return 0;
}

static void test_every_size_is_aligned_and_whole(void **state)
{
	static const size_t sizes[] = {1,     512,   4095,   4096,    4097,          8192,
				       65536, 65537, 131072, 1 << 20, (1 << 20) + 1, BUF_MAX_BYTES};
	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		unsigned char *buf = buf_get(sizes[i]);
		assert_non_null(buf);
		assert_int_equal((uintptr_t)buf % BUF_ALIGN, 0);
		memset(buf, 0x5a, sizes[i]);
		buf_put(buf, sizes[i]);
	}
}

static void test_last_returned_is_first_reused(void **state)
{
	void *a = buf_get(60000), *b = buf_get(60000);
	assert_ptr_not_equal(a, b);
	buf_put(a, 60000);
	buf_put(b, 60000);
	/* Another length of the same class, down to just above the next one. */
	void *first = buf_get(65536), *second = buf_get(32769);
	assert_ptr_equal(first, b);
	assert_ptr_equal(second, a);
	buf_put(first, 65536);
	buf_put(second, 32769);
}

static void test_classes_do_not_mix(void **state)
{
	void *small = buf_get(4096);
	buf_put(small, 4096);
	void *larger = buf_get(4097);
	assert_ptr_not_equal(larger, small);
	buf_put(larger, 4097);
}

static int is_mapped(void *buf)
{
	unsigned char pages[BUF_MAX_BYTES / BUF_ALIGN];
	return mincore(buf, BUF_MAX_BYTES, pages) == 0;
}

static void test_keeping_is_bounded_and_trim_gives_back(void **state)
{
	void *bufs[8];
	for (int i = 0; i < 8; i++) {
		bufs[i] = buf_get(BUF_MAX_BYTES);
		memset(bufs[i], 1, 4096);
	}
	for (int i = 0; i < 8; i++)
		buf_put(bufs[i], BUF_MAX_BYTES);
	for (int i = 0; i < 8; i++)
		assert_int_equal(is_mapped(bufs[i]), i < 4); /* 16 MiB */
	buf_trim();
	for (int i = 0; i < 8; i++)
		assert_false(is_mapped(bufs[i]));

	/* The bound counts what is kept now, not what ever was. */
	void *again = buf_get(BUF_MAX_BYTES);
	buf_put(again, BUF_MAX_BYTES);
	assert_true(is_mapped(again));
}

static void test_null_is_put_back_in_peace(void **state)
{
	buf_put(NULL, 4096);
}

static void test_nth_get_fails(void **state)
{
	buf_fail_nth(3);
	void *a = buf_get(1), *b = buf_get(1), *c = buf_get(1), *d = buf_get(1);
	assert_non_null(a);
	assert_non_null(b);
	assert_null(c);
	assert_non_null(d);
	buf_put(a, 1);
	buf_put(b, 1);
	buf_put(d, 1);

	buf_fail_nth(1);
	buf_fail_nth(0);
	void *e = buf_get(1);
	assert_non_null(e);
	buf_put(e, 1);
}

/* Each thread stamps what it holds and looks whether anybody else wrote there. */
static void *stamp(void *arg)
{
	unsigned long id = (unsigned long)(uintptr_t)arg, mistakes = 0, random = id;
	unsigned long *held[8] = {0};
	size_t len[8] = {0};
	for (int i = 0; i < 5000; i++) {
		random = random * 6364136223846793005ul + 1442695040888963407ul;
		unsigned slot = random >> 60 & 7;
		if (held[slot]) {
			mistakes += *held[slot] != id * 100000 + slot;
			buf_put(held[slot], len[slot]);
			held[slot] = NULL;
		} else {
			len[slot] = 1 + (random >> 40) % 200000;
			held[slot] = buf_get(len[slot]);
			*held[slot] = id * 100000 + slot;
		}
	}
	for (int slot = 0; slot < 8; slot++)
		buf_put(held[slot], len[slot] ? len[slot] : 1);
	return (void *)(uintptr_t)mistakes;
}

static void test_threads_never_share_a_buffer(void **state)
{
	pthread_t threads[4];
	for (uintptr_t i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, stamp, (void *)(i + 1)), 0);
	for (int i = 0; i < 4; i++) {
		void *mistakes;
		pthread_join(threads[i], &mistakes);
		assert_null(mistakes);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_every_size_is_aligned_and_whole, trim),
		cmocka_unit_test_teardown(test_last_returned_is_first_reused, trim),
		cmocka_unit_test_teardown(test_classes_do_not_mix, trim),
		cmocka_unit_test_teardown(test_keeping_is_bounded_and_trim_gives_back, trim),
		cmocka_unit_test_teardown(test_null_is_put_back_in_peace, trim),
		cmocka_unit_test_teardown(test_nth_get_fails, trim),
		cmocka_unit_test_teardown(test_threads_never_share_a_buffer, trim),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
