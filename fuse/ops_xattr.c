/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * ops_xattr: what a raw file says about the image behind it, as extended attributes
 * user.qcow2fs.*. They are not listed, so that nobody copies them along with the file.
 *
 * Runs on the reactor, which owns the image's counters.
 */
#include "fuse/ops_int.h"
#include "fuse/sandbox.h"
#include "io/text.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PREFIX "user.qcow2fs."
/* A value may grow between asking for its size and fetching it. */
#define GROWTH_BYTES 512u

static void print_image(const struct request *request, FILE *out)
{
	fputs(request->node->disk->host_path, out);
}

static void print_pid(const struct request *request, FILE *out)
{
	fprintf(out, "%ld", (long)getpid());
}

static void print_virtual_size(const struct request *request, FILE *out)
{
	fprintf(out, "%" PRIu64, request->node->disk->whole->size_bytes);
}

static void print_cluster_size(const struct request *request, FILE *out)
{
	fprintf(out, "%" PRIu32, request->node->disk->cluster_size);
}

static void print_writable(const struct request *request, FILE *out)
{
	fputc(request->node->writable ? '1' : '0', out);
}

/* One line for each file, the image itself first. */
static void print_chain(const struct request *request, FILE *out)
{
	const struct file *file;

	for (unsigned i = 0; (file = image_file(request->node->disk->base, i)); i++)
		fprintf(out, "%s%s", i ? "\n" : "", file->name);
}

static void print_file_stats(const struct file *file, FILE *out)
{
	static const char *const paths[] = {
		[FILE_DIRECT] = "direct",
		[FILE_BUFFERED] = "buffered",
		[FILE_MEMORY] = "memory",
	};
	const struct file_stats *stats = &file->stats;

	fputs("{\"name\": ", out);
	text_print_json(out, file->name);
	fprintf(out,
		", \"path\": \"%s\", \"block_size\": %" PRIu32 ", \"reads\": %" PRIu64
		", \"read_bytes\": %" PRIu64 ", \"writes\": %" PRIu64
		", \"written_bytes\": %" PRIu64 ", \"flushes\": %" PRIu64 ", \"bounced\": %" PRIu64
		", \"fallbacks\": %" PRIu64 ", \"errors\": %" PRIu64 "}",
		paths[file->path], file->align, stats->nb_reads + file->nb_reads_beside,
		stats->read_bytes + file->read_beside_bytes, stats->nb_writes, stats->written_bytes,
		stats->nb_flushes, stats->nb_bounced, stats->nb_fallbacks, stats->nb_errors);
}

static void print_image_stats(const struct image *image, FILE *out)
{
	struct image_stats stats;

	image_get_stats(image, &stats);
	fprintf(out,
		"\"reads\": %" PRIu64 ", \"reads_beside\": %" PRIu64 ", \"read_bytes\": %" PRIu64
		", \"writes\": %" PRIu64 ", \"written_bytes\": %" PRIu64 ", \"flushes\": %" PRIu64
		", \"discards\": %" PRIu64 ", \"l2_hits\": %" PRIu64 ", \"l2_misses\": %" PRIu64
		", \"refcount_hits\": %" PRIu64 ", \"refcount_misses\": %" PRIu64
		", \"inflated\": %" PRIu64 ", \"inflate_hits\": %" PRIu64
		", \"allocated_clusters\": %" PRIu64 ", \"freed_clusters\": %" PRIu64
		", \"metadata_bytes\": %" PRIu64 ", ",
		stats.nb_reads, stats.nb_reads_beside, stats.read_bytes, stats.nb_writes,
		stats.written_bytes, stats.nb_flushes, stats.nb_discards, stats.l2_hits,
		stats.l2_misses, stats.refcount_hits, stats.refcount_misses, stats.nb_inflated,
		stats.nb_inflate_hits, stats.nb_allocated_clusters, stats.nb_freed_clusters,
		stats.metadata_bytes);
}

/* The files of the chain, then the external data file. */
static const struct file *nth_file(const struct image *image, unsigned n)
{
	unsigned depth = image_info(image)->depth;

	if (n < depth)
		return image_file(image, n);
	return n == depth ? image_data_file(image, 0) : NULL;
}

/* What holds for all files, and each of them. */
static void print_files(const struct image *image, FILE *out)
{
	const struct file *file;
	uint64_t nb_fallbacks = 0;
	bool direct = true;

	for (unsigned i = 0; (file = nth_file(image, i)); i++) {
		direct = direct && file->path == FILE_DIRECT;
		nb_fallbacks += file->stats.nb_fallbacks;
	}
	fprintf(out,
		"\"direct\": %s, \"block_size\": %" PRIu32 ", \"fallbacks\": %" PRIu64
		", \"files\": [",
		direct ? "true" : "false", image_info(image)->block_size, nb_fallbacks);
	for (unsigned i = 0; (file = nth_file(image, i)); i++) {
		if (i)
			fputs(", ", out);
		print_file_stats(file, out);
	}
	fputs("]", out);
}

static void print_stats(const struct request *request, FILE *out)
{
	const struct node *node = request->node;
	const struct image *image = node_image(node) ? node_image(node) : node->disk->base;
	const struct reactor *reactor = request->ops->params.reactor;

	/* The queue is that of the mount, without this question. */
	fprintf(out, "{\"engine\": \"%s\", \"transport\": \"%s\", \"queue\": %u, ",
		reactor_engine(reactor)->ops->name, request->transport->name,
		request->ops->nb_active - 1);
	print_image_stats(image, out);
	print_files(image, out);
	fputs(", \"sandbox\": ", out);
	sandbox_print_json(out);
	fputs(", \"requests\": ", out);
	stats_print_json(node->stats, out);
	fputc('}', out);
}

static const struct {
	const char *name;
	void (*print)(const struct request *request, FILE *out);
} attributes[] = {
	{PREFIX "image", print_image},
	{PREFIX "pid", print_pid},
	{PREFIX "virtual_size", print_virtual_size},
	{PREFIX "cluster_size", print_cluster_size},
	{PREFIX "writable", print_writable},
	{PREFIX "chain", print_chain},
	{PREFIX "stats", print_stats},
};

static void reply_value(struct request *request, const char *value, size_t len_bytes)
{
	struct fuse_getxattr_out out = {.size = (uint32_t)len_bytes + GROWTH_BYTES};

	if (request->len_bytes == 0)
		request_reply_buf(request, &out, sizeof(out));
	else if (request->len_bytes < len_bytes)
		request_reply_error(request, -ERANGE);
	else
		request_reply_buf(request, value, len_bytes);
}

static void coroutine_fn run_getxattr(void *arg)
{
	struct request *request = arg;
	char *value = NULL;
	size_t len_bytes;
	FILE *out;

	for (unsigned i = 0; i < sizeof(attributes) / sizeof(attributes[0]); i++) {
		if (strcmp(request->name, attributes[i].name))
			continue;
		out = open_memstream(&value, &len_bytes);
		if (out)
			attributes[i].print(request, out);
		if (!out || fclose(out) != 0)
			request_reply_error(request, -ENOMEM);
		else
			reply_value(request, value, len_bytes);
		free(value);
		return;
	}
	request_reply_error(request, -ENODATA);
}

void handle_getxattr(struct request *request)
{
	/* Whose server it is a folder tells, too. */
	if (request->node->is_dir ? strcmp(request->name, PREFIX "pid")
				  : strncmp(request->name, PREFIX, strlen(PREFIX)))
		request_reply_error(request, -ENODATA);
	else
		request_run(request, run_getxattr);
}

void handle_listxattr(struct request *request)
{
	struct fuse_getxattr_out out = {.size = 0};

	if (request->len_bytes == 0)
		request_reply_buf(request, &out, sizeof(out));
	else
		request_reply_error(request, 0);
}
