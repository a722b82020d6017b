#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# run_gdb: io/co-gdb.py finds parked coroutines and their callers, in a living
# process and in a core dump, with the assembly switch and with ucontext.
#
# Exits with 0 (passed), 77 (no gdb with Python) or 1.
set -u
src=${QF_SRC:-$(cd "$(dirname "$0")/../.." && pwd)}
cc=${CC:-cc}
gdb -nx -batch -ex 'python import gdb.unwinder' >/dev/null 2>&1 || { echo "no gdb with Python"; exit 77; }

build=$(mktemp -d "${QF_TMP:-${TMPDIR:-/tmp}}/gdb.XXXXXX") || exit 1
trap 'rm -rf "$build"' EXIT

cat >"$build/parked.c" <<'END'
#include "io/co.h"
#include "io/reactor.h"
#include <stdlib.h>

void reactor_wake(struct co *co) {}

__attribute__((noinline)) static void wait_in_the_cellar(int depth)
{
	if (depth > 0)
		wait_in_the_cellar(depth - 1);
	else
		co_yield();
	__asm__ volatile("");
}
static void goes_down(void *arg) { wait_in_the_cellar(2); }
static void not_started(void *arg) {}
static void ends_here(void *arg) { wait_in_the_cellar(0); }
__attribute__((noinline)) static void stop_here(void) { __asm__ volatile(""); }
static void stops(void *arg) { stop_here(); }

int main(void)
{
	struct co_pool *pool;
	if (co_pool_create(NULL, 4, 65536, &pool) < 0)
		return 1;
	co_resume(co_create(pool, goes_down, NULL));
	co_resume(co_create(pool, ends_here, NULL));
	co_create(pool, not_started, NULL);
	co_resume(co_create(pool, stops, NULL));
	return 0;
}
END

failed=0
# expect FILE NUMBER PATTERN: the pattern stands on that many lines.
expect() {
	nb=$(grep -c -e "$3" "$1")
	[ "$nb" -eq "$2" ] && return
	echo "FAILED: $nb instead of $2 lines with '$3'"
	failed=1
}

look() {
	expect "$1" 1 '^4 coroutines alive'
	expect "$1" 1 '^coroutine .*<goes_down>.*parked'
	expect "$1" 1 '^coroutine .*<ends_here>.*parked'
	expect "$1" 1 '^coroutine .*<not_started>.*, not started'
	expect "$1" 1 '^coroutine .*<stops>.*running'
	expect "$1" 4 '^    #[0-9].* wait_in_the_cellar '
	expect "$1" 1 '^    #[0-9].* goes_down '
	expect "$1" 1 '^    #[0-9].* ends_here '
	expect "$1" 0 'corrupt stack'
	# The selected frame and the thread's own backtrace are as before.
	expect "$1" 1 '^#0 .*stop_here '
	[ $failed -eq 0 ] || cat "$1"
}

for flags in "" -DCO_UCONTEXT; do
	# shellcheck disable=SC2086 # no flag at all is no argument
	"$cc" -I"$src" -D_GNU_SOURCE -O2 -g -pthread \
		-fno-optimize-sibling-calls $flags -o "$build/parked" "$build/parked.c" \
		"$src/io/co.c" "$src"/io/co_switch_*.S || exit 1
	echo "living process ${flags:-assembly}"
	gdb -nx -batch -ex 'set debuginfod enabled off' -x "$src/io/co-gdb.py" -ex 'break stop_here' \
		-ex run -ex coroutines -ex 'echo \n' -ex bt -ex "generate-core-file $build/core" \
		"$build/parked" 2>&1 | sed '1,/^Breakpoint 1, /d' >"$build/living"
	look "$build/living"
	echo "core dump ${flags:-assembly}"
	gdb -nx -batch -ex 'set debuginfod enabled off' -x "$src/io/co-gdb.py" -ex coroutines \
		-ex 'echo \n' -ex bt "$build/parked" "$build/core" 2>&1 |
		sed '1,/^#0 /d' >"$build/dumped"
	look "$build/dumped"
done
exit $failed
