#!/bin/busybox sh
# PID 1 of the VM until its root is there: this machine's own root, read-only, below a scratch disk
# for what is written. Then ops/vm/guest.sh goes on. The kernel passes HATCH_REPOSITORY
# and HATCH_INIT along.
export PATH=/bin
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /host /scratch /new

# A directory of this machine, and what the guest writes to it: NAME of the upper, DIRECTORY.
share() {
  mkdir -p "/scratch/$1/upper" "/scratch/$1/work" "/new$2"
  mount -t overlay -o "lowerdir=/host$2,upperdir=/scratch/$1/upper,workdir=/scratch/$1/work" \
    "$1" "/new$2"
}

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do
  insmod "$module" || echo "init: no $module"
done
mount -t ext4 /dev/vda /scratch &&
  mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=512000,cache=loose root /host &&
  share root / || {
  echo 'init: cannot mount the root'
  poweroff -f
}
for directory in proc sys dev; do mount --move /$directory /new/$directory; done
mount -t tmpfs -o mode=755 run /new/run
# Overlayfs cannot be the upper layer of another overlay, and state directories lie in /tmp.
mkdir -m 1777 /scratch/tmp
mount --bind /scratch/tmp /new/tmp
# The repository may lie in the /tmp that this hides.
share repository "$HATCH_REPOSITORY"
cp /command /new/run/command
exec switch_root /new /bin/bash "$HATCH_REPOSITORY/ops/vm/guest.sh"
