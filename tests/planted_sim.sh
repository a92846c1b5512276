#!/usr/bin/env bash
# Plants every bug of src, one after the other, and simulates clusters with it until one shows that something is wrong. Prints how many seeds that
# took, and at the end the median and the worst. A bug that no seed shows is a missing check, unless it is listed below with the reason.
#
#   tests/planted_sim.sh [--seeds MAX] [NAME]
set -euo pipefail
cd "$(dirname "$0")/.."

seeds=5000
if [ "${1:-}" = --seeds ]; then seeds=$2; shift 2; fi

binary=$(RUSTFLAGS="--cfg planted" cargo build --quiet --release --features sim --example simulate --message-format json \
  --target-dir "${CARGO_TARGET_DIR:-target}/planted" | sed -n 's/.*"executable":"\([^"]*simulate\)".*/\1/p' | tail -1)

# What a simulation cannot show, or hardly: the storage's own tests (tests/planted.sh) find all of these.
beyond=(
  # Both copies of a state must be torn in the same power cut, each in the middle of a sector, and in the few bytes that differ.
  "the last durable slot is written over"
  "the newest slot is written over"
  # Of two unsynced records only the second must survive a power cut, the first come again as it was, and the power fail before anything follows it.
  "writes go on behind a torn record"
  # A power cut must leave a record of a log that was begun anew, and not the state that says where.
  "a base is looked for in a segment"
  # A power cut must leave a state and not the tail that was written before it, where an older tail had been cut off: one seed in ten thousand.
  "a commit outlives the batches that it speaks of"
  # A deposed leader must be asked again what it has answered, and then hear an old answer: one seed in ten thousand. A script of the replica shows it.
  "a question that comes again is the same"
  # What was recovered must be damaged before anything is synced behind it: one seed in thousands. The trials of the storage flip every bit of it.
  "what is found has no witness"
  # A sync of the watermark must fail, then the last batch be damaged, and then the power fail: two seeds in a hundred thousand. A trial stages it.
  "what bears witness to damage is not written once more"
  # A newer segment that lost its place must stay, and the log end in an older one that has room.
  "writes go on in a segment that a dead one beats"
  # A node must lose its disk twice, and an answer to its first life reach the second. A test of the questions shows it.
  "any answer of a peer is one to this question"
)
is_beyond() { local name; for name in "${beyond[@]}"; do [ "$name" = "$1" ] && return; done; return 1; }

DLEDGER_PLANTED="" "$binary" --seeds 0..200 --stop-after 1 > /dev/null || { echo "there are violations without any planted bug"; exit 1; }

missed=0
needed=()
while read -r name; do
  is_beyond "$name" && continue
  if found=$(DLEDGER_PLANTED="$name" timeout 900 "$binary" --seeds "0..$seeds" --stop-after 1 2> /dev/null); then
    echo "MISSED in $seeds seeds: $name"
    missed=1
  else
    seed=$(sed -n 's/^seed \([0-9]*\):.*/\1/p' <<< "$found" | head -1)
    # A run that ends the process, or goes on for ever, has no report.
    needed+=("$((${seed:-0} + 1))")
    printf '%5s  %s: %s\n' "$((${seed:-0} + 1))" "$name" "$(sed -n 's/^VIOLATION //p' <<< "$found" | head -1 | cut -c1-90)"
  fi
done < <(grep -rho 'planted!("[^"]*")' src | sed 's/planted!("\(.*\)")/\1/' | grep -F -- "${1:-}" | sort -u)

if [ ${#needed[@]} -gt 0 ]; then
  sorted=($(printf '%s\n' "${needed[@]}" | sort -n))
  echo "${#needed[@]} bugs found; seeds needed: median ${sorted[$((${#sorted[@]} / 2))]}, worst ${sorted[-1]}"
fi
exit $missed
