#!/usr/bin/env bash
# Runs the checks of README.md beside this file.
#
#   tests/threads/run.sh loom [TEST]       every schedule of the small parts
#   tests/threads/run.sh shuttle [TEST]    DLEDGER_SCHEDULES random schedules of whole nodes (100 each), from DLEDGER_SEED on
#   tests/threads/run.sh thread [TEST]     the test suite under the sanitizer of threads
#   tests/threads/run.sh address [TEST]    the test suite under the sanitizer of addresses
set -euo pipefail
cd "$(dirname "$0")/../.."

check() { # CFG MODULE TEST
  export RUSTFLAGS="--cfg $1" CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/$1"
  # The other tests of such a build have no checker around them.
  tests=$(cargo test --locked --quiet --lib -- --list | sed -n 's/: test$//p' | grep "::$2::" | grep -F -- "$3") ||
    { echo "there is no such test, or it does not compile" && exit 2; }
  # shellcheck disable=SC2086
  cargo test --locked --quiet --lib -- --exact $tests --nocapture
}

sanitize() { # SANITIZER FLAGS TEST [SKIPPED]
  export RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=$1 $2" CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/$1"
  export TSAN_OPTIONS="suppressions=$PWD/tests/threads/suppressions ${TSAN_OPTIONS:-}"
  # What a test prints is not captured: the runner would keep it under a mutex whose locking the sanitizer does not see.
  cargo test --locked --target x86_64-unknown-linux-gnu --lib --test cluster --test transport --test storage_conformance -- "$3" --nocapture ${4:+--skip "$4"}
}

case ${1:-} in
  loom) check loom loom_tests "${2:-}" ;;
  shuttle) check shuttle shuttle_tests "${2:-}" ;;
  thread) sanitize thread "--cfg tsan -Cunsafe-allow-abi-mismatch=sanitizer" "${2:-}" segmented::testing::crash_tests ;;
  address) sanitize address "" "${2:-}" ;;
  *) sed -n 's/^#   //p' "$0" && exit 2 ;;
esac
