/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * block-map IMAGE: prints what lies where on a disk, a line for each run of one kind: offset
 * and length in bytes, kind, and number of the file in the chain (0: the image itself).
 */
#include <err.h>
#include <qcow2fs.h>
#include <stdio.h>
#include <string.h>

static const char *const kinds[] = {
	[QF_EXTENT_HOLE] = "hole",
	[QF_EXTENT_ZERO] = "zero",
	[QF_EXTENT_DATA] = "data",
	[QF_EXTENT_COMPRESSED] = "compressed",
};

static void print(const struct qf_extent *run)
{
	if (run->len_bytes)
		printf("%llu %llu %s %u\n", (unsigned long long)run->guest_off,
		       (unsigned long long)run->len_bytes, kinds[run->kind], run->depth);
}

int main(int argc, char **argv)
{
	struct qf_info info = {.size = sizeof(info)};
	struct qf_extent run = {0}, next;
	struct qf_context *context;
	struct qf_image *image;
	char *message;
	int ret;

	if (argc != 2)
		errx(1, "usage: block-map IMAGE");
	ret = qf_context_create(NULL, &context);
	if (ret)
		errx(1, "cannot start: %s", strerror(-ret));
	if (qf_open(context, argv[1], NULL, &image, &message) < 0)
		errx(1, "%s: %s", argv[1], message);
	qf_get_info(image, &info);

	for (uint64_t off = 0; off < info.virtual_size; off += next.len_bytes) {
		ret = qf_map(image, off, info.virtual_size - off, &next);
		if (ret)
			errx(1, "%s: at %llu: %s", argv[1], (unsigned long long)off,
			     strerror(-ret));
		if (run.len_bytes && run.kind == next.kind && run.depth == next.depth) {
			run.len_bytes += next.len_bytes;
			continue;
		}
		print(&run);
		run = next;
	}
	print(&run);

	qf_close(image);
	qf_context_destroy(context);
	return 0;
}
