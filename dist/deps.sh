#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# deps.sh build|demo|test|bench|fuzz|afl|lint|deb: installs the packages that building, the
# demonstration, the tests, the measurements, fuzzing (with libFuzzer or AFL++), static analysis
# or a Debian package need, with the system's own package manager. Does nothing, quickly, when all
# of them are there. Uses sudo when it does not run as root.
set -eu

level=${1:-build}
case $level in
build | demo | test | bench | fuzz | afl | lint | deb) ;;
*) echo "usage: $0 build|demo|test|bench|fuzz|afl|lint|deb" >&2; exit 1 ;;
esac

if command -v apt-get >/dev/null; then
	manager=apt
	build="gcc make libc6-dev pkg-config libfuse3-dev fuse3 liburing-dev zlib1g-dev libzstd-dev
	       libdeflate-dev libblkid-dev"
	demo="qemu-utils e2fsprogs mount"
	test="python3 libcmocka-dev xfsprogs btrfs-progs util-linux fdisk attr mandoc groff-base tar
	      valgrind gdb procps systemd bash fish zsh fuse2fs sleuthkit testdisk rsync
	      clang-format g++ gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user"
	bench="python3 qemu-utils qemu-system-common libnbd-bin fio strace"
	fuzz="python3 clang llvm libclang-rt-dev"
	afl="python3 afl++"
	lint="python3 clang-tidy cppcheck"
	deb="dpkg-dev debhelper fakeroot lintian"
elif command -v dnf >/dev/null; then
	manager=dnf
	build="gcc make glibc-devel pkgconf-pkg-config fuse3-devel fuse3 liburing-devel zlib-devel libzstd-devel
	       libdeflate-devel libblkid-devel"
	demo="qemu-img e2fsprogs util-linux"
	test="python3 libcmocka-devel xfsprogs btrfs-progs attr mandoc groff-base tar valgrind gdb
	      procps-ng systemd bash fish zsh fuse2fs sleuthkit testdisk rsync clang-tools-extra gcc-c++
	      gcc-aarch64-linux-gnu qemu-user libasan libubsan libtsan"
	bench="python3 qemu-img qemu-common libnbd fio strace"
	fuzz="python3 clang llvm compiler-rt"
	afl="python3 american-fuzzy-lop-clang"
	lint="python3 clang-tools-extra cppcheck"
elif command -v pacman >/dev/null; then
	manager=pacman
	build="gcc make pkgconf fuse3 liburing zlib zstd libdeflate util-linux-libs"
	demo="qemu-img e2fsprogs util-linux"
	test="python cmocka xfsprogs btrfs-progs attr groff tar valgrind gdb clang
	      procps-ng systemd bash fish zsh fuse2fs sleuthkit testdisk rsync
	      aarch64-linux-gnu-gcc qemu-user"
	bench="python qemu-img qemu-storage-daemon libnbd fio strace"
	fuzz="python clang llvm compiler-rt"
	lint="python clang cppcheck"
elif command -v apk >/dev/null; then
	manager=apk
	build="gcc make musl-dev linux-headers pkgconf fuse3-dev fuse3 liburing-dev zlib-dev zstd-dev
	       libdeflate-dev util-linux-dev"
	demo="qemu-img e2fsprogs e2fsprogs-extra util-linux util-linux-misc losetup"
	test="python3 cmocka-dev xfsprogs btrfs-progs attr mandoc groff tar valgrind gdb
	      clang-extra-tools g++ partx sfdisk procps bash fish zsh rsync"
	bench="python3 qemu-img qemu-storage-daemon libnbd fio strace"
	fuzz="python3 clang llvm compiler-rt g++"
	lint="python3 clang-extra-tools cppcheck"
else
	echo "$0: no apt-get, dnf, pacman or apk here; install by hand: a C compiler, make, pkg-config," \
		"libfuse 3, liburing, libblkid, zlib, libzstd (tests: cmocka, python 3, qemu-img, xfsprogs," \
		"btrfs-progs, valgrind; measurements: qemu-storage-daemon, nbdfuse, fio, strace)" >&2
	exit 1
fi

wanted=$build
case $level in
demo) wanted="$wanted $demo" ;;
test) wanted="$wanted $demo $test" ;;
bench) wanted="$wanted $bench" ;;
fuzz) wanted="$wanted $fuzz" ;;
afl) wanted="$wanted ${afl?AFL++ is to be installed by hand here}" ;;
lint) wanted="$wanted $lint" ;;
deb) wanted="$wanted ${deb?a Debian package is built on Debian or Ubuntu}" ;;
esac

# Prints those of the arguments that are not installed.
list_missing()
{
	case $manager in
	apt)
		dpkg-query -W -f '${Package} ${db:Status-Status}\n' "$@" 2>/dev/null |
			awk '$2 == "installed" { print $1 }'
		;;
	dnf) rpm -q --qf '%{NAME}\n' --whatprovides "$@" | grep -v 'no package provides' ;;
	pacman) pacman -Qq "$@" 2>/dev/null ;;
	apk) apk info -e "$@" 2>/dev/null ;;
	esac >"$have" || true
	for package; do
		grep -qx "$package" "$have" || echo "$package"
	done
}

have=$(mktemp)
trap 'rm -f "$have"' EXIT
# shellcheck disable=SC2086 # package lists are split on purpose
missing=$(list_missing $wanted)
[ -n "$missing" ] || exit 0

sudo=
if [ "$(id -u)" != 0 ]; then
	sudo=sudo
	if ! command -v sudo >/dev/null; then
		echo "$0: not root and no sudo; install by hand:" $missing >&2
		exit 1
	fi
fi

echo "installing:" $missing
# shellcheck disable=SC2086
case $manager in
apt)
	export DEBIAN_FRONTEND=noninteractive
	$sudo apt-get -qq -o DPkg::Lock::Timeout=300 update
	$sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 \
		--no-install-recommends install $missing >/dev/null
	;;
dnf) $sudo dnf -q -y install $missing ;;
pacman) $sudo pacman -S --noconfirm --needed $missing ;;
apk) $sudo apk add -q $missing ;;
esac
