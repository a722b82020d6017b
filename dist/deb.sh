#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# deb.sh VERSION FOLDER: copies the sources to FOLDER, builds a Debian source and binary
# package there and has lintian look at them. The tests are left to `make check`.
set -eu

version=$1
folder=$2
tree=$folder/qcow2fs-$version

rm -rf "$folder"
mkdir -p "$tree"
tar --exclude-vcs --exclude=./build --exclude="./$folder" --exclude=./bench-results \
	--exclude=__pycache__ -cf - . | tar -C "$tree" -xf -
cp -R dist/debian "$tree/debian"
cd "$tree"
DEB_BUILD_OPTIONS=${DEB_BUILD_OPTIONS-nocheck} dpkg-buildpackage --no-sign -rfakeroot
cd ..
lintian --fail-on error,warning ./*.changes
ls -1 ./*.deb ./*.dsc
