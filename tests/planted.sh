#!/usr/bin/env bash
# Plants every bug of src/storage/segmented, one after the other, and demands that the tests of the storage find it. A bug that nothing
# finds is a missing test.
#
#   tests/planted.sh [NAME]
set -euo pipefail
cd "$(dirname "$0")/.."

binary=$(cargo rustc --quiet --lib --profile test --message-format json -- --cfg planted |
  sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -1)
suite() { RUST_BACKTRACE=0 "$binary" storage::segmented::trials 2>&1; }

suite > /dev/null || { echo "the tests fail without any planted bug"; exit 1; }

missed=0
while read -r name; do
  if found=$(DLEDGER_PLANTED="$name" timeout 300 bash -c "$(declare -f suite); binary='$binary'; suite"); then
    echo "MISSED: $name"
    missed=1
  else
    tests=$(sed -n 's/^test storage::segmented::trials::\(.*\) \.\.\. FAILED/\1/p' <<< "$found" | sort | head -3 | paste -sd ' ')
    echo "$name: ${tests:-it hangs or ends the process}"
  fi
done < <(grep -rho 'planted!("[^"]*")' src/storage/segmented | sed 's/planted!("\(.*\)")/\1/' | grep -F -- "${1:-}" | sort -u)
exit $missed
