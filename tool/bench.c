#include "tool/tool.h"
int coroutine_fn bench_command(struct tool *tool, int argc, char **argv)
{
	return 2;
}
