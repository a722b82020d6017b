/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Messages of the kernel's protocol: what becomes of each, and of malformed ones.
 */
#include "fuse/message.h"

#include <errno.h>
#include <linux/fuse.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cmocka.h>

static struct request request;
static size_t zero_bytes;

static int parse(uint32_t opcode, const void *head, size_t head_bytes, const void *payload,
		 size_t payload_bytes)
{
	const struct message message = {
		.opcode = opcode,
		.node_id = 2,
		.head = head,
		.head_bytes = head_bytes,
		.payload = payload,
		.payload_bytes = payload_bytes,
	};

	memset(&request, 0, sizeof(request));
	zero_bytes = SIZE_MAX;
	return message_parse(&message, &request, &zero_bytes);
}

static void test_read(void **state)
{
	const struct fuse_read_in in = {.fh = 3, .offset = 1ull << 40, .size = 4096, .flags = 1};

	assert_int_equal(parse(FUSE_READ, &in, sizeof(in), NULL, 0), 0);
	assert_int_equal(request.op, REQUEST_READ);
	assert_int_equal(request.ino, 2);
	assert_int_equal(request.fh, 3);
	assert_int_equal(request.offset, 1ull << 40);
	assert_int_equal(request.len_bytes, 4096);
	assert_int_equal(request.flags, 1);
	assert_int_equal(parse(FUSE_READ, &in, sizeof(in) - 1, NULL, 0), -EINVAL);
}

static void test_direct_io_by_any_handle(void **state)
{
	struct fuse_read_in in = {.size = 4096};
	struct fuse_write_in write_in = {.size = 6};

	assert_int_equal(parse(FUSE_READ, &in, sizeof(in), NULL, 0), 0);
	assert_false(request.past_cache);
	in.read_flags = FUSE_READ_LOCKOWNER;
	assert_int_equal(parse(FUSE_READ, &in, sizeof(in), NULL, 0), 0);
	assert_true(request.past_cache);
	assert_int_equal(parse(FUSE_WRITE, &write_in, sizeof(write_in), "abcdef", 6), 0);
	assert_false(request.past_cache);
	write_in.write_flags = FUSE_WRITE_LOCKOWNER;
	assert_int_equal(parse(FUSE_WRITE, &write_in, sizeof(write_in), "abcdef", 6), 0);
	assert_true(request.past_cache);
}

static void test_write_stays_inside_its_payload(void **state)
{
	struct fuse_write_in in = {.fh = 3, .offset = 512, .size = 6};

	assert_int_equal(parse(FUSE_WRITE, &in, sizeof(in), "abcdef", 6), 0);
	assert_int_equal(request.op, REQUEST_WRITE);
	assert_int_equal(request.len_bytes, 6);
	assert_memory_equal(request.payload, "abcdef", 6);
	assert_false(request.from_cache);
	in.write_flags = FUSE_WRITE_CACHE;
	assert_int_equal(parse(FUSE_WRITE, &in, sizeof(in), "abcdef", 6), 0);
	assert_true(request.from_cache);
	in.size = 7;
	assert_int_equal(parse(FUSE_WRITE, &in, sizeof(in), "abcdef", 6), -EINVAL);
}

static void test_names_end_inside_their_payload(void **state)
{
	char name[REQUEST_NAME_MAX + 2];

	assert_int_equal(parse(FUSE_LOOKUP, NULL, 0, "disk.raw", 9), 0);
	assert_int_equal(request.op, REQUEST_LOOKUP);
	assert_string_equal(request.name, "disk.raw");
	assert_int_equal(parse(FUSE_LOOKUP, NULL, 0, "disk.raw", 8), -EINVAL);
	assert_int_equal(parse(FUSE_LOOKUP, NULL, 0, NULL, 0), -EINVAL);

	memset(name, 'x', sizeof(name));
	name[REQUEST_NAME_MAX] = '\0';
	assert_int_equal(parse(FUSE_LOOKUP, NULL, 0, name, sizeof(name)), 0);
	name[REQUEST_NAME_MAX] = 'x';
	name[REQUEST_NAME_MAX + 1] = '\0';
	assert_int_equal(parse(FUSE_LOOKUP, NULL, 0, name, sizeof(name)), -ENAMETOOLONG);
}

static void test_attribute_names(void **state)
{
	const struct fuse_getxattr_in in = {.size = 100};
	char name[REQUEST_NAME_MAX + 2] = {0};

	assert_int_equal(parse(FUSE_GETXATTR, &in, sizeof(in), "user.x", 7), 0);
	assert_int_equal(request.op, REQUEST_GETXATTR);
	assert_int_equal(request.len_bytes, 100);
	assert_string_equal(request.name, "user.x");
	/* Too long to be one of ours: it does not exist. */
	memset(name, 'x', REQUEST_NAME_MAX + 1);
	assert_int_equal(parse(FUSE_GETXATTR, &in, sizeof(in), name, sizeof(name)), -ENODATA);
	assert_int_equal(parse(FUSE_LISTXATTR, &in, sizeof(in), NULL, 0), 0);
	assert_int_equal(request.len_bytes, 100);
}

static void test_setattr(void **state)
{
	struct fuse_setattr_in in = {
		.valid = FATTR_SIZE | FATTR_MTIME | FATTR_FH | FATTR_LOCKOWNER,
		.fh = 1,
		.size = 12345,
		.mtime = 99,
		.mtimensec = 5,
	};

	assert_int_equal(parse(FUSE_SETATTR, &in, sizeof(in), NULL, 0), 0);
	assert_int_equal(request.setattr_valid, FATTR_SIZE | FATTR_MTIME);
	assert_true(request.setattr_by_handle);
	assert_int_equal(request.fh, 1);
	assert_int_equal(request.attr.st_size, 12345);
	assert_int_equal(request.attr.st_mtim.tv_sec, 99);
	assert_int_equal(request.attr.st_mtim.tv_nsec, 5);
	in.valid = FATTR_SIZE;
	assert_int_equal(parse(FUSE_SETATTR, &in, sizeof(in), NULL, 0), 0);
	assert_false(request.setattr_by_handle);
}

static void test_ranges(void **state)
{
	const struct fuse_fallocate_in space = {.fh = 1, .offset = 2, .length = 3, .mode = 4};
	const struct fuse_lseek_in seek = {.fh = 1, .offset = 7, .whence = 3};
	const struct fuse_copy_file_range_in copy = {
		.fh_in = 1, .off_in = 10, .nodeid_out = 3, .off_out = 20, .len = 30};

	assert_int_equal(parse(FUSE_FALLOCATE, &space, sizeof(space), NULL, 0), 0);
	assert_int_equal(request.op, REQUEST_FALLOCATE);
	assert_int_equal(request.offset, 2);
	assert_int_equal(request.len_bytes, 3);
	assert_int_equal(request.flags, 4);
	assert_int_equal(parse(FUSE_LSEEK, &seek, sizeof(seek), NULL, 0), 0);
	assert_int_equal(request.offset, 7);
	assert_int_equal(request.flags, 3);
	assert_int_equal(parse(FUSE_COPY_FILE_RANGE, &copy, sizeof(copy), NULL, 0), 0);
	assert_int_equal(request.offset, 10);
	assert_int_equal(request.ino_out, 3);
	assert_int_equal(request.offset_out, 20);
	assert_int_equal(request.len_bytes, 30);
}

static void test_answered_at_once(void **state)
{
	assert_int_equal(parse(FUSE_OPENDIR, NULL, 0, NULL, 0), 1);
	assert_int_equal(zero_bytes, sizeof(struct fuse_open_out));
	assert_int_equal(parse(FUSE_RELEASEDIR, NULL, 0, NULL, 0), 1);
	assert_int_equal(zero_bytes, 0);
}

/* Whatever they say: their structures are not read. */
static void test_refused(void **state)
{
	static const uint32_t opcodes[] = {
		FUSE_CREATE, FUSE_MKNOD, FUSE_MKDIR,  FUSE_SYMLINK, FUSE_LINK,
		FUSE_UNLINK, FUSE_RMDIR, FUSE_RENAME, FUSE_RENAME2,
	};

	for (size_t i = 0; i < sizeof(opcodes) / sizeof(opcodes[0]); i++)
		assert_int_equal(parse(opcodes[i], NULL, 0, NULL, 0), -EPERM);
}

static void test_unknown(void **state)
{
	static const uint32_t opcodes[] = {
		0, FUSE_FORGET, FUSE_ACCESS, FUSE_IOCTL, FUSE_POLL, 52, 1000, UINT32_MAX,
	};

	for (size_t i = 0; i < sizeof(opcodes) / sizeof(opcodes[0]); i++)
		assert_int_equal(parse(opcodes[i], NULL, 0, NULL, 0), -ENOSYS);
}

/* From the device a message comes in one piece. */
static void test_pieces_of_a_device_message(void **state)
{
	struct {
		struct fuse_in_header header;
		struct fuse_write_in in;
		char data[6];
	} write = {
		.header = {.opcode = FUSE_WRITE, .unique = 77, .nodeid = 2},
		.in = {.fh = 3, .offset = 512, .size = 6},
		.data = "abcde",
	};
	struct {
		struct fuse_in_header header;
		char name[4];
	} lookup = {.header = {.opcode = FUSE_LOOKUP, .nodeid = 1}, .name = "abc"};
	size_t write_bytes = offsetof(typeof(write), data) + sizeof(write.data);
	struct message message;

	memset(&request, 0, sizeof(request));
	assert_int_equal(message_open(&write, write_bytes, &message), 0);
	assert_int_equal(message.unique, 77);
	assert_int_equal(message_parse(&message, &request, &zero_bytes), 0);
	assert_int_equal(request.ino, 2);
	assert_int_equal(request.offset, 512);
	assert_ptr_equal(request.payload, write.data);
	/* What does not arrive is not read. */
	assert_int_equal(message_open(&write, write_bytes - 1, &message), 0);
	assert_int_equal(message_parse(&message, &request, &zero_bytes), -EINVAL);
	assert_int_equal(message_open(&write, sizeof(write.header) + 1, &message), 0);
	assert_int_equal(message.payload_bytes, 0);
	assert_int_equal(message_parse(&message, &request, &zero_bytes), -EINVAL);
	assert_int_equal(message_open(&write, sizeof(write.header) - 1, &message), -EINVAL);

	assert_int_equal(message_open(&lookup, sizeof(lookup.header) + 4, &message), 0);
	assert_int_equal(message_parse(&message, &request, &zero_bytes), 0);
	assert_string_equal(request.name, "abc");
	assert_int_equal(message_open(&lookup, sizeof(lookup.header) + 3, &message), 0);
	assert_int_equal(message_parse(&message, &request, &zero_bytes), -EINVAL);

	/* Nobody knows how long the structure of an unknown operation is. */
	lookup.header.opcode = FUSE_INIT;
	assert_int_equal(message_open(&lookup, sizeof(lookup.header) + 4, &message), 0);
	assert_int_equal(message.head_bytes, 4);
}

/* What a refused answer is followed by: here the refusal is that it is too long. */
static void test_refused_answer_becomes_an_error(void **state)
{
	static char data[1 << 20];
	const struct iovec iov[2] = {{data, 100}, {data, sizeof(data)}};
	struct {
		struct fuse_out_header header;
		char data[200];
	} got;
	int fds[2], bytes = 4096;

	assert_return_code(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds), errno);
	assert_return_code(setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes)), errno);
	assert_int_equal(message_answer(fds[0], 7, 0, iov, 1), 0);
	assert_int_equal(read(fds[1], &got, sizeof(got)), sizeof(got.header) + 100);
	assert_int_equal(got.header.len, sizeof(got.header) + 100);
	assert_int_equal(got.header.error, 0);

	assert_int_equal(message_answer(fds[0], 8, 0, iov, 2), -EMSGSIZE);
	assert_int_equal(recv(fds[1], &got, sizeof(got), MSG_DONTWAIT), sizeof(got.header));
	assert_int_equal(got.header.len, sizeof(got.header));
	assert_int_equal(got.header.error, -EIO);
	assert_int_equal(got.header.unique, 8);

	assert_int_equal(message_answer(fds[0], 9, -ENOENT, iov, 1), 0);
	assert_int_equal(read(fds[1], &got, sizeof(got)), sizeof(got.header));
	assert_int_equal(got.header.error, -ENOENT);
	close(fds[0]);
	close(fds[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_read),
		cmocka_unit_test(test_direct_io_by_any_handle),
		cmocka_unit_test(test_write_stays_inside_its_payload),
		cmocka_unit_test(test_names_end_inside_their_payload),
		cmocka_unit_test(test_attribute_names),
		cmocka_unit_test(test_setattr),
		cmocka_unit_test(test_ranges),
		cmocka_unit_test(test_answered_at_once),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_unknown),
		cmocka_unit_test(test_pieces_of_a_device_message),
		cmocka_unit_test(test_refused_answer_becomes_an_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
