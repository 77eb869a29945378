#!/bin/sh
# The first process of a second kernel whose root is this machine's, for reading only: mounts what a program wants of a
# kernel, keeps all that is written in memory, runs one test file and switches the kernel off.
#
# kernel_init.sh TOKEN PROJECT KEPT PYTHON FILE KEYWORD, and what the kernel adds; KEPT is a list with colons of what
# lies below /tmp and is needed there, "-" for nothing. It ends with a line "TOKEN CODE": a kernel has no exit code.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1
token=$1 project=$2 kept=${3#-} python=$4 file=$5 keyword=$6

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mountpoint -q /dev || mount -t devtmpfs dev /dev
ln -s /proc/self/fd /dev/fd
mkdir -p /dev/shm
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=0755 run /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo +memory >/sys/fs/cgroup/cgroup.subtree_control

mkdir -p /run/modules/lib /run/tmp # user-mode-linux has IPv6 in a module
ln -s /usr/lib/uml/modules /run/modules/lib/modules
modprobe -q -d /run/modules ipv6

mount -t tmpfs -o mode=1777 tmp /run/tmp
IFS=:
for each in $kept; do
    mkdir -p "/run$each"
    mount --bind "$each" "/run$each"
done
unset IFS
mount --rbind /run/tmp /tmp

cd "$project" && "$python" -m pytest -rA --color=no -p no:cacheprovider -p no:randomly -m long -k "$keyword" "$file"
echo "$token $?"
sync
echo o >/proc/sysrq-trigger
exec sleep 60 # the kernel goes off beside this
