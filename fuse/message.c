/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * message: see message.h. One table says for each operation how long its structure is
 * and what becomes of it; nothing is read before that length has been compared.
 */
#include "fuse/message.h"

#include "fuse/log.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/fuse.h>
#include <string.h>
#include <sys/uio.h>

/* What the kernel says about times and owners that SETATTR shall change. */
#define SETATTR_VALID                                                                  \
	(FATTR_MODE | FATTR_UID | FATTR_GID | FATTR_SIZE | FATTR_ATIME | FATTR_MTIME | \
	 FATTR_ATIME_NOW | FATTR_MTIME_NOW | FATTR_CTIME)

/* The payload's name; too_long: what to answer when it cannot be one of ours. */
static int take_name(const struct message *message, struct request *request, int too_long)
{
	const char *name = message->payload;
	size_t len = message->payload_bytes ? strnlen(name, message->payload_bytes) : 0;

	if (len == message->payload_bytes)
		return -EINVAL;
	if (len > REQUEST_NAME_MAX)
		return too_long;
	memcpy(request->name, name, len + 1);
	return 0;
}

static int parse_lookup(const struct message *message, struct request *request)
{
	return take_name(message, request, -ENAMETOOLONG);
}

static int parse_setattr(const struct message *message, struct request *request)
{
	const struct fuse_setattr_in *in = message->head;

	request->setattr_valid = in->valid & SETATTR_VALID;
	request->setattr_by_handle = in->valid & FATTR_FH;
	request->fh = in->valid & FATTR_FH ? in->fh : 0;
	request->attr = (struct stat){
		.st_mode = in->mode,
		.st_uid = in->uid,
		.st_gid = in->gid,
		.st_size = (off_t)in->size,
		.st_atim = {.tv_sec = (time_t)in->atime, .tv_nsec = in->atimensec},
		.st_mtim = {.tv_sec = (time_t)in->mtime, .tv_nsec = in->mtimensec},
		.st_ctim = {.tv_sec = (time_t)in->ctime, .tv_nsec = in->ctimensec},
	};
	return 0;
}

static int parse_open(const struct message *message, struct request *request)
{
	request->flags = ((const struct fuse_open_in *)message->head)->flags;
	return 0;
}

static int parse_read(const struct message *message, struct request *request)
{
	const struct fuse_read_in *in = message->head;

	request->fh = in->fh;
	request->offset = in->offset;
	request->len_bytes = in->size;
	request->flags = in->flags;
	request->past_cache = in->read_flags & FUSE_READ_LOCKOWNER;
	return 0;
}

static int parse_write(const struct message *message, struct request *request)
{
	const struct fuse_write_in *in = message->head;

	if (in->size > message->payload_bytes)
		return -EINVAL;
	request->fh = in->fh;
	request->offset = in->offset;
	request->len_bytes = in->size;
	request->flags = in->flags;
	request->payload = message->payload;
	request->from_cache = in->write_flags & FUSE_WRITE_CACHE;
	request->past_cache = in->write_flags & FUSE_WRITE_LOCKOWNER;
	return 0;
}

static int parse_flush(const struct message *message, struct request *request)
{
	request->fh = ((const struct fuse_flush_in *)message->head)->fh;
	return 0;
}

static int parse_release(const struct message *message, struct request *request)
{
	const struct fuse_release_in *in = message->head;

	request->fh = in->fh;
	request->flags = in->flags;
	return 0;
}

static int parse_fsync(const struct message *message, struct request *request)
{
	request->fh = ((const struct fuse_fsync_in *)message->head)->fh;
	return 0;
}

static int parse_getxattr(const struct message *message, struct request *request)
{
	request->len_bytes = ((const struct fuse_getxattr_in *)message->head)->size;
	return take_name(message, request, -ENODATA);
}

static int parse_listxattr(const struct message *message, struct request *request)
{
	request->len_bytes = ((const struct fuse_getxattr_in *)message->head)->size;
	return 0;
}

static int parse_fallocate(const struct message *message, struct request *request)
{
	const struct fuse_fallocate_in *in = message->head;

	request->fh = in->fh;
	request->offset = in->offset;
	request->len_bytes = in->length;
	request->flags = in->mode;
	return 0;
}

static int parse_lseek(const struct message *message, struct request *request)
{
	const struct fuse_lseek_in *in = message->head;

	request->fh = in->fh;
	request->offset = in->offset;
	request->flags = in->whence;
	return 0;
}

static int parse_copy_file_range(const struct message *message, struct request *request)
{
	const struct fuse_copy_file_range_in *in = message->head;

	request->fh = in->fh_in;
	request->offset = in->off_in;
	request->ino_out = in->nodeid_out;
	request->offset_out = in->off_out;
	request->len_bytes = in->len;
	return 0;
}

struct operation {
	const char *name;
	int error;     /* what every such request is refused with, or 0 */
	bool answered; /* at once, with zero_bytes of zeros */
	size_t zero_bytes;
	enum request_op op;
	size_t head_bytes;
	int (*parse)(const struct message *message, struct request *request); /* NULL: all done */
};

#define OPERATION(word, head, function) \
	[FUSE_##word] = {               \
		.name = #word, .op = REQUEST_##word, .head_bytes = (head), .parse = (function)}
#define ANSWERED(word, bytes) \
	[FUSE_##word] = {.name = #word, .answered = true, .zero_bytes = (bytes)}
#define REFUSED(word, number) [FUSE_##word] = {.name = #word, .error = (number)}

static const struct operation operations[] = {
	OPERATION(LOOKUP, 0, parse_lookup),
	OPERATION(GETATTR, 0, NULL),
	OPERATION(SETATTR, sizeof(struct fuse_setattr_in), parse_setattr),
	OPERATION(OPEN, sizeof(struct fuse_open_in), parse_open),
	OPERATION(READ, sizeof(struct fuse_read_in), parse_read),
	OPERATION(WRITE, sizeof(struct fuse_write_in), parse_write),
	OPERATION(FLUSH, sizeof(struct fuse_flush_in), parse_flush),
	OPERATION(RELEASE, sizeof(struct fuse_release_in), parse_release),
	OPERATION(FSYNC, sizeof(struct fuse_fsync_in), parse_fsync),
	OPERATION(FSYNCDIR, sizeof(struct fuse_fsync_in), parse_fsync),
	OPERATION(READDIR, sizeof(struct fuse_read_in), parse_read),
	OPERATION(READDIRPLUS, sizeof(struct fuse_read_in), parse_read),
	OPERATION(STATFS, 0, NULL),
	OPERATION(GETXATTR, sizeof(struct fuse_getxattr_in), parse_getxattr),
	OPERATION(LISTXATTR, sizeof(struct fuse_getxattr_in), parse_listxattr),
	OPERATION(FALLOCATE, sizeof(struct fuse_fallocate_in), parse_fallocate),
	OPERATION(LSEEK, sizeof(struct fuse_lseek_in), parse_lseek),
	OPERATION(COPY_FILE_RANGE, sizeof(struct fuse_copy_file_range_in), parse_copy_file_range),
	/* Directories never change: nothing is kept for an open one. */
	ANSWERED(OPENDIR, sizeof(struct fuse_open_out)),
	ANSWERED(RELEASEDIR, 0),
	ANSWERED(DESTROY, 0),
	/* Nor can anybody change them: not a call that is missing, but one that is not permitted.
	 */
	REFUSED(CREATE, EPERM),
	REFUSED(MKNOD, EPERM),
	REFUSED(MKDIR, EPERM),
	REFUSED(SYMLINK, EPERM),
	REFUSED(LINK, EPERM),
	REFUSED(UNLINK, EPERM),
	REFUSED(RMDIR, EPERM),
	REFUSED(RENAME, EPERM),
	REFUSED(RENAME2, EPERM),
};

static_assert(sizeof(struct fuse_open_out) <= MESSAGE_ZERO_BYTES_MAX, "fits");

/* NULL: none that is served. */
static const struct operation *operation_of(uint32_t opcode)
{
	if (opcode >= sizeof(operations) / sizeof(operations[0]) || !operations[opcode].name)
		return NULL;
	return &operations[opcode];
}

int message_open(const void *bytes, size_t len_bytes, struct message *ret_message)
{
	const struct fuse_in_header *header = bytes;
	const struct operation *operation;
	size_t rest = len_bytes - sizeof(*header), head_bytes;

	if (len_bytes < sizeof(*header))
		return -EINVAL;
	operation = operation_of(header->opcode);
	head_bytes = operation ? operation->head_bytes : rest;
	if (head_bytes > rest)
		head_bytes = rest;
	*ret_message = (struct message){
		.unique = header->unique,
		.opcode = header->opcode,
		.node_id = header->nodeid,
		.uid = header->uid,
		.head = header + 1,
		.head_bytes = head_bytes,
		.payload = (const char *)(header + 1) + head_bytes,
		.payload_bytes = rest - head_bytes,
	};
	return 0;
}

bool message_is_kept_out(const struct message *message, uid_t owner)
{
	switch (message->opcode) {
	case FUSE_READ:
	case FUSE_WRITE:
	case FUSE_FSYNC:
	case FUSE_FLUSH:
	case FUSE_FALLOCATE:
	case FUSE_LSEEK:
	case FUSE_COPY_FILE_RANGE:
	case FUSE_RELEASE:
	case FUSE_READDIR:
	case FUSE_READDIRPLUS:
	case FUSE_RELEASEDIR:
	case FUSE_FSYNCDIR:
		return false;
	default:
		/* What nobody gets the kernel shall hear, and ask for in another way. */
		return message->uid != 0 && message->uid != owner && operation_of(message->opcode);
	}
}

void message_print(const struct message *message, const char *origin)
{
	const struct operation *operation = operation_of(message->opcode);

	log_debug("unique: %" PRIu64 ", opcode: %s (%" PRIu32 "), nodeid: %" PRIu64 ", %s",
		  message->unique, operation ? operation->name : "?", message->opcode,
		  message->node_id, origin);
}

int message_parse(const struct message *message, struct request *request, size_t *ret_zero_bytes)
{
	const struct operation *operation = operation_of(message->opcode);

	if (!operation)
		return -ENOSYS;
	if (operation->error)
		return -operation->error;
	if (operation->answered) {
		*ret_zero_bytes = operation->zero_bytes;
		return 1;
	}
	if (message->head_bytes < operation->head_bytes)
		return -EINVAL;
	request->op = operation->op;
	request->ino = message->node_id;
	return operation->parse ? operation->parse(message, request) : 0;
}

static int write_answer(int fd, struct iovec *all, int nb)
{
	struct fuse_out_header *out = all[0].iov_base;

	out->len = 0;
	for (int i = 0; i < nb; i++)
		out->len += (uint32_t)all[i].iov_len;
	return writev(fd, all, nb) < 0 ? -errno : 0;
}

int message_answer(int fd, uint64_t unique, int error, const struct iovec *iov, int nb_iov)
{
	struct fuse_out_header out = {.error = error, .unique = unique};
	struct iovec all[1 + REQUEST_IOV_MAX];
	int res;

	assert(nb_iov <= REQUEST_IOV_MAX);
	all[0] = (struct iovec){.iov_base = &out, .iov_len = sizeof(out)};
	if (error)
		nb_iov = 0;
	for (int i = 0; i < nb_iov; i++)
		all[i + 1] = iov[i];
	res = write_answer(fd, all, 1 + nb_iov);
	if (res == 0 || res == -ENOENT || res == -ENODEV)
		return res;
	out.error = -EIO;
	write_answer(fd, all, 1);
	return res;
}
