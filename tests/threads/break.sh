#!/usr/bin/env bash
# Breaks the code on purpose, one fault after the other, in a copy of it, and demands that the checks of threads see each. A fault that nothing sees is
# a missing test.
#
#   tests/threads/break.sh [FILE]    only those in files whose path contains FILE
set -euo pipefail
cd "$(dirname "$0")/../.."

only=${1:-}
export CARGO_TARGET_DIR="$(realpath -m "${CARGO_TARGET_DIR:-target}")"
export DLEDGER_SEED=1 DLEDGER_SCHEDULES=${DLEDGER_SCHEDULES:-300}
copy="$CARGO_TARGET_DIR/broken"
rm -rf "$copy" && mkdir -p "$copy" && cp -r Cargo.toml Cargo.lock README.md src tests examples benches "$copy"
missed=0 faults=0

# Runs the tests of CHECKER that stand under TEST, in the copy.
check() { # CHECKER TEST
  case $1 in
    threads) (cd "$copy" && cargo test --locked --quiet --lib --test cluster -- "$2") ;;
    *) "$copy/tests/threads/run.sh" "$1" "$2" ;;
  esac
}
export -f check
export copy

# fault CHECKER TEST FILE OLD NEW: replaces the first OLD in src/FILE. The checker is one of run.sh, or `threads`: those tests of the suite where
# threads of the operating system meet.
fault() {
  local checker=$1 test=$2 file=src/$3 old=$4 new=$5
  [[ $file == *"$only"* ]] || return 0
  faults=$((faults + 1))
  cp "$file" "$copy/$file"
  local outcome=0 change="$file: \`$old\` -> \`$new\`"
  if ! OLD=$old NEW=$new perl -0pi -e '$found = s/\Q$ENV{OLD}\E/$ENV{NEW}/; END { exit !$found }' "$copy/$file"; then
    echo "GONE: $file has no \`$old\`" && missed=1
  else
    timeout 600 bash -c 'check "$@"' check "$checker" "$test" > "$copy/output" 2>&1 || outcome=$?
    if ((outcome == 0)); then
      echo "MISSED: $change" && missed=1
    elif ((outcome == 124)); then
      echo "NO END in ten minutes: $change" && missed=1
    elif grep -q -e 'could not compile' -e 'no such test' "$copy/output"; then
      echo "NO CODE: $change" && missed=1
    else
      echo "seen by $checker: $change: $(sed -n 's/^test .*:://; s/ \.\.\. FAILED//p; s/^    .*::\([a-z_]*\)$/\1/p' "$copy/output" | sort -u | head -3 | paste -sd ' ')"
    fi
  fi
  cp "$file" "$copy/$file"
}

fault loom watermark watermark.rs 'self.end.store(end, Ordering::SeqCst)' 'self.end.store(end, Ordering::Relaxed)'
fault loom watermark watermark.rs 'self.waiters.load(Ordering::SeqCst) > 0' 'self.waiters.load(Ordering::SeqCst) > 1'
fault loom watermark watermark.rs 'let mut here = self.position.lock();' 'self.wake.notify_all(); self.waiters.store(0, Ordering::SeqCst); let mut here = self.position.lock();'
fault loom watermark watermark.rs 'drop(held);
        self.wake.notify_all();' 'drop(held);'
fault loom watermark watermark.rs 'while self.end() <= index && !self.is_closed() {' 'let mut once = true; while std::mem::take(&mut once) || self.end() <= index && !self.is_closed() {'
fault loom future future.rs 'self.committed.store(term, Ordering::Release)' 'self.committed.store(term, Ordering::Relaxed)'
fault loom future future.rs 'if state.outcome.is_some() {' 'if false {'
fault loom future future.rs 'Some(at) => state.wakers[at].clone_from(waker)' 'Some(_) => {}'
fault loom future future.rs 'self.wake.notify_all();' ''
fault loom future future.rs 'if let Some(outcome) = &state.outcome {
                return outcome.clone();
            }
            self.wake.wait(&mut waiting);' 'self.wake.wait(&mut waiting);
            if let Some(outcome) = &waiting.outcome {
                return outcome.clone();
            }'
fault loom threads spin.rs 'return Some(result);' 'drop(result); return None;'
fault loom segment storage/segmented/segment.rs 'self.published.store(count, Ordering::Release)' 'self.published.store(count, Ordering::Relaxed)'
fault loom segment storage/segmented/segment.rs 'self.published.load(Ordering::Acquire)' 'self.published.load(Ordering::Relaxed)'
fault loom sequencer sequencer.rs 'queue.waiters > 0' 'queue.waiters > 1'
fault loom sequencer sequencer.rs 'queue.waiters += 1;' ''
fault loom sequencer sequencer.rs 'if was_empty {' 'if !was_empty {'
fault loom sequencer sequencer.rs 'if was_empty {' 'if true {'
fault loom sequencer sequencer.rs 'if let Err(error) = self.admit(&mut queue, cost, deadline) {
            return AppendFuture::refused(error);
        }
        let was_empty = queue.batches.is_empty();' 'let was_empty = queue.batches.is_empty();
        if let Err(error) = self.admit(&mut queue, cost, deadline) {
            return AppendFuture::refused(error);
        }'
fault loom sequencer sequencer.rs 'queue.gate = Gate::Closed(error.clone());
        drop(queue);
        self.room.notify_all();' 'queue.gate = Gate::Closed(error.clone());
        drop(queue);'
fault loom sequencer sequencer.rs 'queue.gate = Gate::Open;
        drop(queue);
        self.room.notify_all();' 'queue.gate = Gate::Open;
        drop(queue);'
fault loom threads threads.rs 'number: older.number.max(newer.number), ..newer' 'number: older.number.max(newer.number), ..older'
fault loom link transport/tcp/link.rs 'if queue.waiting.len() == 1 {' 'if queue.waiting.len() == 2 {'
fault loom link transport/tcp/link.rs 'queue.stopped = true;
        queue.hang_up();
        self.wake.notify_one();' 'queue.stopped = true;
        queue.hang_up();'
fault loom link transport/tcp/link.rs 'self.bytes == 0 && self.connected_to' 'self.waiting.is_empty() && self.connected_to'
fault loom link transport/tcp/link.rs 'if len <= DIRECT_BYTES_MAX && queue.is_idle() {' 'if len <= DIRECT_BYTES_MAX {'
fault loom link transport/tcp/link.rs 'queue.bytes += len;
                queue.rest' 'queue.rest'
fault loom link transport/tcp/link.rs 'queue.rest = frame.slice(written..);
                self.wake.notify_one();' 'queue.rest = frame.slice(written..);'
fault loom link transport/tcp/link.rs 'queue.waiting.is_empty() && queue.rest.is_empty()' 'queue.waiting.is_empty()'
fault loom link transport/tcp/link.rs 'say(stream, &rest)?;
            write_batch(stream, &batch)?;' 'write_batch(stream, &batch)?;
            say(stream, &rest)?;'
fault loom link transport/tcp/link.rs 'queue.rest.clear();' ''

fault shuttle '' threads.rs 'self.ended.notify_all();' ''
fault shuttle '' threads.rs 'while !roster.at_work.is_empty() {' 'while false {'
fault shuttle '' threads.rs 'self.crew.roster.lock().engine == Some(thread::current().id())' 'false'
fault shuttle '' threads.rs 'unwrap_or_else(|panic| Err(StorageError::Poisoned(format!("a sync panicked: {}", panic_text(&*panic)))))' 'unwrap_or(Ok(()))'
fault shuttle '' engine.rs 'self.shared.sequencer.release(batch.cost);
        batch.completion' 'batch.completion'
fault shuttle '' engine.rs 'self.shared.watermark.close();' ''
fault shuttle '' engine.rs 'self.resolve_all(AppendError::Failed { reason: reason.to_owned() }, &BarrierError::Failed { reason: reason.to_owned() });' ''

fault threads primitives::broadcast primitives/broadcast.rs 'self.0.notify_all();' 'self.0.notify_one();'
fault threads primitives::broadcast primitives/broadcast.rs 'self.0.lock().unwrap_or_else(PoisonError::into_inner)' 'self.0.lock().unwrap()'
fault threads recycled storage/segmented/retention.rs 'stretch.segment.once_sealed(directory, seal)' 'Segment::sealed(directory, seal)'
fault threads recycled storage/segmented/spare.rs 'Arc::into_inner(segment).is_some_and(Segment::ends_unread)' '{ drop(segment); true }'
fault threads recycled storage/segmented/spare.rs 'Arc::into_inner(segment).is_some_and(Segment::ends_unread)' 'Arc::into_inner(segment).is_some()'
fault threads recycled storage/segmented/segment.rs 'self.earlier.iter().chain(&now).all' 'self.earlier.iter().all'

echo "$faults faults in $SECONDS s"
exit $missed
