#!/bin/sh
# Make a virtual environment with everything pinned.   usage: setup.sh VENV cpu|gpu
set -eu
venv=$1
extra=$2
here=deploy/install

python=""
for candidate in ${PYTHON:-} python3.11 python3.12 python3; do
  if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [ -z "$python" ]; then
  echo "No Python 3.11 or 3.12 found. Install one (for example: apt install python3.11 python3.11-venv), or name it: make PYTHON=/path/to/python3.11 ..." >&2
  exit 1
fi

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
if command -v uv >/dev/null 2>&1; then
  uv=uv
else
  [ -x "$venv/bin/uv" ] || "$venv/bin/pip" install --quiet --disable-pip-version-check uv
  uv=$venv/bin/uv
fi

# The CPU build of torch comes from the wheel folder that PIP_FIND_LINKS names, where it is set; else from PyTorch's own index.
if [ "$extra" = cpu ] && [ -n "${PIP_FIND_LINKS:-}" ]; then
  UV_FIND_LINKS=$PIP_FIND_LINKS
  export UV_FIND_LINKS
  backend=""
elif [ "$extra" = cpu ]; then
  backend="--torch-backend=cpu"
else
  backend="--torch-backend=auto"
fi
[ -z "${PIP_CERT:-}" ] || export SSL_CERT_FILE="${SSL_CERT_FILE:-$PIP_CERT}"

echo "Installing tributary[$extra,dev] into $venv ..."
# shellcheck disable=SC2086
"$uv" pip install --quiet --python "$venv/bin/python" $backend \
  --constraint "$here/constraints-$extra.txt" --override "$here/overrides.txt" --editable ".[$extra,dev]"
