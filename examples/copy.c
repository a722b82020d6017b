/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * copy IMAGE RAW: writes the disk of an image into a raw file, with eight reads under way while
 * the main thread writes what has arrived. Holes and zeros are not read and become holes.
 */
#include <err.h>
#include <fcntl.h>
#include <qcow2fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NB_SLOTS 8u
#define SLOT_BYTES (1u << 20)

struct copy {
	const char *path;
	struct qf_image *image;
	uint64_t size, walked, data_end; /* what lies between the last two is data */
};

/* Where the next piece with data begins, and its length: 0 at the end of the disk. */
static uint64_t next_piece(struct copy *copy, uint64_t *ret_off)
{
	while (copy->walked == copy->data_end && copy->walked < copy->size) {
		struct qf_extent extent;
		int ret = qf_map(copy->image, copy->walked, copy->size - copy->walked, &extent);

		if (ret)
			errx(1, "%s: %s", copy->path, strerror(-ret));
		copy->data_end += extent.len_bytes;
		if (extent.kind == QF_EXTENT_HOLE || extent.kind == QF_EXTENT_ZERO)
			copy->walked = copy->data_end;
	}
	*ret_off = copy->walked;
	copy->walked += SLOT_BYTES;
	if (copy->walked > copy->data_end)
		copy->walked = copy->data_end;
	return copy->walked - *ret_off;
}

/* Returns whether there was anything left to read. */
static int submit_next(struct copy *copy, struct qf_request *request)
{
	request->len_bytes = next_piece(copy, &request->guest_off);
	if (!request->len_bytes)
		return 0;
	if (qf_submit(request) < 0)
		errx(1, "the request is not a legal one");
	return 1;
}

static void write_all(int fd, const char *buf, uint64_t len_bytes, uint64_t off)
{
	while (len_bytes) {
		ssize_t n = pwrite(fd, buf, len_bytes, off);

		if (n < 0)
			err(1, "writing");
		buf += n;
		off += n;
		len_bytes -= n;
	}
}

int main(int argc, char **argv)
{
	struct qf_info info = {.size = sizeof(info)};
	struct qf_request requests[NB_SLOTS] = {0}, *done;
	struct qf_context *context;
	struct qf_queue *queue;
	struct copy copy;
	unsigned nb_under_way = 0;
	char *message;
	int fd, ret;

	if (argc != 3)
		errx(1, "usage: copy IMAGE RAW");
	ret = qf_context_create(NULL, &context);
	if (!ret)
		ret = qf_queue_create(&queue);
	if (ret)
		errx(1, "cannot start: %s", strerror(-ret));
	copy = (struct copy){.path = argv[1]};
	if (qf_open(context, copy.path, NULL, &copy.image, &message) < 0)
		errx(1, "%s: %s", copy.path, message);
	qf_get_info(copy.image, &info);
	copy.size = info.virtual_size;
	fd = open(argv[2], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (fd < 0 || ftruncate(fd, copy.size) < 0)
		err(1, "%s", argv[2]);

	for (unsigned i = 0; i < NB_SLOTS; i++) {
		requests[i] = (struct qf_request){
			.image = copy.image,
			.op = QF_OP_READ,
			.read_buf = aligned_alloc(4096, SLOT_BYTES),
			.queue = queue,
		};
		if (!requests[i].read_buf)
			err(1, "no memory");
		nb_under_way += submit_next(&copy, &requests[i]);
	}
	while (nb_under_way) {
		qf_reap(queue, &done, 1, -1);
		if (done->result)
			errx(1, "%s: at %llu: %s", copy.path, (unsigned long long)done->guest_off,
			     strerror(-done->result));
		write_all(fd, done->read_buf, done->len_bytes, done->guest_off);
		nb_under_way -= !submit_next(&copy, done);
	}

	if (close(fd) < 0)
		err(1, "%s", argv[2]);
	qf_close(copy.image);
	qf_queue_destroy(queue);
	qf_context_destroy(context);
	for (unsigned i = 0; i < NB_SLOTS; i++)
		free(requests[i].read_buf);
	return 0;
}
