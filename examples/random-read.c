/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * random-read IMAGE [COUNT [DEPTH]]: reads 4 KiB at random places of a disk, DEPTH requests
 * at a time, and prints how many per second. One thread, one queue; each completed request is
 * given a new place and submitted again.
 */
#include <err.h>
#include <qcow2fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BLOCK_BYTES 4096u
#define DEPTH_MAX 256u

static double now_sec(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

static void submit_at_random(struct qf_request *request, uint64_t nb_blocks)
{
	request->guest_off = (uint64_t)(drand48() * nb_blocks) * BLOCK_BYTES;
	if (qf_submit(request) < 0)
		errx(1, "the request is not a legal one");
}

int main(int argc, char **argv)
{
	static struct qf_request requests[DEPTH_MAX];
	struct qf_info info = {.size = sizeof(info)};
	unsigned long count = argc > 2 ? strtoul(argv[2], NULL, 0) : 100000;
	unsigned long depth = argc > 3 ? strtoul(argv[3], NULL, 0) : 32;
	unsigned long nb_submitted, nb_done = 0;
	struct qf_context *context;
	struct qf_image *image;
	struct qf_queue *queue;
	char *message;
	double begin;
	int ret;

	if (argc < 2 || argc > 4 || !depth || depth > DEPTH_MAX || count < depth)
		errx(1, "usage: random-read IMAGE [COUNT [DEPTH]], DEPTH at most %u and COUNT",
		     DEPTH_MAX);
	ret = qf_context_create(NULL, &context);
	if (!ret)
		ret = qf_queue_create(&queue);
	if (ret)
		errx(1, "cannot start: %s", strerror(-ret));
	if (qf_open(context, argv[1], NULL, &image, &message) < 0)
		errx(1, "%s: %s", argv[1], message);
	qf_get_info(image, &info);
	if (info.virtual_size < BLOCK_BYTES)
		errx(1, "%s: the disk is smaller than one block", argv[1]);

	begin = now_sec();
	for (nb_submitted = 0; nb_submitted < depth; nb_submitted++) {
		struct qf_request *request = &requests[nb_submitted];

		request->image = image;
		request->op = QF_OP_READ;
		request->len_bytes = BLOCK_BYTES;
		request->read_buf = aligned_alloc(4096, BLOCK_BYTES);
		request->queue = queue;
		if (!request->read_buf)
			err(1, "no memory");
		submit_at_random(request, info.virtual_size / BLOCK_BYTES);
	}
	while (nb_done < count) {
		struct qf_request *done[DEPTH_MAX];
		int nb = qf_reap(queue, done, DEPTH_MAX, -1);

		for (int i = 0; i < nb; i++, nb_done++) {
			if (done[i]->result)
				errx(1, "%s: at %llu: %s", argv[1],
				     (unsigned long long)done[i]->guest_off,
				     strerror(-done[i]->result));
			if (nb_submitted++ < count)
				submit_at_random(done[i], info.virtual_size / BLOCK_BYTES);
		}
	}
	printf("%lu reads, %.0f per second (%s)\n", nb_done, nb_done / (now_sec() - begin),
	       qf_context_engine(context));

	qf_close(image);
	qf_queue_destroy(queue);
	qf_context_destroy(context);
	for (unsigned long i = 0; i < depth; i++)
		free(requests[i].read_buf);
	return 0;
}
