# PID 1 of the VM on its real root: mounts what systemd would, runs the command, tells its status.
# With HATCH_INIT=systemd it becomes systemd, which has this script run the command: `--command`.
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb
export LANG=C.UTF-8

main() {
  if [[ ${1:-} == --command ]]; then
    run_command
  elif [[ ${HATCH_INIT:-} == systemd ]]; then
    prepare
    become_systemd
  else
    mount_as_debian
    # The tests see the profile in force; without the program, they say that it is not.
    apparmor_parser --replace --skip-cache ops/apparmor/hatch-function
    prepare
    run_command
  fi
}

prepare() {
  mkdir -p /lib/modules
  mount --bind "$PWD/.cache/vm/kernel/lib/modules" /lib/modules
  # Its control device is what would have it loaded, and udev what makes that.
  modprobe loop
  # The command begins with the variables that say what it is to find.
  if grep -q '^export .*HATCH_TEST_ZFS=1' /run/command; then install_zfs; fi
  ip link set lo up
  hostname hatch-vm
  ulimit -Hn 524288
}

run_command() {
  output=$(port hatch.output) status=$(port hatch.status)
  echo "vm: Linux $(uname -r), booted in $(cut -d ' ' -f 1 /proc/uptime) s" >"$output"
  bash /run/command >"$output" 2>&1 </dev/null
  echo $? >"$status"
  poweroff
}

# With the options that Debian's systemd uses, as nsdelegate changes who may join which group.
mount_as_debian() {
  mkdir -p /dev/pts /dev/shm /dev/mqueue
  mount -t devpts -o gid=5,mode=620,ptmxmode=000 devpts /dev/pts
  mount -t tmpfs tmpfs /dev/shm
  mount -t mqueue mqueue /dev/mqueue
  mount -t cgroup2 -o nosuid,nodev,noexec,nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
  mount -t securityfs securityfs /sys/kernel/security
  mount -t tracefs tracefs /sys/kernel/tracing
  mount -t bpf bpf /sys/fs/bpf
}

# Debian's own targets, without what is enabled on this machine or the VM has no use for.
become_systemd() {
  local units=/etc/systemd/system unit
  mount -t tmpfs -o mode=755 units "$units"
  mount -t tmpfs -o mode=755 generators /usr/lib/systemd/system-generators
  # To clear /tmp would clear away the repository, if it lies there.
  for unit in systemd-{tmpfiles-setup,logind,user-sessions,update-utmp{,-runlevel}}.service \
    systemd-{firstboot,repart,random-seed,journal-flush}.service systemd-tmpfiles-clean.timer \
    getty.target dbus.{socket,service}; do
    ln -s /dev/null "$units/$unit"
  done
  # Where this machine is a container, systemd would take the VM for one too.
  rm -f /.dockerenv
  mkdir "$units/multi-user.target.wants"
  cat >"$units/hatch-vm.service" <<UNIT
[Unit]
Description=The command of the VM
After=multi-user.target
[Service]
ExecStart=/bin/bash $PWD/ops/vm/guest.sh --command
LimitNOFILE=524288
TasksMax=infinity
UNIT
  ln -s ../hatch-vm.service "$units/multi-user.target.wants/"
  exec /lib/systemd/systemd --unit=multi-user.target
}

# As Debian's packages would, but for the services.
install_zfs() {
  local zfs=.cache/vm/zfs
  cp --archive "$zfs"/root/usr/. /usr
  insmod "$zfs"/modules/spl.ko
  insmod "$zfs"/modules/zfs.ko
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

main "$@"
