#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# run_aarch64: cross-compiles the coroutines and what stands directly on them,
# and runs their unit tests under qemu-user: with the assembly switch, once more
# with branch protection (BTI, pointer authentication), and with ucontext.
#
# Exits with 0 (passed), 77 (the cross compiler or qemu-user is missing) or 1.
# test: timeout=600
set -u
src=${QF_SRC:-$(cd "$(dirname "$0")/../.." && pwd)}
cc=${CROSS_CC:-aarch64-linux-gnu-gcc}
emulator=
for candidate in qemu-aarch64 qemu-aarch64-static; do
	[ -z "$emulator" ] && command -v $candidate >/dev/null && emulator=$candidate
done
command -v "$cc" >/dev/null || { echo "no $cc"; exit 77; }
[ -n "$emulator" ] || { echo "no qemu-aarch64"; exit 77; }

build=$(mktemp -d "${QF_TMP:-${TMPDIR:-/tmp}}/aarch64.XXXXXX") || exit 1
trap 'rm -rf "$build"' EXIT
trap 'exit 1' INT TERM

io="error text co co_sync thread reactor worker buf"
tests="co co_sync reactor worker buf error text"
failed=0

# run NAME FLAGS...: builds everything with the flags and runs each test.
run() {
	name=$1
	shift
	mkdir "$build/$name" || return 1
	objects=
	for file in $io; do
		"$cc" -I"$src" -D_GNU_SOURCE -std=gnu11 -Wall -Wextra -Werror -Wno-unused-parameter \
			-Wno-missing-field-initializers -fno-strict-aliasing -O2 -g -pthread "$@" \
			-c -o "$build/$name/$file.o" "$src/io/$file.c" || return 1
		objects="$objects $build/$name/$file.o"
	done
	for file in "$src"/io/co_switch_*.S; do
		object=$build/$name/$(basename "$file" .S).o
		"$cc" "$@" -c -o "$object" "$file" || return 1
		objects="$objects $object"
	done
	for test in $tests; do
		# shellcheck disable=SC2086 # a list of objects
		"$cc" -static -I"$src/test/unit/cross" -I"$src" -D_GNU_SOURCE -std=gnu11 -O2 -g \
			-pthread "$@" -o "$build/$name/test_$test" "$src/test/unit/test_$test.c" \
			$objects || return 1
		echo "aarch64 $name: test_$test"
		timeout 120 $emulator "$build/$name/test_$test" || { echo "FAILED: $name test_$test"; failed=1; }
	done
}

run assembly || failed=1
run protected -mbranch-protection=standard || failed=1
run ucontext -DCO_UCONTEXT || failed=1
exit $failed
