#!/bin/sh
# Fill an image's /opt/venv.   usage: install.sh cpu|gpu packages|code
# Environment of the build: UV_VERSION; FIND_LINKS, the URL of a page with wheels of torch for CPUs (default: PyTorch's
# index). The optional build secret `ca` is the certificate bundle of this network's package index.
set -eu
extra=$1
what=$2
pins=deploy/install

if [ "$what" = code ]; then
  # setuptools is installed already: nothing is downloaded
  uv pip install --quiet --no-cache --no-deps --no-build-isolation --editable .
  exec python -m compileall -q .
fi

if [ -f /run/secrets/ca ]; then
  export PIP_CERT=/run/secrets/ca SSL_CERT_FILE=/run/secrets/ca
fi
backend=""
if [ -n "${FIND_LINKS:-}" ]; then
  export UV_FIND_LINKS="$FIND_LINKS"
elif [ "$extra" = cpu ]; then
  backend="--torch-backend=cpu"
fi

python3 -m venv /opt/venv
pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"
# Compiled now, because a container can't write there; copied, because the cache is not part of the image.
# shellcheck disable=SC2086
uv pip install --quiet --compile-bytecode --link-mode copy $backend --requirements pyproject.toml --extra "$extra" \
  --constraint "$pins/constraints-$extra.txt" --override "$pins/overrides-$extra.txt"
