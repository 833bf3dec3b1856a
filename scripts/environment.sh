# Sourced by the other scripts: makes the environments, once for each state of the pins.
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$ROOT"

find_uv() { # uv where it is, else from pip, into a folder of its own
    if command -v uv >/dev/null; then UV=uv; return; fi
    UV="$ROOT/.venv-tools/bin/uv"
    [ -x "$UV" ] && return
    echo "installing uv" >&2
    python3 -m pip install --quiet --target "$ROOT/.venv-tools" uv
}

environment() { # environment FOLDER LOCK PACKAGE... : an environment with the locked versions and our packages
    local folder="$1" lock="$2" stamp; shift 2
    stamp="$(cat "$lock" pyproject.toml on_device/pyproject.toml | sha256sum) $ROOT $*"
    [ -f "$folder/stamp" ] && [ "$(cat "$folder/stamp")" = "$stamp" ] && return
    find_uv
    echo "making $folder (once)" >&2
    "$UV" venv --quiet --clear --python "$(command -v python3)" "$folder"
    VIRTUAL_ENV="$folder" "$UV" pip install --quiet --compile-bytecode --requirement "$lock"
    VIRTUAL_ENV="$folder" "$UV" pip install --quiet --no-deps "$@"
    echo "$stamp" >"$folder/stamp"
}

cloud_environment() { environment "$ROOT/.venv" scripts/requirements.txt --editable . --editable on_device; }

on_device_as_it_is() { # on_device_as_it_is FOLDER : its copy of the device package is that of the sources
    local folder="$1" stamp
    stamp="$(find on_device/pocketstep_device -name '*.py' | LC_ALL=C sort | xargs cat | sha256sum)"
    [ -f "$folder/package" ] && [ "$(cat "$folder/package")" = "$stamp" ] && return
    find_uv
    VIRTUAL_ENV="$folder" "$UV" pip install --quiet --no-deps --reinstall-package pocketstep-device ./on_device
    echo "$stamp" >"$folder/package"
}

device_environment() {
    environment "$ROOT/.venv-device" scripts/requirements-device.txt ./on_device
    on_device_as_it_is "$ROOT/.venv-device"
}

tflite_environment() { # the predecessor of LiteRT, where a wheel exists for this Python (up to 3.11)
    python3 -c 'import sys; sys.exit(sys.version_info[:2] > (3, 11))' || return 0
    environment "$ROOT/.venv-tflite" scripts/requirements-tflite.txt ./on_device
    on_device_as_it_is "$ROOT/.venv-tflite"
}
