# Runs as the first process of namespaces of its own: gives it a copy of this machine's files, which
# lives in memory, and becomes the systemd of it.
# machine.sh FOLDER CONSOLE PYTHON: FOLDER/units are the units to add, FOLDER/opt is /opt/esource, and
# PYTHON, where an interpreter is installed, is seen in that: it may be in a home folder.
set -eu
home=$1 console=$2 python=$3
root=$home/root
mount --make-rprivate /
mkdir -p "$home/layers" "$root"
mount -t tmpfs none "$home/layers"
mkdir "$home/layers/upper" "$home/layers/work"
mount -t overlay overlay \
    -o "lowerdir=/,upperdir=$home/layers/upper,workdir=$home/layers/work" "$root"
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,ro,bind "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
for name in run tmp dev; do mount -t tmpfs tmpfs "$root/$name"; done
for name in null zero full random urandom tty; do
    touch "$root/dev/$name"
    mount --bind "/dev/$name" "$root/dev/$name"
done
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
touch "$root/dev/console"
mount --bind "$console" "$root/dev/console"
if [ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ]; then
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
else
    mount -t tmpfs tmpfs "$root/sys/fs/cgroup"
    mkdir "$root/sys/fs/cgroup/unified" "$root/sys/fs/cgroup/systemd"
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup/unified"
    mount -t cgroup -o none,name=systemd cgroup "$root/sys/fs/cgroup/systemd"
    # Or it would mount the controllers, too, and leave groups in those of the machine below.
    mount -o remount,ro "$root/sys/fs/cgroup"
fi
cp "$home"/units/* "$root/etc/systemd/system/"
mkdir -p "$root/opt/esource"
mount --bind "$home/opt" "$root/opt/esource"
mount --bind "$python" "$root/opt/esource/python"
mkdir "$root/checkout"
mount --bind "$home/checkout" "$root/checkout"
cd "$root"
pivot_root . .  # not chroot alone: systemd mounts things for its services, and asks where they are
umount --lazy .
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    chroot . /lib/systemd/systemd --system --unit=machine.target --show-status=no
