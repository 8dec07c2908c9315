#!/bin/busybox sh
# PID 1 of the VM until its root is there: this machine's own root, read-only, below a scratch disk
# for what is written. Then ops/vm/guest.sh goes on. The kernel passes HATCH_REPOSITORY along.
export PATH=/bin
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /host /scratch /new
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do
  insmod "$module" || echo "init: no $module"
done
mount -t ext4 /dev/vda /scratch &&
  mkdir -p /scratch/upper /scratch/work /scratch/tmp &&
  mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=512000,cache=loose root /host &&
  mount -t overlay -o lowerdir=/host,upperdir=/scratch/upper,workdir=/scratch/work root /new || {
  echo 'init: cannot mount the root'
  poweroff -f
}
for directory in proc sys dev; do mount --move /$directory /new/$directory; done
mount -t tmpfs -o mode=755 run /new/run
# Overlayfs cannot be the upper layer of another overlay, and state directories lie in /tmp.
mount --bind /scratch/tmp /new/tmp
chmod 1777 /new/tmp
cp /command /new/run/command
exec switch_root /new /bin/bash "$HATCH_REPOSITORY/ops/vm/guest.sh"
