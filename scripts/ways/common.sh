# Sourced by the ways: a folder for what they make, the wheels, and environments that have nothing but those.
. "$(dirname "${BASH_SOURCE[0]}")/../environment.sh"
WAYS="${WAYS:-$ROOT/build/ways}"
PYTHON="${PYTHON:-$(command -v python3)}"
mkdir -p "$WAYS"
find_uv

say() { printf '\n$ %s\n' "$*" >&2; "$@"; }

wheels() { # both packages, built from the sources as they are
    rm -rf "$WAYS/dist"
    "$UV" build --quiet --out-dir "$WAYS/dist" "$ROOT"
    "$UV" build --quiet --out-dir "$WAYS/dist" "$ROOT/on_device"
}

wheel() { ls "$WAYS/dist/$1"-[0-9]*.whl; }

fresh() { # fresh NAME PACKAGE... : a new environment with these and what they need
    local folder="$WAYS/$1"; shift
    "$UV" venv --quiet --clear --python "$PYTHON" "$folder"
    VIRTUAL_ENV="$folder" "$UV" pip install --quiet "$@"
}

device() { # device NAME EXTRAS : what a board has, a runtime and the device package
    fresh "$1" "pocketstep-device[$2] @ file://$(wheel pocketstep_device)"
}

pipeline() { # pipeline NAME : what a data scientist has, pocketstep
    fresh "$1" "pocketstep @ file://$(wheel pocketstep)" "pocketstep-device[pictures] @ file://$(wheel pocketstep_device)"
}

cloud() { # the wheels and an environment with both, made once
    [ -x "$WAYS/cloud/bin/pocketstep" ] && return
    wheels
    pipeline cloud
}

network() { # the user's own network and pictures
    [ -f "$WAYS/own/weights.safetensors" ] && return
    mkdir -p "$WAYS/own"
    cp "$ROOT/scripts/ways/network.py" "$WAYS/own/"
    (cd "$WAYS/own" && say "$WAYS/cloud/bin/python" network.py .)
}

bundle() { # the user's own bundle
    [ -d "$WAYS/own/own.bundle" ] && return
    (cd "$WAYS/own" && PATH="$WAYS/cloud/bin:$PATH" && say pocketstep export --model network:make --weights weights.safetensors \
        --input 3,64,64 --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5 --classes names.txt --images pictures/known --plan centre \
        --cut features.6 --runtime litert -o own.bundle)
}
