#!/bin/sh
# Create the secret files that docker-compose.yml mounts; existing ones are kept.   usage: secrets.sh [FOLDER]
# Only its owner can enter the folder. The files in it are readable by all users, because a container runs as another user
# than you; it sees only the files of its service.
set -eu
folder=${1:-secrets}
mkdir -p "$folder"
chmod 700 "$folder"
for name in redis_driver redis_dashboard redis_admin ray_token dashboard grafana_admin; do
  if [ -s "$folder/$name" ]; then continue; fi
  head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$folder/$name"
  chmod 444 "$folder/$name"
done
