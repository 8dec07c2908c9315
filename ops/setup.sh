#!/usr/bin/env bash
# Makes a fresh machine ready: Debian packages, npm packages, kernel features, base image.
# Usage: ops/setup.sh [--quiet]        --quiet says only what it does or what is wrong.
# Idempotent and without questions; when all is there it only looks, in a fraction of a second.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly cache=.cache
readonly log=$cache/setup.log
readonly stamp=node_modules/.hatch-setup
readonly image=node24
readonly unavailable=$cache/packages-unavailable
quiet=false
problems=0
notes=0

# What is missing without a package; "required" ends the set-up with status 1.
# package | how to see that it is there | required or optional | what does not work without it
readonly packages='
nats-server|command nats-server|required|no host starts by itself: no demo, no tests
libseccomp2|library libseccomp.so.2|required|no container starts
libbpf1|library libbpf.so.1|optional|traces do not tell how long a copy-up took
ca-certificates|file /etc/ssl/certs/ca-certificates.crt|required|no image can be built or pulled
iproute2|command ip|optional|the network tests fail
nftables|command nft|optional|egress needs iptables instead; the network tests fail
iptables|command iptables-restore|optional|the network tests fail; with nftables hatch itself works
openssl|command openssl|optional|the tests of TLS fail; hatch itself works
skopeo|command skopeo|optional|the image tests fail; hatch itself works
umoci|command umoci|optional|the image tests fail; hatch itself works
docker-registry|command docker-registry|optional|the tests of registries fail; hatch itself works
apache2-utils|command htpasswd|optional|the tests of registries fail; hatch itself works
runc|command runc|optional|"npm run bench -- start" cannot compare with runc
crun|command crun|optional|"npm run bench -- start" cannot compare with crun
bubblewrap|command bwrap|optional|"npm run bench -- start" cannot compare with bubblewrap
busybox-static|command busybox|optional|the tests in a VM, and with a static shell, fail
qemu-system-x86|command qemu-system-x86_64|optional|the tests in a VM fail; hatch itself works
kmod|command modprobe|optional|the tests in a VM fail; hatch itself works
e2fsprogs|command mkfs.ext4|optional|the tests in a VM fail; hatch itself works
btrfs-progs|command mkfs.btrfs|optional|the tests of storage on btrfs fail; hatch itself works
xfsprogs|command mkfs.xfs|optional|"npm run bench -- storage" cannot measure xfs
gcc|command gcc|optional|the test of struct layouts against the C compiler fails
make|command make|optional|the tests of storage on zfs, in a VM, fail; hatch itself works
libelf1|library libelf.so.1|optional|the tests of storage on zfs, in a VM, fail; hatch itself works
libc6-dev|file /usr/include/stdio.h|optional|the test of struct layouts against the C compiler fails
systemd|command systemd-analyze|optional|the test of the unit for systemd fails; hatch itself works
apparmor|command apparmor_parser|optional|the profile of AppArmor cannot be loaded, nor tested
strace|command strace|optional|"npm run record-syscalls" cannot trace; hatch itself works
libseccomp-dev|file /usr/include/seccomp.h|optional|the test of struct layouts fails
'

main() {
  [[ "${1:-}" == --quiet ]] && quiet=true
  check_user
  mkdir -p "$cache"
  : >"$log"
  check_node
  check_kernel
  # Two set-ups at once would delete node_modules under each other's feet.
  exec 9>"$cache/setup.lock"
  flock 9
  install_debian_packages
  install_npm_packages
  build_image
  conclude
}

check_user() {
  [[ $(id -u) == 0 ]] && return
  fail 'Run this as root: containers, cgroups and apt-get need it' \
    'Only "npm run check" and the hatch commands other than "hatch up" work without'
  exit 1
}

check_node() {
  local major=0
  if command -v node >/dev/null; then
    major=$(node -p 'process.versions.node.split(".")[0]')
  fi
  if ((major < 20)) || ! command -v npm >/dev/null; then
    fail 'Install Node.js 20 or later with npm; npm then brings the Node.js 24 of the host' \
      "Found: Node.js ${major/#0/none}, $(command -v npm || echo 'no npm')"
    exit 1
  fi
}

# Each feature by what the kernel shows of it, since version numbers do not tell what was built in.
check_kernel() {
  local release major minor
  release=$(uname -r)
  IFS=.- read -r major minor _ <<<"$release"
  ((major > 5 || (major == 5 && minor >= 19))) ||
    fail "Use Linux 5.19 or later; this is $release" \
      'Without overlayfs on idmapped layers no container starts'
  grep -qw overlay /proc/filesystems || modprobe overlay 2>/dev/null ||
    fail 'Use a kernel with overlayfs (CONFIG_OVERLAY_FS)' 'No container starts'
  [[ -e /proc/self/ns/user && $(</proc/sys/user/max_user_namespaces) -gt 0 ]] ||
    fail 'Allow user namespaces: sysctl user.max_user_namespaces=10000' 'No container starts'
  grep -qw errno /proc/sys/kernel/seccomp/actions_avail 2>/dev/null ||
    fail 'Use a kernel with seccomp filters (CONFIG_SECCOMP_FILTER)' 'No container starts'
  check_cgroups
  unshare --mount --uts --ipc --net --pid --cgroup --fork true 2>>"$log" ||
    fail 'Allow the making of namespaces; when this is a container, run it with --privileged' \
      'No container starts'
}

check_cgroups() {
  local controller missing='' root
  local available=' '
  for root in /sys/fs/cgroup /sys/fs/cgroup/unified; do
    [[ -r $root/cgroup.controllers ]] && available+="$(cat "$root/cgroup.controllers") "
  done
  # In v1 a controller is an option of its hierarchy's mount.
  available+=$(awk '$3 == "cgroup" { gsub(",", " ", $4); printf "%s ", $4 }' /proc/self/mounts)
  for controller in cpu memory pids; do
    [[ $available == *" $controller "* ]] || missing+=" $controller"
  done
  [[ -z $missing ]] ||
    fail "Mount cgroups with these controllers:$missing" 'Without limits no container starts'
}

install_debian_packages() {
  local missing
  missing=$(missing_packages)
  [[ -z $missing ]] && return
  if ! command -v apt-get >/dev/null; then
    report_missing 'this machine has no apt-get'
    return
  fi
  if [[ -f $unavailable && $(<"$unavailable") == "$missing" ]]; then
    report_missing "apt-get could not install it; to try again, remove $unavailable"
    return
  fi
  say "Debian packages: ${missing//$'\n'/ }"
  export DEBIAN_FRONTEND=noninteractive
  watch 'apt-get update' apt-get update || note 'trying with the package lists at hand'
  # shellcheck disable=SC2086 # one word a package
  watch 'apt-get install' apt_install $missing || install_one_by_one
  # What cannot be had is not tried again each time: a second run stays fast.
  missing_packages >"$unavailable"
  report_missing "apt-get could not install it; see $log"
}

apt_install() {
  apt-get install --yes --no-install-recommends -o Dpkg::Use-Pty=0 "$@"
}

# One package that cannot be had must not keep the others away.
install_one_by_one() {
  local package
  for package in $(missing_packages); do
    watch "apt-get install $package" apt_install "$package" || true
  done
}

missing_packages() {
  local package probe
  while IFS='|' read -r package probe _; do
    [[ -z $package ]] || is_there "$probe" || echo "$package"
  done <<<"$packages"
}

report_missing() {
  local package probe need effect
  while IFS='|' read -r package probe need effect; do
    [[ -z $package ]] || is_there "$probe" && continue
    if [[ $need == required ]]; then
      fail "Install the Debian package $package: $1" "Without it $effect"
    else
      note "No $package ($1): $effect"
    fi
  done <<<"$packages"
}

is_there() {
  local kind=${1%% *} name=${1#* }
  case $kind in
    command) command -v "$name" >/dev/null || [[ -x /usr/sbin/$name ]] ;;
    file) [[ -e $name ]] ;;
    library) compgen -G "/usr/lib/*/$name" >/dev/null || compgen -G "/usr/lib*/$name" >/dev/null ;;
  esac
}

install_npm_packages() {
  local wanted
  wanted=$(cat package.json package-lock.json | sha256sum)
  [[ -f $stamp && $(<"$stamp") == "$wanted" ]] && return
  say 'npm packages (Node.js 24 is among them, about 190 MB)'
  # npm replaces node_modules, and with it the Node.js that npm run has put first on the path.
  local path=${PATH//"$PWD/node_modules/.bin:"/}
  if ! PATH=$path watch 'npm ci' npm ci --no-audit --no-fund --loglevel=http; then
    fail "Make npm ci work: see $log" 'Nothing works without the npm packages'
    return
  fi
  link_node
  if check_npm_packages 2>>"$log"; then
    echo "$wanted" >"$stamp"
  else
    fail "The npm packages for $(uname -m) do not run; see $log" \
      'Node.js 24, koffi and esbuild come as optional packages for x64 and arm64 with glibc'
  fi
}

# npm 10 unpacks the package with Node.js 24 in it but does not link its binary.
link_node() {
  local binary
  for binary in node_modules/node-linux-*/bin/node; do
    [[ -x $binary && ! -e node_modules/.bin/node ]] || continue
    ln -s "../${binary#node_modules/}" node_modules/.bin/node
  done
  return 0
}

# The parts of npm's work that depend on the machine: they must run, not just be there.
check_npm_packages() {
  node_modules/.bin/node --eval '
    if (!process.version.startsWith("v24.")) throw new Error(`Node.js is ${process.version}`);
    require("koffi").load("libc.so.6").func("int getpid()")();
    require("esbuild").transformSync("let a: number", { loader: "ts" });
  '
}

build_image() {
  [[ -f images/build.ts && -f $stamp ]] || return 0
  local output=$cache/images/$image
  if [[ -f $output/index.json ]]; then
    node_modules/.bin/node images/build.ts "$image" --output "$output" >>"$log" 2>&1 && return
  fi
  say "base image $image"
  watch "image $image" node_modules/.bin/node images/build.ts "$image" --output "$output" ||
    fail "Build the base image: node images/build.ts $image --output $output" \
      'Without it no container starts'
}

conclude() {
  if ((problems > 0)); then
    echo "setup: $problems thing(s) to mend, see above" >&2
    exit 1
  fi
  $quiet || echo "setup: ready$( ((notes == 0)) || echo ", with $notes limitation(s)")"
}

# Runs a command with its output in the log, showing that it lives: the time, and its last line.
watch() {
  local title=$1 pid status=0 start=$SECONDS shown=$SECONDS
  shift
  "$@" >>"$log" 2>&1 9>&- </dev/null &
  pid=$!
  while kill -0 "$pid" 2>/dev/null; do
    if [[ -t 1 ]]; then
      printf '\r\e[K  %s, %d s: %.60s' "$title" $((SECONDS - start)) "$(last_line)"
    elif ((SECONDS - shown >= 10)); then
      shown=$SECONDS
      printf '  %s, %d s: %.60s\n' "$title" $((SECONDS - start)) "$(last_line)"
    fi
    sleep 0.2
  done
  wait "$pid" || status=$?
  [[ -t 1 ]] && printf '\r\e[K'
  if ((status == 0)); then
    echo "  $title: done in $((SECONDS - start)) s"
  else
    echo "  $title: failed with status $status" >&2
    tail -n 15 "$log" | sed 's/^/  | /' >&2
  fi
  return "$status"
}

last_line() {
  tail -c 400 "$log" | tr -d '\r' | tail -n 1
}

say() {
  echo "setup: $1"
}

note() {
  notes=$((notes + 1))
  echo "setup: note: $1" >&2
}

fail() {
  problems=$((problems + 1))
  echo "setup: $1" >&2
  [[ -z ${2:-} ]] || echo "       $2" >&2
}

main "$@"
