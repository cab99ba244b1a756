#!/usr/bin/env bash
# Writes what the image installs, with the hash of every file: constraints.txt narrowed to what runs in a cluster.
# `make lock` ends with it. Needs uv (`pip install uv`). TORCH_CPU_WHEELS names a folder with PyTorch's CPU wheel where
# its index cannot be reached.
set -euo pipefail
cd "$(dirname "$0")/../.."

compile() { # FILE SOURCE [OPTION…]
  local file=kuberay/image/$1 source=$2
  shift 2
  uv pip compile "$source" --output-file "$file" --constraint constraints.txt --python-version 3.11 \
    --python-platform linux --only-binary :all: --generate-hashes --no-annotate --no-header --quiet --upgrade \
    "$@" >/dev/null
  sed -i '1i # Written by lock.sh.' "$file"
}

cpu=(--index https://download.pytorch.org/whl/cpu --index-strategy unsafe-best-match)
[ -z "${TORCH_CPU_WHEELS:-}" ] || cpu=(--find-links "$TORCH_CPU_WHEELS")

# Everything but PyTorch, which comes in two builds. Its CPU build decides here what else it needs.
torch=$(grep '^torch==' constraints.txt)
compile requirements.txt pyproject.toml --extra server "${cpu[@]}" --no-emit-package torch \
  --override <(echo "$torch+cpu")

common=()
while read -r name; do common+=(--no-emit-package "$name"); done \
  < <(sed -n 's/^\([a-z0-9-]*\)==.*/\1/p' kuberay/image/requirements.txt)

compile torch-cpu.txt <(echo "$torch+cpu") "${cpu[@]}" "${common[@]}"
compile torch-cuda.txt <(echo "$torch") "${common[@]}"
