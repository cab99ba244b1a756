#!/usr/bin/env bash
# Fills a prefix with what flts-ray stands on, from the lock files beside this one. The Dockerfile runs it, and so does
# check.sh where there is no container engine.
#
#   dependencies.sh PREFIX cpu|cuda
#
# PYTHON       interpreter that the prefix stands on (python3)
# TORCH_INDEX  where to look for PyTorch. CPU builds have an index of their own; those for CUDA are on PyPI.
set -euo pipefail
prefix=$1 variant=$2
locks=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
case $variant in
cpu) index=${TORCH_INDEX:-https://download.pytorch.org/whl/cpu} ;;
cuda) index=${TORCH_INDEX:-} ;;
*) echo "dependencies.sh: variant $variant: cpu or cuda is known" >&2 && exit 2 ;;
esac

"$python" -m venv --without-pip "$prefix"
# The locks name every package, so nothing is resolved; a file whose hash is not in them is refused, whoever serves it.
install() {
  "$python" -m pip --python "$prefix/bin/python" install --quiet --no-cache-dir --no-compile --no-deps \
    --only-binary :all: --require-hashes "$@"
}
install --requirement "$locks/requirements.txt"
install ${index:+--index-url "$index"} --requirement "$locks/torch-$variant.txt"

# Parts of wheels that only building against them, testing them or Java needs: a sixth of the whole.
cd "$prefix"/lib/python3.*/site-packages
rm -rf torch/include torch/test pyarrow/include ray/jars
find torch/bin -type f ! -name torch_shm_manager -delete
find . -type d -name tests -prune -exec rm -rf {} +
find . -name '*.a' -delete

# The image is read-only, so Python could not keep what it compiles and each worker would compile all of it anew.
# Without times inside, the files are the same in every build. One file of torch is written for a newer Python.
"$prefix/bin/python" -m compileall -q -j 0 --invalidation-mode unchecked-hash -x py312_intrinsics .
