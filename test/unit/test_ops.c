/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * ops: what becomes of requests, without a kernel.
 */
#include "fuse/ops.h"
#include "fuse/tree.h"
#include "io/buf.h"
#include "io/reactor.h"
#include "test/unit/idle_engine.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#define LEN_BYTES 20000u

static int answered;

static int note_answer(struct request *request, int error, const struct iovec *iov, int nb_iov)
{
	answered = error;
	return 0;
}

/* The transport has copied a write's data: it is given back with the request. */
static void test_write_while_closing_is_refused(void **state)
{
	struct transport transport = {.name = "test", .reply = note_answer};
	struct reactor_params reactor_params = {.engine = &idle_engine_create(true)->engine};
	struct ops_params params = {0};
	struct request *request;
	struct tree tree;
	struct ops *ops;
	void *buf;

	assert_int_equal(reactor_create(&reactor_params, &params.reactor), 0);
	assert_int_equal(tree_init(&tree, &(struct tree_owner){.uid = 1, .gid = 1}), 0);
	params.tree = &tree;
	assert_int_equal(ops_create(&params, &ops), 0);
	ops_drain(ops);
	request = request_get(ops);
	assert_non_null(request);
	request->transport = &transport;
	request->op = REQUEST_WRITE;
	request->ino = tree_root(&tree)->ino;
	request->payload = request->buf = buf = buf_get(LEN_BYTES);
	request->buf_bytes = request->len_bytes = LEN_BYTES;
	assert_non_null(buf);
	assert_false(ops_dispatch(request));
	assert_int_equal(answered, -EIO);
	/* What was given back last is had first. */
	assert_ptr_equal(buf_get(LEN_BYTES), buf);
	buf_put(buf, LEN_BYTES);
	ops_destroy(ops);
	tree_finish(&tree);
	reactor_destroy(params.reactor);
	buf_trim();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_write_while_closing_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
