# PID 1 of the VM on its real root: mounts what systemd would, runs the command, tells its status.
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb
export LANG=C.UTF-8

main() {
  mount_as_debian
  # The tests see the profile in force; without the program, they say that it is not.
  apparmor_parser --replace --skip-cache ops/apparmor/hatch-function
  mount --bind "$PWD/.cache/vm/kernel/lib/modules" /lib/modules
  # Its control device is what would have it loaded, and udev what makes that.
  modprobe loop
  ip link set lo up
  hostname hatch-vm
  ulimit -Hn 524288
  output=$(port hatch.output) status=$(port hatch.status)
  echo "vm: Linux $(uname -r), booted in $(cut -d ' ' -f 1 /proc/uptime) s" >"$output"
  bash /run/command >"$output" 2>&1 </dev/null
  echo $? >"$status"
  poweroff
}

# With the options that Debian's systemd uses, as nsdelegate changes who may join which group.
mount_as_debian() {
  mkdir -p /dev/pts /dev/shm /dev/mqueue /lib/modules
  mount -t devpts -o gid=5,mode=620,ptmxmode=000 devpts /dev/pts
  mount -t tmpfs tmpfs /dev/shm
  mount -t mqueue mqueue /dev/mqueue
  mount -t cgroup2 -o nosuid,nodev,noexec,nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
  mount -t securityfs securityfs /sys/kernel/security
  mount -t tracefs tracefs /sys/kernel/tracing
  mount -t bpf bpf /sys/fs/bpf
}

# The character device of the virtio port of that name; there is no udev to make links.
port() {
  local name
  for name in /sys/class/virtio-ports/*/name; do
    [[ $(<"$name") == "$1" ]] && echo "/dev/$(basename "$(dirname "$name")")"
  done
}

poweroff() {
  sync
  busybox poweroff -f
}

main
