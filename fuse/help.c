/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * help: the text of --help.
 */
#include "fuse/options.h"

static const char help_text[] =
	"Usage: qcow2fs [OPTIONS] IMAGE MOUNTPOINT\n"
	"       qcow2fs [OPTIONS] [NAME=]IMAGE... MOUNTPOINT\n"
	"       qcow2fs -u [-z] [--timeout=SEC] MOUNTPOINT\n"
	"\n"
	"Shows a qcow2 image as the raw disk MOUNTPOINT/disk.raw, to be read, written,\n"
	"loop-mounted or given to any program that knows raw disks only. With several\n"
	"images there is one file for each, named after it.\n"
	"\n"
	"  -r, --read-only       the same as -o ro\n"
	"  -w, --writable        the same as -o rw: refuse rather than mount read-only\n"
	"  -U, --force-share     read an image that another program has open for writing\n"
	"  -f, --foreground      stay in the foreground, end when unmounted\n"
	"  -s                    one receiving thread (the same as -o threads=1)\n"
	"  -q, --quiet           no warnings\n"
	"  -v, --verbose         say what was mounted, and how\n"
	"  -d, --debug           show every request (implies -f)\n"
	"      --pidfile=FILE    write the server's process id there while it serves\n"
	"      --log-file=FILE   log there instead of to syslog\n"
	"      --ready-fd=N      write a newline to descriptor N when ready\n"
	"  -u, --unmount         write back, unmount, return when the image is released\n"
	"  -z, --lazy            with -u: detach even while the mount is in use\n"
	"      --timeout=SEC     with -u: give up after SEC seconds (default: 5 while busy)\n"
	"  -h, --help            this text\n"
	"  -V, --version         the version\n"
	"\n"
	"Mount options (-o WORD[,WORD...]):\n"
	"  ro, rw                read-only; writable or not at all (default: writable\n"
	"                        where the image may be written)\n"
	"  snapshot=ID|NAME      show this internal snapshot, read-only\n"
	"  backing=auto|any|beneath|none\n"
	"                        which backing files named inside an image to follow\n"
	"  backing_file=PATH     use this backing file instead of the recorded one\n"
	"  data_file=PATH        use this external data file\n"
	"  name=FILE             name of the raw file (default: disk.raw)\n"
	"  uid=, gid=, umask=    owner and permissions of the files\n"
	"  discard=unmap|ignore  whether punched holes give space back (default: unmap)\n"
	"  grow                  writing past the end enlarges the disk\n"
	"  shrink                truncating makes the disk smaller\n"
	"  threads=N             receiving threads (default: 4)\n"
	"  l2_cache=SIZE         memory for mapping tables (default: what covers the\n"
	"                        image, at most 128M)\n"
	"  cache=auto|none|writeback\n"
	"                        the kernel's page cache: written through, unused, or\n"
	"                        with delayed writes\n"
	"  io=auto|uring|threads how the image is accessed\n"
	"  allow_other, allow_root, auto_unmount, fsname=NAME, sync, noexec, ... as in\n"
	"                        mount.fuse3(8); nofail, _netdev, x-* ... as in fstab(5)\n"
	"\n"
	"Exit status: 0 success; 1 usage; 2 system; 32 mount failed; 33 cannot open, or\n"
	"not qcow2; 34 unsupported feature; 35 image in use; 36 image corrupt; 37 backing\n"
	"or data file missing or refused; 38 write-back failed; 39 busy or timed out.\n";

const char *options_help(void)
{
	return help_text;
}
