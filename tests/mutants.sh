#!/usr/bin/env bash
# Mutants: bugs on purpose, one in each patch of tests/mutants, to see that the tests and the
# simulation find them. A mutant that nothing finds is a missing check. The patches are applied to a
# copy of the sources, one after the other; the first lines of a patch say what it breaks and by
# what it is caught.
#
#   tests/mutants.sh check              every patch applies, and what it makes compiles
#   tests/mutants.sh [--seeds N] [NAME ..]
#                                       catches the mutants whose file names contain a NAME, or all:
#                                       two minutes each, for each is a build of its own
#
# MUTANTS_PROFILE=dev builds simulations faster and runs them slower: for mutants that one of the
# first seeds shows.
set -euo pipefail
cd "$(dirname "$0")/.."

patches=$PWD/tests/mutants
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
copy=$target/mutants
seeds=5000
profile=${MUTANTS_PROFILE:-release}
if [ "${1:-}" = --seeds ]; then seeds=$2; shift 2; fi

# Copies what differs, so that only that is built again.
mkdir -p "$copy"
git ls-files -co --exclude-standard | grep -v '^tests/mutants/' | while read -r file; do
  [ -f "$file" ] || continue
  cmp -s "$file" "$copy/$file" || { mkdir -p "$copy/$(dirname "$file")" && cp "$file" "$copy/$file"; }
done

# `git apply` takes the copy for a part of this repository, unless it has one of its own.
[ -d "$copy/.git" ] || git init -q "$copy"
apply() { git -C "$copy" apply "$@"; }
build() { cargo "$1" --quiet --locked --manifest-path "$copy/Cargo.toml" --target-dir "$target" "${@:2}"; }

# All patches in as few builds as their places allow.
check() {
  local left=("$patches"/*.patch) applied deferred output
  while [ ${#left[@]} -gt 0 ]; do
    applied=() deferred=()
    for patch in "${left[@]}"; do
      if apply "$patch" 2> /dev/null; then applied+=("$patch"); else deferred+=("$patch"); fi
    done
    [ ${#applied[@]} -gt 0 ] || { printf 'does not apply: %s\n' "${deferred[@]}"; return 1; }
    printf 'compiling %s mutants at once\n' "${#applied[@]}"
    output=$(build check --lib --features sim 2>&1) || { echo "$output"; return 1; }
    for ((at = ${#applied[@]} - 1; at >= 0; at--)); do apply -R "${applied[$at]}"; done
    left=("${deferred[@]}")
  done
}

simulate() {
  local binary
  binary=$(build build --profile "$profile" --features sim --example simulate --message-format json |
    sed -n 's/.*"executable":"\([^"]*simulate\)".*/\1/p' | tail -1)
  timeout 900 "$binary" "$@" --seeds "0..$seeds" --stop-after 1
}

# Runs what is to catch the mutant. Succeeds, and says how, if it does.
is_caught_by() {
  local output
  local options=()
  [ "$1" != "simulation of hosts" ] || options=(--hosts)
  if [[ "$1" == simulation* ]]; then
    output=$(simulate "${options[@]}" 2> /dev/null) && return 1
    printf '  seed %s: %s\n' "$(sed -n 's/^seed \([0-9]*\):.*/\1/p' <<< "$output" | head -1)" \
      "$(sed -n 's/^VIOLATION //p' <<< "$output" | head -1 | cut -c1-80)"
  else
    # A mutant that does not compile is not caught: `check` tells.
    output=$(timeout 600 cargo ${1#cargo } --locked --manifest-path "$copy/Cargo.toml" \
      --target-dir "$target" 2>&1) && return 1
    grep -q '^error: could not compile' <<< "$output" && return 1
    printf '  %s\n' "$(sed -n 's/^test \(.*\) \.\.\. FAILED/\1/p' <<< "$output" | sort | head -3 |
      paste -sd ' ')"
  fi
}

catch() {
  local missed=0 patch by
  for patch in "$patches"/*.patch; do
    [ $# -eq 0 ] || grep -qF "$(printf '%s\n' "$@")" <<< "$(basename "$patch")" || continue
    apply "$patch"
    head -1 "$patch"
    while read -r by; do
      is_caught_by "$by" || { echo "  MISSED by: $by"; missed=1; }
    done < <(sed -n 's/^Caught by: //p' "$patch")
    apply -R "$patch"
  done
  return $missed
}

case "${1:-}" in
  check) check ;;
  *) catch "$@" ;;
esac
