#!/usr/bin/env bash
# Builds or exports a bundle and validates it where a CI can: this machine, emulated aarch64, an Android emulator.
# Copy it beside your model and change the first block. What the workflow runs, you can run by hand:
#   ./validate.sh bundle     makes $BUNDLE
#   ./validate.sh boards     host and emulated aarch64 (system packages: qemu-user-static, apt, dpkg)
#   ./validate.sh android    the device or emulator that adb sees (needs the validator APK)
set -euo pipefail
BUNDLE="${BUNDLE:-mugs.bundle}"           # where it is or shall be
EXPORT="${EXPORT:-}"                      # how it is made, e.g. pocketstep export --model … -o "$BUNDLE"
TARGETS="${TARGETS:-host emulator}"       # what `boards` runs on
OUT="${OUT:-validation}"                  # reports
BASELINE="${BASELINE:-}"                  # an earlier report's JSON: what grew fails

run() { # run NAME TARGET... : validates, keeps every report; the exit code is pocketstep's
    local name="$1" options=(); shift
    for target in "$@"; do options+=(--target "$target"); done
    [ -n "$BASELINE" ] && options+=(--baseline "$BASELINE")
    pocketstep validate "$BUNDLE" "${options[@]}" --timeout 900 --json \
        --junit "$OUT/$name.xml" --html "$OUT/$name.html" --markdown "$OUT/$name.md" >"$OUT/$name.json"
}

mkdir -p "$OUT"
case "${1:-boards}" in
    bundle) [ -n "$EXPORT" ] || { echo "set EXPORT to the command that makes $BUNDLE" >&2; exit 2; }; eval "$EXPORT" ;;
    boards) read -ra targets <<<"$TARGETS"; run boards "${targets[@]}" ;;
    android) run android "adb${ANDROID_SERIAL:+:$ANDROID_SERIAL}" ;;
    *) echo "usage: $0 bundle | boards | android" >&2; exit 2 ;;
esac
