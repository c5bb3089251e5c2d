#!/bin/sh
# Make the secret files that docker-compose.yml mounts; those that are there stay.   usage: secrets.sh [FOLDER]
# The folder is its owner's alone. In it the files may be read by all: a container's user is not you, and sees only those
# that its service is given.
set -eu
folder=${1:-secrets}
mkdir -p "$folder"
chmod 700 "$folder"
for name in redis_driver redis_dashboard redis_admin ray_token dashboard grafana_admin; do
  if [ -s "$folder/$name" ]; then continue; fi
  head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$folder/$name"
  chmod 444 "$folder/$name"
done
