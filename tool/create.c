/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * create: an empty image, with what `qemu-img create` can choose.
 */
#include "tool/create_options.h"

#include "tool/engine.h"

#include <stdio.h>
#include <string.h>

int coroutine_fn create_command(struct tool *tool, int argc, char **argv)
{
	static const struct option long_options[] = {{0}};
	struct create_options options = CREATE_OPTIONS_DEFAULTS;
	char *lists[16];
	unsigned nb_lists = 0;
	int opt, status = STATUS_OK;

	while ((opt = getopt_long(argc, argv, "f:o:b:F:uq", long_options, NULL)) != -1) {
		if (opt == 'f' && !strcmp(optarg, "raw"))
			options.raw = true;
		else if (opt == 'f' && !strcmp(optarg, "qcow2"))
			options.raw = false;
		else if (opt == 'b')
			options.params.backing_name = optarg;
		else if (opt == 'F')
			options.params.backing_format = optarg;
		else if (opt == 'u')
			options.unsafe = true;
		else if (opt == 'q')
			tool->quiet = true;
		else if (opt == 'o' && nb_lists < 16)
			lists[nb_lists++] = optarg;
		else
			return tool_usage(tool, "wrong option");
	}
	for (unsigned i = 0; i < nb_lists && !status; i++)
		status = create_options_parse(tool, &options, lists[i]);
	if (status)
		return status;
	if (argc - optind < 1 || argc - optind > 2)
		return tool_usage(tool, "an image and its size are needed");
	if (argc - optind == 2) {
		options.has_size = true;
		if (tool_parse_size(argv[optind + 1], &options.params.virtual_size))
			return tool_usage(tool, "%s is no size", argv[optind + 1]);
	}
	if (options.raw && options.params.backing_name)
		return tool_usage(tool, "a raw image has no backing file");
	status = create_options_check_backing(tool, &options, argv[optind]);
	if (status)
		return status;
	if (!options.has_size)
		return tool_usage(tool, "a size is needed where there is no backing file");
	return create_options_run(tool, &options, argv[optind]);
}
