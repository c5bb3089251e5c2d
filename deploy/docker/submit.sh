#!/bin/sh
# Submit a recipe and follow it.   usage: submit.sh cpu|gpu RECIPE [options of `tributary submit`]
# An empty RECIPE is the demo for the image's variant.
set -eu
variant=$1 recipe=$2
shift 2
if [ -z "$recipe" ]; then
  recipe=demo
  [ "$variant" != gpu ] || recipe=demo-gpu
fi
exec tributary submit "$recipe" "$@"
