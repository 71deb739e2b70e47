#!/bin/sh
# Stand-in for the entry point of the SeaweedFS image: gives /data to its user of id 1000, becomes that user, and adds the image's
# own options of `server`.
if [ "$(id -u)" = 0 ]; then
  chown -R 1000:1000 /data
  exec setpriv --reuid=1000 --regid=1000 --clear-groups "$0" "$@"
fi
shift # server
exec weed -logtostderr=true server -dir=/data -volume.max=0 -master.volumeSizeLimitMB=1024 "$@"
