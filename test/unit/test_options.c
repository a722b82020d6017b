/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The command line: what is accepted, what is refused and with which words.
 */
#include "fuse/options.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define ARGS_MAX 16

static struct options options;
static char *message;

static int teardown(void **state)
{
	options_finish(&options);
	free(message);
	message = NULL;
	return 0;
}

/* Splits at spaces, parses, and returns the result. */
static int parse(const char *line)
{
	char *copy = strdup(line), *argv[ARGS_MAX + 1];
	int argc = 0, res;

	teardown(NULL);
	for (char *word = strtok(copy, " "); word; word = strtok(NULL, " ")) {
		assert_true(argc < ARGS_MAX);
		argv[argc++] = word;
	}
	argv[argc] = NULL;
	res = options_parse(&options, argc, argv, &message);
	free(copy);
	return res;
}

static void accepts(const char *line)
{
	if (parse(line) != 0)
		fail_msg("'%s' is refused: %s", line, message);
}

static void refuses(const char *line, const char *words)
{
	if (parse(line) == 0)
		fail_msg("'%s' is accepted", line);
	assert_non_null(message);
	if (!strstr(message, words))
		fail_msg("'%s' is refused with '%s', which does not say '%s'", line, message,
			 words);
}

static void test_defaults(void **state)
{
	accepts("qcow2fs a.qcow2 /mnt");
	assert_int_equal(options.action, ACTION_MOUNT);
	assert_int_equal(options.nb_images, 1);
	assert_null(options.images[0].name);
	assert_string_equal(options.images[0].path, "a.qcow2");
	assert_string_equal(options.mountpoint, "/mnt");
	assert_int_equal(options.access, ACCESS_AUTO);
	assert_int_equal(options.names, NAMES_AUTO);
	assert_int_equal(options.cache, CACHE_AUTO);
	assert_string_equal(options.engine, "auto");
	assert_int_equal(options.ready_fd, -1);
	assert_false(options.foreground);
	assert_null(options.kernel_words);
}

static void test_mount_calls_with_options_last(void **state)
{
	accepts("qcow2fs IMG MNT -o "
		"rw,dev,suid,nofail,_netdev,x-systemd.automount,comment=a,user=me");
	assert_int_equal(options.access, ACCESS_WRITABLE);
	assert_string_equal(options.mountpoint, "MNT");
	assert_null(options.kernel_words);
	accepts("qcow2fs IMG MNT -o ro,defaults,relatime,users,group,owner,auto,noauto");
	assert_int_equal(options.access, ACCESS_READ_ONLY);
	accepts("qcow2fs IMG MNT -o rw,silent,loud,iversion,noiversion,mand,nomand,nosymfollow");
	assert_null(options.kernel_words);
}

static void test_mount_helper_letters(void **state)
{
	accepts("/sbin/mount.qcow2fs IMG MNT -s -n -v -o ro -t fuse.qcow2fs");
	assert_int_equal(options.action, ACTION_MOUNT);
	assert_int_equal(options.nb_threads, 0);
	accepts("mount.qcow2fs -f IMG MNT");
	assert_int_equal(options.action, ACTION_NOTHING);
	accepts("qcow2fs -f -s IMG MNT");
	assert_true(options.foreground);
	assert_int_equal(options.nb_threads, 1);
}

static void test_switches(void **state)
{
	accepts("qcow2fs -q -v --pidfile=/p --log-file /l --ready-fd=7 IMG MNT -d");
	assert_true(options.quiet && options.verbose && options.debug && options.foreground);
	assert_string_equal(options.pidfile, "/p");
	assert_string_equal(options.log_file, "/l");
	assert_int_equal(options.ready_fd, 7);
	accepts("qcow2fs --read-only IMG MNT");
	assert_int_equal(options.access, ACCESS_READ_ONLY);
	accepts("qcow2fs -w IMG MNT");
	assert_int_equal(options.access, ACCESS_WRITABLE);
	accepts("qcow2fs --force-share IMG MNT");
	assert_true(options.force_share);
	assert_int_equal(options.access, ACCESS_READ_ONLY);
	accepts("qcow2fs -h");
	assert_int_equal(options.action, ACTION_HELP);
	accepts("qcow2fs --version");
	assert_int_equal(options.action, ACTION_VERSION);
}

static void test_unmount(void **state)
{
	accepts("qcow2fs -u -z /mnt");
	assert_int_equal(options.action, ACTION_UNMOUNT);
	assert_true(options.lazy);
	assert_string_equal(options.mountpoint, "/mnt");
	accepts("qcow2fs --unmount --timeout=3 /mnt");
	assert_int_equal(options.unmount_timeout_s, 3);
	refuses("qcow2fs -u", "MOUNTPOINT");
	refuses("qcow2fs -u a b", "MOUNTPOINT");
	refuses("qcow2fs -z IMG MNT", "--unmount");
}

static void test_words(void **state)
{
	accepts("qcow2fs IMG MNT -o snapshot=s1,backing=none,backing_file=b,data_file=d -o "
		"discard=ignore,grow,shrink,threads=3,l2_cache=16M,cache=none,io=threads,"
		"transport=dev");
	assert_string_equal(options.snapshot, "s1");
	assert_int_equal(options.access, ACCESS_READ_ONLY);
	assert_int_equal(options.names, NAMES_NONE);
	assert_string_equal(options.backing_file, "b");
	assert_string_equal(options.data_file, "d");
	assert_true(options.discard_keeps_space && options.grow && options.shrink);
	assert_int_equal(options.nb_threads, 3);
	assert_int_equal(options.l2_cache_bytes, 16u << 20);
	assert_int_equal(options.cache, CACHE_NONE);
	assert_string_equal(options.engine, "threads");
	assert_int_equal(options.transport, WISH_DEV);
	accepts("qcow2fs IMG MNT -o uid=5,gid=6,umask=027,name=x.img");
	assert_true(options.has_uid && options.has_gid && options.has_umask);
	assert_int_equal(options.uid, 5);
	assert_int_equal(options.gid, 6);
	assert_int_equal(options.umask, 027);
	assert_string_equal(options.name, "x.img");
	accepts("qcow2fs IMG MNT -o snapshots,partitions,timeout=9");
	assert_true(options.snapshots && options.partitions);
	assert_int_equal(options.idle_timeout_s, 9);
	accepts("qcow2fs IMG MNT -o uid=root");
	assert_int_equal(options.uid, 0);
}

static void test_overlay(void **state)
{
	accepts("qcow2fs IMG MNT -o overlay");
	assert_true(options.overlay);
	assert_null(options.overlay_file);
	assert_int_equal(options.access, ACCESS_AUTO);
	accepts("qcow2fs IMG MNT -w -o overlay,overlay=/o");
	assert_string_equal(options.overlay_file, "/o");
	accepts("qcow2fs IMG MNT -o overlay=/o,overlay");
	assert_null(options.overlay_file);
	accepts("qcow2fs IMG MNT -U -o rw,overlay,snapshot=s");
	assert_int_equal(options.access, ACCESS_WRITABLE);
	accepts("qcow2fs A B MNT -o overlay");
	refuses("qcow2fs A B MNT -o overlay=/o", "for one image");
	refuses("qcow2fs IMG MNT -r -o overlay", "excludes -r");
	refuses("qcow2fs IMG MNT -o overlay=/o,snapshot=s", "cannot record a snapshot");
	refuses("qcow2fs IMG MNT -o overlay=", "needs a value");
}

static void test_last_word_wins(void **state)
{
	accepts("qcow2fs IMG MNT -o ro,rw -o cache=none,cache=writeback -o "
		"backing=any,backing=beneath");
	assert_int_equal(options.access, ACCESS_WRITABLE);
	assert_int_equal(options.cache, CACHE_WRITEBACK);
	assert_int_equal(options.names, NAMES_BENEATH);
}

static void test_bad_words(void **state)
{
	refuses("qcow2fs IMG MNT -o nonsense", "nonsense");
	refuses("qcow2fs IMG MNT -o ro,snapshots=", "snapshots");
	refuses("qcow2fs IMG MNT -o partitions,shrink", "excludes -o shrink");
	refuses("qcow2fs IMG MNT -o threads", "needs a value");
	refuses("qcow2fs IMG MNT -o snapshot=", "needs a value");
	refuses("qcow2fs IMG MNT -o grow=1", "takes no value");
	refuses("qcow2fs IMG MNT -o timeout=0", "timeout=0");
	refuses("qcow2fs -u --timeout=0 MNT", "--timeout=0");
	refuses("qcow2fs IMG MNT -o threads=0", "threads=0");
	refuses("qcow2fs IMG MNT -o threads=65", "threads=65");
	refuses("qcow2fs IMG MNT -o threads=+1", "threads=+1");
	refuses("qcow2fs IMG MNT -o l2_cache=1X", "l2_cache=1X");
	refuses("qcow2fs IMG MNT -o l2_cache=99999999T", "l2_cache");
	refuses("qcow2fs IMG MNT -o cache=some", "cache=some");
	refuses("qcow2fs IMG MNT -o backing=some", "backing=some");
	refuses("qcow2fs IMG MNT -o discard=some", "discard=some");
	refuses("qcow2fs IMG MNT -o io=some", "io=some");
	refuses("qcow2fs IMG MNT -o transport=some", "transport=some");
	refuses("qcow2fs IMG MNT -o sandbox=no", "sandbox=no");
	refuses("qcow2fs IMG MNT -o umask=8", "umask=8");
	refuses("qcow2fs IMG MNT -o uid=no_such_user_here", "no such user");
	refuses("qcow2fs IMG MNT -o name=a/b", "name=a/b");
	refuses("qcow2fs IMG MNT -o name=..", "name=..");
	refuses("qcow2fs IMG MNT --nonsense", "--nonsense");
	refuses("qcow2fs IMG MNT -k", "-k");
	refuses("qcow2fs IMG MNT -o", "needs a value");
	refuses("qcow2fs --ready-fd=x IMG MNT", "--ready-fd=x");
	refuses("qcow2fs", "IMAGE");
	refuses("qcow2fs IMG", "MOUNTPOINT");
}

static void test_combinations(void **state)
{
	refuses("qcow2fs -U -w IMG MNT", "--force-share");
	refuses("qcow2fs -r -w IMG MNT", "-r and -w exclude");
	refuses("qcow2fs --writable IMG MNT --read-only", "-r and -w exclude");
	refuses("qcow2fs -r IMG MNT -o ro,rw", "-r and -o rw exclude");
	refuses("qcow2fs IMG MNT -w -o ro", "-w and -o ro exclude");
	refuses("qcow2fs -r IMG MNT -o grow", "-o grow is for writing");
	refuses("qcow2fs IMG MNT -o shrink,ro", "-o shrink is for writing");
	accepts("qcow2fs -r IMG MNT -o rw,ro");
	assert_int_equal(options.access, ACCESS_READ_ONLY);
	accepts("qcow2fs IMG MNT -o ro,rw,grow -w");
	assert_int_equal(options.access, ACCESS_WRITABLE);
	refuses("qcow2fs IMG MNT -o snapshot=1,rw", "read-only");
	refuses("qcow2fs IMG MNT -o snapshot=1,snapshots", "snapshots");
	refuses("qcow2fs A B MNT -o name=x", "name=");
	refuses("qcow2fs A B MNT -o snapshot=x", "snapshot=");
	refuses("qcow2fs A B MNT -o backing_file=x", "backing_file=");
	refuses("qcow2fs A B MNT -o data_file=x", "data_file=");
}

static void test_words_for_the_kernel(void **state)
{
	accepts("qcow2fs IMG MNT -o allow_other,noexec,fsname=a\\,b,sync,max_read=65536");
	assert_true(options.allow_other);
	assert_true(options.sync);
	assert_true(options.has_fsname);
	assert_int_equal(options.max_read_bytes, 65536);
	assert_string_equal(options.kernel_words,
			    "allow_other,noexec,fsname=a\\,b,sync,max_read=65536");
}

static void test_backslash_takes_a_comma(void **state)
{
	accepts("qcow2fs IMG MNT -o backing_file=a\\,b\\\\c,ro");
	assert_string_equal(options.backing_file, "a,b\\c");
	assert_int_equal(options.access, ACCESS_READ_ONLY);
}

static void test_named_images(void **state)
{
	accepts("qcow2fs A x=B /d/y=C MNT");
	assert_int_equal(options.nb_images, 3);
	assert_null(options.images[0].name);
	assert_string_equal(options.images[1].name, "x");
	assert_string_equal(options.images[1].path, "B");
	assert_null(options.images[2].name);
	assert_string_equal(options.images[2].path, "/d/y=C");
	refuses("qcow2fs x= MNT", "missing");
}

static void test_existing_file_is_no_name(void **state)
{
	char dir[] = "/tmp/qf-options-XXXXXX";

	assert_non_null(mkdtemp(dir));
	assert_int_equal(chdir(dir), 0);
	fclose(fopen("a=b", "w"));
	accepts("qcow2fs a=b MNT");
	assert_null(options.images[0].name);
	assert_string_equal(options.images[0].path, "a=b");
	unlink("a=b");
	assert_int_equal(chdir("/"), 0);
	rmdir(dir);
}

static void test_every_mount_failure_has_bit_32(void **state)
{
	for (int class = ERROR_SYSTEM; class <= ERROR_BACKING; class ++)
		assert_true(options_status_of((enum error_class) class) & 32);
	assert_int_equal(options_status_of(ERROR_LOCKED), 35);
	assert_int_equal(options_status_of(ERROR_BACKING), 37);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_defaults, teardown),
		cmocka_unit_test_teardown(test_mount_calls_with_options_last, teardown),
		cmocka_unit_test_teardown(test_mount_helper_letters, teardown),
		cmocka_unit_test_teardown(test_switches, teardown),
		cmocka_unit_test_teardown(test_unmount, teardown),
		cmocka_unit_test_teardown(test_words, teardown),
		cmocka_unit_test_teardown(test_overlay, teardown),
		cmocka_unit_test_teardown(test_last_word_wins, teardown),
		cmocka_unit_test_teardown(test_bad_words, teardown),
		cmocka_unit_test_teardown(test_combinations, teardown),
		cmocka_unit_test_teardown(test_words_for_the_kernel, teardown),
		cmocka_unit_test_teardown(test_backslash_takes_a_comma, teardown),
		cmocka_unit_test_teardown(test_named_images, teardown),
		cmocka_unit_test_teardown(test_existing_file_is_no_name, teardown),
		cmocka_unit_test_teardown(test_every_mount_failure_has_bit_32, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
