/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * create_options: see create_options.h. The words are those of qemu-img.
 */
#include "tool/create_options.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

typedef int word_fn(struct create_options *options, char *value);

/* Each returns 0, or -EINVAL for a value that makes no sense. */

static int word_size(struct create_options *options, char *value)
{
	options->has_size = true;
	return tool_parse_size(value, &options->params.virtual_size);
}

static int log2_of(uint64_t value, unsigned *ret_log2)
{
	if (!value || value & (value - 1))
		return -EINVAL;
	*ret_log2 = __builtin_ctzll(value);
	return 0;
}

static int word_cluster_size(struct create_options *options, char *value)
{
	uint64_t bytes;
	int ret = tool_parse_size(value, &bytes);

	return ret ? ret : log2_of(bytes, &options->params.cluster_bits);
}

static int word_refcount_bits(struct create_options *options, char *value)
{
	char *end;
	uint64_t bits = strtoull(value, &end, 10);

	return *end || end == value ? -EINVAL : log2_of(bits, &options->params.refcount_order);
}

static int word_compat(struct create_options *options, char *value)
{
	if (!strcmp(value, "0.10") || !strcmp(value, "v2"))
		options->params.version = 2;
	else if (!strcmp(value, "1.1") || !strcmp(value, "v3"))
		options->params.version = 3;
	else
		return -EINVAL;
	return 0;
}

static int word_preallocation(struct create_options *options, char *value)
{
	static const char *const names[] = {
		[PREALLOC_OFF] = "off",
		[PREALLOC_METADATA] = "metadata",
		[PREALLOC_FALLOC] = "falloc",
		[PREALLOC_FULL] = "full",
	};

	for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (!strcmp(value, names[i])) {
			options->params.preallocation = i;
			return 0;
		}
	return -EINVAL;
}

static int word_compression(struct create_options *options, char *value)
{
	options->params.zstd = !strcmp(value, "zstd");
	return options->params.zstd || !strcmp(value, "zlib") ? 0 : -EINVAL;
}

static int word_extended_l2(struct create_options *options, char *value)
{
	return tool_parse_bool(value, &options->params.extended_l2);
}

static int word_lazy(struct create_options *options, char *value)
{
	return tool_parse_bool(value, &options->params.lazy_refcounts);
}

static int word_backing(struct create_options *options, char *value)
{
	options->params.backing_name = value;
	return 0;
}

static int word_backing_format(struct create_options *options, char *value)
{
	options->params.backing_format = value;
	return strcmp(value, "raw") && strcmp(value, "qcow2") ? -EINVAL : 0;
}

static int word_data_file(struct create_options *options, char *value)
{
	options->params.data_name = value;
	return 0;
}

static int word_data_raw(struct create_options *options, char *value)
{
	return tool_parse_bool(value, &options->params.data_raw);
}

static const struct {
	const char *name;
	word_fn *take;
	bool raw_too;
} words[] = {
	{"size", word_size, true},
	{"preallocation", word_preallocation, true},
	{"cluster_size", word_cluster_size, false},
	{"refcount_bits", word_refcount_bits, false},
	{"compat", word_compat, false},
	{"extended_l2", word_extended_l2, false},
	{"lazy_refcounts", word_lazy, false},
	{"compression_type", word_compression, false},
	{"backing_file", word_backing, false},
	{"backing_fmt", word_backing_format, false},
	{"data_file", word_data_file, false},
	{"data_file_raw", word_data_raw, false},
};

static int take_word(struct tool *tool, struct create_options *options, const char *name,
		     char *value)
{
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		if (strcmp(words[i].name, name) || !value)
			continue;
		if (options->raw && !words[i].raw_too)
			return tool_usage(tool, "-o %s: not for raw images", name);
		if (words[i].take(options, value))
			return tool_usage(tool, "-o %s=%s: the value is not possible", name, value);
		return STATUS_OK;
	}
	return tool_usage(tool, "-o %s: unknown, or without a value", name);
}

int create_options_parse(struct tool *tool, struct create_options *options, char *list)
{
	char *name, *value;
	int status = STATUS_OK;

	while (status == STATUS_OK && tool_next_word(&list, &name, &value))
		status = take_word(tool, options, name, value);
	return status;
}

/* Where -o data_file= leads, to be freed. NULL: nowhere, or no memory. */
static char *data_path_of(const struct create_options *options, const char *path)
{
	const char *name = options->params.data_name;

	return name ? disk_combine_path(path, name) : NULL;
}

int create_options_check_disk(const struct create_options *options, const char *path,
			      const struct disk *disk, const char *what)
{
	char *data_path = data_path_of(options, path);
	const char *own = disk_has_file(disk, path)                     ? path
			  : data_path && disk_has_file(disk, data_path) ? data_path
									: NULL;

	if (own)
		tool_say(own, "it belongs to the %s and would be overwritten", what);
	free(data_path);
	return own ? STATUS_USAGE : STATUS_OK;
}

static int coroutine_fn look_at_backing(struct tool *tool, struct create_options *options,
					const char *path, const char *backing)
{
	struct image_options how = {.force_share = true};
	struct disk disk;
	int status = disk_open(tool, backing, options->params.backing_format, &how, &disk), ret;

	if (status)
		return status;
	if (!options->has_size)
		options->params.virtual_size = disk.size_bytes;
	options->has_size = true;
	status = create_options_check_disk(options, path, &disk, "backing file");
	ret = disk_close(&disk);
	return status ? status : ret;
}

int coroutine_fn create_options_check_backing(struct tool *tool, struct create_options *options,
					      const char *path)
{
	const struct create_params *params = &options->params;
	char *backing;
	int status;

	if (!params->backing_name)
		return STATUS_OK;
	backing = disk_combine_path(path, params->backing_name);
	if (!backing)
		return tool_fail(path, ENOMEM, NULL);
	if (disk_same_file(path, backing)) {
		tool_say(path, "it would be its own backing file");
		status = STATUS_USAGE;
	} else if (options->unsafe && options->has_size) {
		status = STATUS_OK;
	} else if (!params->backing_format) {
		status =
			tool_usage(tool, "the backing file's format is needed: -F raw or -F qcow2");
	} else {
		status = look_at_backing(tool, options, path, backing);
	}
	free(backing);
	return status;
}

static int coroutine_fn create_raw(const struct create_options *options, struct file *file)
{
	uint64_t size_bytes = options->params.virtual_size;
	int ret = 0;

	if (!file->is_block_device)
		ret = file_truncate(file, 0);
	if (!ret && !file->is_block_device)
		ret = file_truncate(file, size_bytes);
	if (ret || !size_bytes)
		return ret;
	switch (options->params.preallocation) {
	case PREALLOC_FULL:
		return file_zero(file, 0, size_bytes, IO_TAG_DATA);
	case PREALLOC_FALLOC:
		return file_allocate(file, 0, size_bytes);
	default:
		return 0;
	}
}

static int coroutine_fn create_qcow2(struct tool *tool, const struct create_options *options,
				     const char *path, struct file *file)
{
	const struct create_params *params = &options->params;
	struct file *data_file = NULL;
	struct error *error = NULL;
	char *data_path = NULL;
	bool new_data = false;
	int ret, status = STATUS_OK;

	if (params->data_name) {
		data_path = data_path_of(options, path);
		if (!data_path)
			return tool_fail(path, ENOMEM, NULL);
		if (disk_same_file(path, data_path)) {
			tool_say(path, "it would be its own data file");
			status = STATUS_USAGE;
		} else {
			status = disk_create_file(tool, data_path, &data_file, &new_data);
		}
	}
	if (!status) {
		ret = create_format(file, data_file, params, &error);
		if (ret) {
			status = tool_fail(path, ret, error);
			disk_remove_new(data_path, new_data);
		}
		file_close(data_file);
	}
	free(data_path);
	return status;
}

int coroutine_fn create_options_run(struct tool *tool, const struct create_options *options,
				    const char *path)
{
	struct error *error = NULL;
	struct file *file;
	bool is_new;
	int status, ret;

	/* Nothing is touched when the options contradict one another. */
	ret = options->raw ? 0 : create_check_params(&options->params, &error);
	if (ret) {
		tool_fail(path, ret, error);
		return STATUS_USAGE;
	}
	status = disk_create_file(tool, path, &file, &is_new);
	if (status)
		return status;
	if (options->raw && file->is_block_device &&
	    file->size_bytes < options->params.virtual_size) {
		tool_say(path, "the device is smaller than that: %" PRIu64 " bytes",
			 file->size_bytes);
		status = STATUS_SYSTEM;
	} else if (options->raw) {
		ret = create_raw(options, file);
		if (ret == -EPERM)
			tool_say(path,
				 "its length may not change; 'qcow2tool convert -n' writes into "
				 "it as it is");
		if (ret)
			status = ret == -EPERM ? STATUS_SYSTEM : tool_fail(path, ret, NULL);
	} else {
		status = create_qcow2(tool, options, path, file);
	}
	if (status)
		disk_remove_new(path, is_new);
	file_close(file);
	return status;
}
