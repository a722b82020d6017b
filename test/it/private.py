# SPDX-License-Identifier: MIT OR Apache-2.0
"""
private: scripts in a mount and process namespace of their own, where the program is
installed as `make install` does it, /dev/fuse is open to all as udev makes it, /mnt is empty
but for x and y, /srv is a folder of the test (and the working directory), and /etc/fstab and
/etc/fuse.conf are the test's own. None of the system's is touched, and the namespace takes
along whatever a script leaves.
"""
import os

import qf

# mount.fuse3 looks for programs in the system's folders only.
SETUP = """
set -e
box=$1
mkdir -p "$box/sbin" "$box/srv"
sbin=$(realpath /sbin)
mount --bind "$sbin" "$box/sbin"
mount -t tmpfs -o mode=755 tmpfs "$sbin"
# Below a folder that a plain user can reach, too.
mkdir "$sbin/system"
mount --bind "$box/sbin" "$sbin/system"
ln -s "$sbin/system"/* "$sbin/"
cp "$2" "$sbin/qcow2fs"
ln -sf qcow2fs "$sbin/mount.qcow2fs"
mount -t tmpfs -o mode=755 tmpfs /mnt
mkdir /mnt/x /mnt/y
mount --bind "$box/srv" /srv
: >"$box/fstab"
mount --bind "$box/fstab" /etc/fstab
echo user_allow_other >"$box/fuse.conf"
[ ! -e /etc/fuse.conf ] || mount --bind "$box/fuse.conf" /etc/fuse.conf
if [ "$(stat -c %a /dev/fuse)" != 666 ]; then
	mknod -m 666 "$box/device" c 10 229
	mount --bind "$box/device" /dev/fuse
fi
export PATH="$sbin:$PATH"
cd /srv
clean_up()
{
	[ -z "$loop" ] || losetup -d "$loop"
	umount -l /mnt/y /mnt/x
}
trap clean_up EXIT
"""
TEARDOWN = """
trap - EXIT
! mountpoint -q /mnt/y
! mountpoint -q /mnt/x
"""


def need_namespaces():
    qf.need_root()
    if qf.run("unshare", "--mount", "--pid", "--fork", "--mount-proc", "true",
              status=None).returncode != 0:
        raise qf.Skip("no mount namespaces here")


def run(box, script, setup=SETUP):
    """Runs a shell script there, which must unmount what it mounts; its CompletedProcess."""
    need_namespaces()
    return qf.run("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
                  "sh", "-c", setup + script + TEARDOWN, "sh", box.folder, qf.QCOW2FS, status=None)


def check(box, script, printing=""):
    """The same, where nothing may fail, and exactly this is printed."""
    done = run(box, script)
    assert done.returncode == 0, f"exit status {done.returncode}: {done.stdout}{done.stderr}"
    assert not done.stderr, done.stderr
    assert done.stdout == printing, done.stdout


def folder(box):
    """What is /srv there."""
    return box.mkdir("srv")


def path(box, name):
    return os.path.join(folder(box), name)
