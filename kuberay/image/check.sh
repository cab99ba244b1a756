#!/usr/bin/env bash
# Tests the image on a machine without a container engine: fills a clean prefix by the scripts that the Dockerfile runs,
# and checks it as `docker run IMAGE check` would. Needs Python 3.11 and the package index; about 2 GB of disk.
#
#   check.sh [CHECK…]
#
# PYTHON, VARIANT (cpu), TORCH_INDEX  as dependencies.sh has them
# PREFIX                              where to; kept. Otherwise a temporary one
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
prefix=${PREFIX:-$scratch/venv}

# Root's own Python is out of reach for the user that the checks run as.
if [ -z "${PYTHON:-}" ] && [ "$(id -u)" = 0 ] && [ -x /usr/bin/python3.11 ]; then PYTHON=/usr/bin/python3.11; fi
export PYTHON=${PYTHON:-python3}

begun=$SECONDS
if [ ! -e "$prefix/bin/flts" ]; then
  bash "$here/dependencies.sh" "$prefix" "${VARIANT:-cpu}"
  bash "$here/application.sh" "$here/../.." "$prefix"
fi
echo "install   ok     $(printf %5d $((SECONDS - begun))) s  in $prefix"

# What the Dockerfile lays to /opt/flts, and a home.
mkdir "$scratch/flts" "$scratch/home"
cp "$here"/{check_image.py,requirements.txt,torch-*.txt} "$scratch/flts"
user=()
if [ "$(id -u)" = 0 ]; then
  chown 1000:1000 "$scratch/home"
  chmod 755 "$scratch"
  user=(setpriv --reuid 1000 --regid 1000 --clear-groups)
fi
cd "$scratch/home"
# Nothing of the caller's environment: what works must work by what the image has.
"${user[@]}" env -i PATH="$prefix/bin:/usr/bin:/bin" HOME="$scratch/home" LANG=C.UTF-8 PYTHONUNBUFFERED=1 \
  PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1 MPLCONFIGDIR=/tmp/matplotlib XDG_CACHE_HOME=/tmp/.cache \
  GIT_PYTHON_REFRESH=quiet \
  MLFLOW_DISABLE_TELEMETRY=true RAY_USAGE_STATS_ENABLED=0 FLTS_BUILD_ID=check \
  python "$scratch/flts/check_image.py" "$@"
