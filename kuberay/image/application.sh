#!/usr/bin/env bash
# Puts flts-ray itself into a prefix made by dependencies.sh.
#
#   application.sh SOURCE PREFIX [ROOT]
#
# With ROOT nothing is written to the prefix: the files are laid under ROOT as they belong under /, which makes the
# small layer of the image that a change of code replaces.
set -euo pipefail
source=$1 prefix=$2 root=${3:-}
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Building leaves files behind, and what lies in a checkout besides must not get into the wheel.
cp -R "$source"/{pyproject.toml,README.md,LICENSE,flts_ray,jobs,serve} "$work"
find "$work" -name __pycache__ -prune -exec rm -rf {} +
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-315532800} # 1980, the first date that a zip file can hold
pip=("$python" -m pip --python "$prefix/bin/python")
"${pip[@]}" wheel --quiet --no-deps --no-index --no-build-isolation --wheel-dir "$work/dist" "$work"
# By name: of a file, pip would note the path, which is another one in each build.
"${pip[@]}" install --quiet --no-deps --no-index --no-compile --ignore-installed --no-warn-script-location \
  ${root:+--root "$root"} --find-links "$work/dist" flts-ray

cd "$root$prefix"/lib/python3.*/site-packages
"$prefix/bin/python" -m compileall -q --invalidation-mode unchecked-hash flts_ray jobs serve
