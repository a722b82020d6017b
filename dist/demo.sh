#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# demo.sh PROGRAM: makes a small image with a file system, a compressed base and an
# overlay, mounts it with PROGRAM and shows what can be done with the raw view. As root
# it also loop-mounts the file system.
set -eu

qcow2fs=$(realpath "${1:-build/qcow2fs}")
PATH=$PATH:/usr/sbin:/sbin
dir=$(mktemp -d)

clean_up()
{
	! mountpoint -q "$dir/fs" || umount "$dir/fs"
	! mountpoint -q "$dir/mnt" || "$qcow2fs" -u "$dir/mnt" || umount -l "$dir/mnt"
	rm -rf "$dir"
}
trap clean_up EXIT
trap 'exit 1' HUP INT TERM

# Shows a command as one would type it, then runs it.
show()
{
	echo "\$ $*"
	"$@"
}

mkdir "$dir/tree" "$dir/mnt" "$dir/fs"
echo "Hello from inside a qcow2 image." >"$dir/tree/hello.txt"
seq 1 200000 >"$dir/tree/numbers"
truncate -s 64M "$dir/disk.img"
mkfs.ext4 -q -F -d "$dir/tree" "$dir/disk.img"
qemu-img convert -f raw -O qcow2 -c "$dir/disk.img" "$dir/base.qcow2"
qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 "$dir/vm.qcow2"
cd "$dir"

qemu-img convert -f qcow2 -O raw vm.qcow2 expected.raw

echo "An overlay on a compressed image, mounted:"
show ls -s base.qcow2 vm.qcow2
show "$qcow2fs" vm.qcow2 mnt
show ls -ls mnt

echo
echo "It is the disk, byte for byte what qemu-img makes of it:"
show cmp mnt/disk.raw expected.raw

echo
echo "Every tool for raw disks works on it:"
show debugfs -R "cat hello.txt" mnt/disk.raw
show e2fsck -f -n mnt/disk.raw
if [ "$(id -u)" = 0 ] && losetup --find >/dev/null 2>&1; then
	echo
	echo "So does the kernel:"
	show mount -o loop mnt/disk.raw fs
	show tail -n 2 fs/numbers
	echo "$ echo 'Written through the mount.' > fs/new.txt"
	echo 'Written through the mount.' >fs/new.txt
	show umount fs
else
	echo "$ debugfs -w -R 'write new.txt new.txt' mnt/disk.raw"
	echo 'Written through the mount.' >new.txt
	debugfs -w -R "write new.txt new.txt" mnt/disk.raw
fi

echo
echo "Write back, unmount, and return when the image is released:"
show "$qcow2fs" -u mnt

echo
echo "What was written is in the overlay, and the image is sound:"
show qemu-img check vm.qcow2
qemu-img convert -f qcow2 -O raw vm.qcow2 after.raw
show debugfs -R "cat new.txt" after.raw
debugfs -R "cat new.txt" after.raw 2>/dev/null | grep -q 'Written through the mount.'
echo "demo: all is well"
