#include "tool/tool.h"
int coroutine_fn commit_command(struct tool *tool, int argc, char **argv)
{
	return 2;
}
