#!/usr/bin/env bash
# ZFS for the VM's kernel: modules built from Debian's zfs-dkms, and the programs and libraries of
# the same release, unpacked. Nothing is installed: all of it lies in TARGET.
# Usage: ops/vm/build-zfs.sh KERNEL_VERSION TARGET        as of `uname -r`; TARGET must not exist
# What is left then: TARGET/modules/{spl,zfs}.ko and TARGET/root, to be laid over a root.
set -euo pipefail

readonly kernel=$1 target=$2
readonly partial=$target.partial
# The first release with both idmapped mounts and roots without ".zfs" in them is 2.3.
readonly backports=bookworm-backports

main() {
  command -v make >/dev/null || fail 'Install the Debian package make'
  rm -rf "$partial"
  mkdir -p "$partial"/{lists/partial,archives/partial,packages,build,modules,root}
  cd "$partial"
  configure_apt
  download
  unpack
  build
  keep_results
}

# A list of its own, of where this machine has its packages from: ZFS is in contrib, which the
# machine's own need not have.
configure_apt() {
  local keyring=/usr/share/keyrings/debian-archive-keyring.gpg format='$(REPO_URI) $(RELEASE)'
  local place suite
  while read -r place suite; do
    echo "deb [signed-by=$keyring] $place $suite main contrib"
    [[ $suite == bookworm ]] && echo "deb [signed-by=$keyring] $place $backports main contrib"
  done < <(apt-get indextargets --format "$format" 'Origin: Debian' | sort -u) >sources.list
  [[ -s sources.list ]] || fail 'Run apt-get update: no list of packages of Debian is there'
  cat >apt.conf <<END
Dir::Etc::sourcelist "$PWD/sources.list";
Dir::Etc::sourceparts "-";
Dir::State::lists "$PWD/lists";
Dir::Cache "$PWD";
APT::Sandbox::User "root";
END
  export APT_CONFIG=$PWD/apt.conf
}

download() {
  apt-get update
  cd packages
  apt-get download "linux-headers-$kernel" "linux-headers-${kernel%-*}-common" \
    "linux-kbuild-$(cut -d . -f 1-2 <<<"$kernel")" linux-compiler-gcc-12-x86 libtirpc3 ||
    fail "Debian no longer has the headers of $kernel; remove .cache/vm/kernel for a newer one"
  apt-get download "zfs-dkms/$backports" "zfsutils-linux/$backports"
  local library
  for library in $(dpkg-deb --field zfsutils-linux_*.deb Depends | grep -o 'lib[a-z0-9]*linux'); do
    apt-get download "$library/$backports"
  done
  cd ..
}

unpack() {
  local package place
  for package in packages/*.deb; do
    case $package in
      */zfsutils* | */lib*) place=root ;;
      *) place=build ;;
    esac
    dpkg-deb --extract "$package" "$place"
  done
  # As on a Debian whose /lib and /sbin are links.
  cp --archive root/{lib,sbin} root/usr
  rm -r root/{lib,sbin,etc,bin} root/usr/share
  # The headers name each other as if they were installed.
  sed -i "s#/usr/src/#$PWD/build/usr/src/#" "build/usr/src/linux-headers-$kernel/Makefile"
}

build() {
  local headers=$PWD/build/usr/src/linux-headers
  cd build/usr/src/zfs-*/
  ./configure --disable-dependency-tracking --with-config=kernel \
    --with-linux="$headers-${kernel%-*}-common" --with-linux-obj="$headers-$kernel"
  make --jobs="$(nproc)"
  # Without what debuggers need, a tenth is left to be read by the VM.
  strip --strip-debug module/{spl,zfs}.ko
  mv module/{spl,zfs}.ko ../../../../modules
  cd ../../../..
}

# It appears under its name only when it is complete.
keep_results() {
  rm -r apt.conf sources.list lists archives packages build
  echo "$kernel" >kernel-version
  rm -f ./*.bin
  mv "$PWD" "$target"
}

fail() {
  echo "build-zfs: $1" >&2
  exit 1
}

main
