#!/usr/bin/env bash
# Creates .venv in the root of the repository with the exact versions of requirements.txt, and installs pano3d there.
# Called by `make setup`; run it again at any time: it resumes after an interruption and returns at once when nothing
# has changed. It writes to .venv, to the wheel cache ${XDG_CACHE_HOME:-$HOME/.cache}/pano3d/wheels and to pano3d/.mim
# (links, see setup.py), nowhere else. Needed: Linux, Python 3.11 with headers, a C++ compiler, a registry for pip.
#
# Settings (environment). The last four are remembered in .venv, so give them once; given others, .venv is made anew.
#   PYTHON       the Python 3.11 to use
#   CXX          the C++ compiler to use
#   MAX_JOBS     compilers at the same time, one per core unless told
#   TORCH_SPEC   what pip installs as PyTorch instead of the pinned version
#   TORCH_INDEX  a further package index for PyTorch only
#   SPCONV_SPEC  what pip installs as spconv instead of the pinned version, a CPU build
#   FORCE_CUDA   1: compile mmcv's CUDA operators too; needs nvcc of the CUDA version that PyTorch was built with, and
#                TORCH_CUDA_ARCH_LIST (such as 9.0) where no GPU is visible
#
# CPU: nothing to set; pip prefers a CPU build of PyTorch where it sees one. Where it sees none it fetches the CUDA
# build, some gigabytes more, which also runs without a GPU. To avoid that:
#   TORCH_INDEX=<PyTorch's index of CPU builds> make setup
# CUDA, two lines:
#   export TORCH_SPEC=torch==2.13.0+cu130 TORCH_INDEX=<PyTorch's index of builds for CUDA 13.0>
#   SPCONV_SPEC=spconv-cu120==2.3.6 FORCE_CUDA=1 make setup
# spconv-cu120 carries its own CUDA runtime, so it need not match PyTorch's.
#
# Why not simply `pip install -r`:
# * mmcv 2.1.0 (mmdet3d 1.4.0 refuses 2.2) has no wheel for this PyTorch and compiles with 2.13 at most: newer headers
#   need C++20, and mmcv's setup.py asks for C++17. Each of its source files includes all of PyTorch's headers; compiled
#   without care that is half an hour on two cores. With these headers precompiled it is three minutes. The compiler
#   ignores a precompiled header silently unless the flags are equal, so both compilations take them from FLAGS.
# * mmdet3d, nuscenes-devkit and lyft-dataset-sdk declare requirements that contradict each other and are not needed to
#   import them, so requirements.txt lists every package and is installed without dependency resolution.
# * pip must not cache the mmcv wheel itself: it would mistake one built for another PyTorch or without CUDA for it.

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
VENV=$ROOT/.venv
PYTHON_IN_VENV=$VENV/bin/python
LOG=$VENV/setup.log
STAMP=$VENV/pano3d-stamp
VARIANT=$VENV/pano3d-variant
PINS=$ROOT/requirements.txt
MMCV_INSTALLED=$VENV/mmcv-wheel
OTHER_PINS=$VENV/other-pins.txt
MIM=$ROOT/projects/Pano3D/pano3d/.mim
WHEELS=${XDG_CACHE_HOME:-$HOME/.cache}/pano3d/wheels
FLAGS='-O2 -g0 -w -fPIC -DNDEBUG'
STEPS=6
HEARTBEAT=10
NETWORK_ERRORS='NewConnectionError|ConnectTimeout|ConnectionError|ProxyError|Max retries|name resolution|Network is unreach'

fail() {
    echo "error: $*" >&2
    exit 1
}

# --- what is asked for -------------------------------------------------------------------------------------------

pin() { # pin NAME: its line in requirements.txt
    grep -E "^$1==" "$PINS" || fail "$PINS does not pin $1"
}

setting() { # setting NAME: from the environment, else as given when .venv was made
    if [ -n "${!1:-}" ]; then
        echo "${!1}"
    elif [ -f "$VARIANT" ]; then
        sed -n "s/^$1=//p" "$VARIANT"
    fi
}

describe_variant() {
    printf '%s=%s\n' TORCH_SPEC "$torch_spec" TORCH_INDEX "$torch_index" SPCONV_SPEC "$spconv_spec" \
        FORCE_CUDA "$force_cuda"
}

fingerprint() {
    {
        echo "$ROOT"
        describe_variant
        cat "$PINS" "$ROOT/setup.py" "$ROOT/projects/Pano3D/pano3d/version.py" "${BASH_SOURCE[0]}"
    } | sha256sum
}

# --- progress ----------------------------------------------------------------------------------------------------

step_number=0
heartbeat_pid=

step() { # step TITLE
    step_number=$((step_number + 1))
    step_start=$SECONDS
    echo "[$step_number/$STEPS] $1"
}

last_words() { # what the running command said last; for a compilation, how far it is
    tail -n 1 "$LOG" | sed -E 's/^ *\[([0-9]+)\/([0-9]+)\].*/\1 of \2 files compiled/; s/^ +//' | cut -c 1-90
}

heartbeat() {
    while sleep "$HEARTBEAT" >/dev/null 2>&1 && kill -0 $$ 2>/dev/null; do
        echo "      $((SECONDS - step_start)) s: $(last_words)"
    done
}

stop_heartbeat() {
    if [ -n "$heartbeat_pid" ]; then
        kill "$heartbeat_pid" 2>/dev/null || true
        wait "$heartbeat_pid" 2>/dev/null || true
        heartbeat_pid=
    fi
}

logged() { # logged COMMAND...: run it, its output into the log, a line of progress now and then
    local start_of_output status=0
    start_of_output=$(($(wc -l <"$LOG") + 1))
    echo "+ $*" >>"$LOG"
    heartbeat 9>&- &
    heartbeat_pid=$!
    "$@" >>"$LOG" 2>&1 </dev/null || status=$?
    stop_heartbeat
    [ "$status" -eq 0 ] && return
    if tail -n "+$start_of_output" "$LOG" | grep -qE "$NETWORK_ERRORS"; then
        fail "no network: pip cannot reach its registry; check connection, proxy and 'pip config list' (log: $LOG)"
    fi
    tail -n "+$start_of_output" "$LOG" | tail -n 15 >&2
    fail "step $step_number failed with exit status $status; run it again to resume (log: $LOG)"
}

pip() {
    PIP_RETRIES=${PIP_RETRIES:-2} "$PYTHON_IN_VENV" -m pip --disable-pip-version-check "$@"
}

pip_install() {
    logged pip install --progress-bar off "$@"
}

# --- the steps ---------------------------------------------------------------------------------------------------

find_python() { # sets `python`
    local candidate problem found=
    python=
    while read -r candidate; do
        problem=$("$candidate" - 2>/dev/null <<'EOF' || true
import sys
if sys.version_info[:2] != (3, 11):
    print('it is %d.%d' % sys.version_info[:2])
    sys.exit()
import importlib.util, os, sysconfig
if not importlib.util.find_spec('ensurepip'):
    print('it lacks venv: install python3.11-venv')
elif not os.path.exists(os.path.join(sysconfig.get_paths()['include'], 'Python.h')):
    print('it lacks headers: install python3.11-dev')
else:
    print('good')
EOF
        )
        if [ "$problem" = good ]; then
            python=$candidate
            return
        fi
        found="$found${found:+; }$candidate: ${problem:-it does not run}"
    done < <(if [ -n "${PYTHON:-}" ]; then echo "$PYTHON"; else type -ap python3.11 python3 python || true; fi)
    fail "Python 3.11 is needed; found ${found:-none}. Name one: make setup PYTHON=/path/to/python3.11"
}

find_compiler() { # sets and exports CXX
    local candidate
    local -a candidates=(c++ g++ clang++)
    [ -z "${CXX:-}" ] || candidates=("$CXX")
    for candidate in "${candidates[@]}"; do
        # shellcheck disable=SC2086  # it may be a launcher and a compiler
        if echo '#include <vector>' | $candidate -x c++ -fsyntax-only - 2>/dev/null; then
            export CXX=$candidate
            return
        fi
    done
    fail "a C++ compiler is needed; none of these works: ${candidates[*]}. Install g++ or name one: make setup CXX=..."
}

create_venv() {
    # A .venv from an interrupted set-up, of another variant or moved here from elsewhere is made anew.
    if ! [ -f "$VARIANT" ] || [ "$(cat "$VARIANT")" != "$(describe_variant)" ] ||
        ! "$PYTHON_IN_VENV" -c 'import pip, sys; assert sys.version_info[:2] == (3, 11)' 2>/dev/null ||
        ! grep -qF "$VENV" "$VENV/bin/activate"; then
        rm -rf "$VENV"
        "$python" -m venv "$VENV" || fail "$python cannot create a virtual environment"
        describe_variant >"$VARIANT"
    fi
    : >"$LOG"
}

build_mmcv() { # sets `wheel`, building it unless it is in the cache
    local torch_version platform key header includes
    torch_version=$("$PYTHON_IN_VENV" -c 'from importlib.metadata import version; print(version("torch"))')
    platform=$("$PYTHON_IN_VENV" -c 'import sys, sysconfig
print(sys.implementation.cache_tag + "-" + sysconfig.get_platform())')
    key=$(echo "$FLAGS $force_cuda ${TORCH_CUDA_ARCH_LIST:-}" | sha256sum | cut -c 1-8)
    key=$platform-torch$torch_version-$key
    wheel=$(compgen -G "$WHEELS/$key/mmcv-${mmcv_spec#*==}-*.whl" || true)
    [ -n "$wheel" ] && return

    build=$(mktemp -d)
    header=$build/torch_types.h
    printf '#include <%s>\n' torch/types.h vector map >"$header"
    includes=$("$PYTHON_IN_VENV" -c 'import sysconfig
from torch.utils.cpp_extension import include_paths
print(" ".join("-I" + path for path in [*include_paths(), sysconfig.get_paths()["include"]]))')
    # shellcheck disable=SC2086  # lists of flags
    logged $CXX $FLAGS $includes -std=c++17 -DTORCH_API_INCLUDE_EXTENSION_H -DTORCH_EXTENSION_NAME=_ext \
        -x c++-header "$header" -o "$header.gch"

    local -a settings=(MMCV_WITH_OPS=1 "FORCE_CUDA=$force_cuda" "MAX_JOBS=${MAX_JOBS:-$(nproc)}"
        "CFLAGS=$FLAGS -include $header")
    [ "$force_cuda" = 1 ] || settings+=(CUDA_VISIBLE_DEVICES=)
    logged env "${settings[@]}" "$PYTHON_IN_VENV" -m pip --disable-pip-version-check wheel --verbose --no-cache-dir \
        --no-deps --no-build-isolation --progress-bar off --wheel-dir "$build/wheel" "$mmcv_spec"
    mkdir -p "$WHEELS/$key"
    wheel=$WHEELS/$key/$(basename "$build"/wheel/*.whl)
    cp "$build"/wheel/*.whl "$wheel.partial" && mv "$wheel.partial" "$wheel"
    rm -rf "$build"
}

main() {
    torch_spec=$(setting TORCH_SPEC)
    torch_index=$(setting TORCH_INDEX)
    spconv_spec=$(setting SPCONV_SPEC)
    force_cuda=$(setting FORCE_CUDA)
    force_cuda=${force_cuda:-0}
    mmcv_spec=$(pin mmcv)

    # Two set-ups of one folder at the same time would spoil each other's .venv.
    if command -v flock >/dev/null; then
        exec 9<"$PINS"
        flock -n 9 || { echo 'waiting for another set-up of this folder to finish'; flock 9; }
    fi
    if [ "$(cat "$STAMP" 2>/dev/null)" = "$(fingerprint)" ] && [ -d "$MIM/configs" ] &&
        "$PYTHON_IN_VENV" -c '' 2>/dev/null; then
        echo 'environment: up to date'
        return
    fi
    build=
    trap 'stop_heartbeat; rm -rf ${build:+"$build"}' EXIT
    trap 'exit 130' INT TERM

    step 'Python 3.11 and a C++ compiler'
    find_python
    find_compiler
    if [ "$force_cuda" = 1 ] && ! command -v "${CUDA_HOME:+$CUDA_HOME/bin/}nvcc" >/dev/null; then
        fail 'FORCE_CUDA=1 needs nvcc; install the CUDA toolkit and set CUDA_HOME or PATH'
    fi
    echo "      $python, $CXX"

    step "virtual environment ${VENV#"$ROOT"/}"
    create_venv
    rm -f "$STAMP"
    grep -vE '^(torch|mmcv|spconv|cumm)==' "$PINS" >"$OTHER_PINS"

    step "${torch_spec:-$(pin torch)} and build tools (a large download)"
    pip_install --constraint "$OTHER_PINS" ${torch_index:+--extra-index-url "$torch_index"} \
        pip setuptools wheel ninja numpy "${torch_spec:-$(pin torch)}"
    echo "      done after $SECONDS s"

    step "$mmcv_spec: compile, about 4 minutes on 2 cores, or take from the cache $WHEELS"
    build_mmcv
    # pip takes a wheel of the version that is installed for that one, so tell it when it is another build.
    if [ "$(cat "$MMCV_INSTALLED" 2>/dev/null)" != "$wheel" ]; then
        pip_install --no-deps --force-reinstall "$wheel"
        echo "$wheel" >"$MMCV_INSTALLED"
    fi
    pip_install --no-deps "$wheel"
    echo "      done after $SECONDS s"

    step 'all other packages'
    pip_install --no-deps --requirement "$OTHER_PINS"
    pip_install --constraint "$OTHER_PINS" "${spconv_spec:-$(pin spconv)}"
    echo "      done after $SECONDS s"

    step 'pano3d itself (editable), and a test import of everything'
    pip_install --no-deps --no-build-isolation --editable "$ROOT"
    logged "$PYTHON_IN_VENV" -W ignore -c 'import cv2, embreex, pano3d
import mmcv.ops, mmdet, mmdet3d.datasets, mmdet3d.evaluation, mmdet3d.models, spconv.pytorch'
    fingerprint >"$STAMP"
    echo "      environment ready after $SECONDS s"
}

main
