#!/usr/bin/env bash
# Breaks the code on purpose, one fault after the other, in a copy of it, and demands that the
# checks of threads see each. A fault that nothing sees is a missing test.
#
#   tests/threads/break.sh [FILE]    only those in files whose path contains FILE
#   tests/threads/break.sh check     builds nothing: every fault still finds the code that it breaks
set -euo pipefail
cd "$(dirname "$0")/../.."
export LC_ALL=C # bytes are found faster than characters are

only=${1:-} mode=break
if [[ $only == check ]]; then only='' mode=check; fi
missed=0 faults=0

if [[ $mode == break ]]; then
  CARGO_TARGET_DIR="$(realpath -m "${CARGO_TARGET_DIR:-target}")"
  export CARGO_TARGET_DIR
  export DLEDGER_SEED=1 DLEDGER_SCHEDULES=${DLEDGER_SCHEDULES:-300}
  export copy="$CARGO_TARGET_DIR/broken"
  rm -rf "$copy" && mkdir -p "$copy"
  cp -r Cargo.toml Cargo.lock README.md src tests examples benches "$copy"
fi

# Runs the tests of CHECKER that stand under TEST, in the copy.
run_checker() { # CHECKER TEST
  case $1 in
    threads) (cd "$copy" && cargo test --locked --quiet --lib --test cluster -- "$2") ;;
    *) "$copy/tests/threads/run.sh" "$1" "$2" ;;
  esac
}
export -f run_checker

# fault CHECKER TEST FILE OLD NEW: replaces OLD in src/FILE, where it stands exactly once: so it is
# never another place that breaks. The checker is one of run.sh, or `threads`: those tests of the
# suite where threads of the operating system meet.
fault() {
  local checker=$1 test=$2 file=src/$3 old=$4 new=$5 text='' before rest count=0 outcome=0
  [[ $file == *"$only"* ]] || return 0
  faults=$((faults + 1))
  [[ ! -f $file ]] || text=$(< "$file")
  rest=$text
  while [[ $rest == *"$old"* ]]; do
    before=${rest%%"$old"*} count=$((count + 1))
    rest=${rest:${#before}+${#old}}
  done
  if ((count != 1)); then
    echo "GONE: $file has this $count times, not once: \`$old\`" && missed=1
    return 0
  fi
  [[ $mode == break ]] || return 0

  local change="$file: \`$old\` -> \`$new\`"
  printf '%s\n' "$before$new$rest" > "$copy/$file"
  timeout 600 bash -c 'run_checker "$@"' run_checker "$checker" "$test" > "$copy/output" 2>&1 ||
    outcome=$?
  if ((outcome == 0)); then
    echo "MISSED: $change" && missed=1
  elif ((outcome == 124)); then
    echo "NO END in ten minutes: $change" && missed=1
  elif grep -q -e 'could not compile' -e 'no such test' "$copy/output"; then
    echo "NO CODE: $change" && missed=1
  else
    echo "seen by $checker: $change: $(sed -n 's/^test .*:://; s/ \.\.\. FAILED//p
      s/^    .*::\([a-z_]*\)$/\1/p' "$copy/output" | sort -u | head -3 | paste -sd ' ')"
  fi
  cp "$file" "$copy/$file"
}

# The watermark: a commit is seen with all that it covers, and wakes everyone who waits for it.
fault loom watermark watermark.rs 'self.end.store(end, Ordering::SeqCst)' \
  'self.end.store(end, Ordering::Relaxed)'
fault loom watermark watermark.rs 'self.waiters.load(Ordering::SeqCst) > 0' \
  'self.waiters.load(Ordering::SeqCst) > 1'
# Who waits is woken before the new end is there, and not after.
fault loom watermark watermark.rs '        let woken = {
            let mut held = self.held.lock();
            assert!(end >= self.end(), "the watermark never goes back");
            held.position = position;
            self.position.store(position, Ordering::Release);
            self.end.store(end, Ordering::SeqCst);
            held.tasks_below(end)
        };
        if self.waiters.load(Ordering::SeqCst) > 0 {
            self.wake.notify_all();
        }' '        if self.waiters.load(Ordering::SeqCst) > 0 {
            self.wake.notify_all();
        }
        let woken = {
            let mut held = self.held.lock();
            assert!(end >= self.end(), "the watermark never goes back");
            held.position = position;
            self.position.store(position, Ordering::Release);
            self.end.store(end, Ordering::SeqCst);
            held.tasks_below(end)
        };'
fault loom watermark watermark.rs 'drop(held);
        self.wake.notify_all();' 'drop(held);'
# It sleeps before it looks.
fault loom watermark watermark.rs \
  'while self.end() <= index && !self.is_closed() && !self.is_stuck() {' \
  'let mut is_first = true;
        while std::mem::take(&mut is_first)
            || self.end() <= index && !self.is_closed() && !self.is_stuck()
        {'

# A task that waits for its next entry is woken, and registered once.
fault loom watermark watermark.rs 'wake_all(woken.into_values(), self.home);
    }

    /// Ends every wait, now and later.
    pub(crate) fn close' 'drop(woken);
    }

    /// Ends every wait, now and later.
    pub(crate) fn close'
fault loom watermark watermark.rs \
  'if self.end() > index || self.is_closed() || self.is_stuck() {' 'if self.is_closed() || self.is_stuck() {'

# Changes of role: each reader gets each of them, from the moment on at which it joined.
fault loom role_board role_board.rs 'unread.push_back(status.clone())' \
  'unread.clear(); unread.push_back(status.clone())'
fault loom role_board role_board.rs 'self.changed.notify_all();' ''
fault loom role_board role_board.rs 'let tasks = board.tasks.take();' \
  'let tasks = BTreeMap::<u64, Waker>::new();'

# The future of an append: one outcome, and everyone who waits for it learns it.
fault loom future future.rs 'self.committed.store(term, Ordering::Release)' \
  'self.committed.store(term, Ordering::Relaxed)'
fault loom future future.rs 'if state.outcome.is_some() {' 'if false {'
fault loom future future.rs 'Some(at) => Some(std::mem::replace(&mut state.wakers[at], waker)),' \
  'Some(_) => Some(waker),'
fault loom future future.rs 'self.wake.notify_all();' ''
# It sleeps before it looks.
fault loom future future.rs 'if let Some(outcome) = &state.outcome {
                return outcome.clone();
            }
            state.sleepers += 1;
            self.wake.wait(&mut state);
            state.sleepers -= 1;' 'state.sleepers += 1;
            self.wake.wait(&mut state);
            state.sleepers -= 1;
            if let Some(outcome) = &state.outcome {
                return outcome.clone();
            }'

# What a poll finds is the answer: the first poll of a wait, and those while it spins.
fault loom threads spin.rs 'return Some(answer);
        }
        let permit' 'drop(answer);
            return None;
        }
        let permit'
fault loom threads spin.rs 'return Some(answer);
        }
        let now' 'drop(answer);
            return None;
        }
        let now'

# The record index: a record is published after its location.
fault loom record_index storage/segmented/record_index.rs \
  'self.published.store(count, Ordering::Release)' 'self.published.store(count, Ordering::Relaxed)'
fault loom record_index storage/segmented/record_index.rs \
  'self.published.load(Ordering::Acquire)' 'self.published.load(Ordering::Relaxed)'

# The sequencer: nobody who waits for room is forgotten, and the engine is woken once for each time
# that the queue fills.
fault loom sequencer sequencer.rs 'if !queue.line.is_empty() {
            self.serve(queue);' 'if queue.line.len() > 1 {
            self.serve(queue);'
# It gives back the lock between the look at the window and the place in the line.
fault loom sequencer sequencer.rs \
  'let Ticket { number, answer } = queue.join(work(), cost, fence);' \
  'drop(queue);
        let mut queue = self.queue.lock();
        let Ticket { number, answer } = queue.join(work(), cost, fence);'
fault loom sequencer sequencer.rs 'if wakes {
            (self.wake_engine)();
        }
        future' 'if !wakes {
            (self.wake_engine)();
        }
        future'
fault loom sequencer sequencer.rs 'if wakes {
            (self.wake_engine)();
        }
        future' 'if true {
            (self.wake_engine)();
        }
        future'
# Whether the queue was empty is asked under another lock than the one that fills it.
fault loom sequencer sequencer.rs 'let was_empty = queue.batches.is_empty();
        let future = queue.push(parts, crc, cost, self.home);' \
  'let was_empty = queue.batches.is_empty();
        drop(queue);
        let mut queue = self.queue.lock();
        let future = queue.push(parts, crc, cost, self.home);'
# Appends stay held back after a take: nobody wakes the engine for them.
fault loom sequencer sequencer.rs 'queue.held = false;
            if queue.batches' 'if queue.batches'
fault loom sequencer sequencer.rs 'for waiting in refused {
            let error = passed(waiting.fence, term, &error).unwrap_or_else(|| error.clone());
            waiting.answer.refuse(error, self.home);
        }' 'drop(refused);'
fault loom sequencer sequencer.rs 'queue.append_state = AppendState::Open;
        self.serve(queue);' 'queue.append_state = AppendState::Open;'

# Syncs: who waits for several waits for the newest.
fault loom threads threads/work.rs '..newer' '..older'

# What threads of a host run: nothing stays in its mailbox, and one thread at a time runs it.
fault loom threads threads/run_state.rs 'RUNNING | RUNNING_AGAIN => Some(RUNNING_AGAIN),' ''
fault loom threads threads/run_state.rs 'IDLE | QUEUED => Some(QUEUED),' 'IDLE => Some(QUEUED),'
fault loom threads threads/run_state.rs 'self.0.swap(QUEUED, Ordering::AcqRel);' \
  'self.0.store(IDLE, Ordering::Release);'

# The sender to a peer: whatever is pushed is written, whole and in order.
fault loom peer_sender transport/tcp/peer_sender/queue.rs 'return is_new;' 'return false;'
fault loom peer_sender transport/tcp/peer_sender.rs 'queue.stopped = true;
        queue.close_connection();
        self.wake.notify_one();' 'queue.stopped = true;
        queue.close_connection();'
# A message is written at once though the thread is writing, or whatever is the matter, or though
# the rest of another waits.
fault loom peer_sender transport/tcp/peer_sender/queue.rs \
  '!self.is_busy && self.is_empty() && self.connected_to.is_some()' \
  'self.is_empty() && self.connected_to.is_some()'
fault loom peer_sender transport/tcp/peer_sender.rs '&& queue.is_idle()' ''
fault loom peer_sender transport/tcp/peer_sender/queue.rs \
  '!self.is_busy && self.is_empty() && self.connected_to.is_some()' \
  '!self.is_busy
            && self.urgent.is_empty()
            && self.turns.is_empty()
            && self.connected_to.is_some()'
fault loom peer_sender transport/tcp/peer_sender.rs 'queue.rest = frame.slice(written..);
                self.wake.notify_one();' 'queue.rest = frame.slice(written..);'
# The thread does not see that a rest waits.
fault loom peer_sender transport/tcp/peer_sender.rs \
  'are_beats_due || !queue.is_empty() {' \
  'are_beats_due || queue.rest.is_empty() && !queue.is_empty() {'
# The rest of a message is written behind the others.
fault loom peer_sender transport/tcp/peer_sender/queue.rs \
  'parts.push(std::mem::take(&mut self.rest));' \
  'let rest = std::mem::take(&mut self.rest);
            self.put_next_round(parts);
            return parts.push(rest);'
# The rest of a message survives its connection.
fault loom peer_sender transport/tcp/peer_sender/queue.rs '*self = Queue {
            introductions' '*self = Queue {
            rest: std::mem::take(&mut self.rest),
            introductions'

# Whole nodes: every thread ends, every wait ends, and the window is given back.
fault shuttle groups_of_a_host threads/pool.rs 'self.wake_one(&mut queue);' ''
fault shuttle '' threads/parts.rs 'self.ended.notify_all();' ''
fault shuttle '' threads/parts.rs 'while list.has_running(except) {' 'while false {'
fault shuttle '' threads/parts.rs \
  'list.running.iter().any(|part| is_engine(part) && part.thread == Some(me))' 'false'
fault shuttle '' threads/work.rs 'unwrap_or_else(|panic| {
        Err(StorageError::Poisoned(format!("a sync panicked: {}", panic_text(&*panic))))
    })' 'unwrap_or(Ok(()))'
fault shuttle '' engine.rs 'self.shared.sequencer.release(batch.cost);
        batch.completion' 'batch.completion'
fault shuttle '' engine/stopping.rs 'self.shared.watermark.close();' ''
fault shuttle '' engine.rs 'self.resolve_all(
            AppendError::Failed { reason: reason() },
            &AppendError::Unconfirmed { reason: reason() },
            &BarrierError::Failed { reason: reason() },
        );' ''

# What no checker of schedules replaces: the condition variables of the operating system, and the
# maps of files.
fault threads primitives::broadcast primitives/broadcast.rs 'self.0.notify_all();' \
  'self.0.notify_one();'
fault threads primitives::broadcast primitives/broadcast.rs \
  'self.0.lock().unwrap_or_else(PoisonError::into_inner)' 'self.0.lock().unwrap()'
fault threads recycled storage/segmented/retention.rs \
  'part.segment.to_sealed(shared.directory, seal, &shared.maps)' \
  'Segment::sealed(shared.directory, seal, &shared.maps)'
fault threads recycled storage/segmented/preallocate.rs \
  'Arc::into_inner(segment).is_some_and(Segment::try_release)' '{ drop(segment); true }'
fault threads recycled storage/segmented/preallocate.rs \
  'Arc::into_inner(segment).is_some_and(Segment::try_release)' 'Arc::into_inner(segment).is_some()'
fault threads recycled storage/segmented/segment.rs 'earlier.iter().chain(&now).all' \
  'earlier.iter().all'

if [[ $mode == check ]]; then
  ((missed)) || echo "each of the $faults faults finds its place"
else
  echo "$faults faults in $SECONDS s"
fi
exit $missed
