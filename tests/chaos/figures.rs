//! Statistics of a run: counts of calls and outcomes, gaps without acknowledgements, durations of
//! failovers.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Gaps between two acknowledgements that are shorter than this are no gaps.
const GAP_MIN: Duration = Duration::from_millis(100);

/// Figures of a run, while it goes on.
#[derive(Default)]
pub(crate) struct Figures(Mutex<Sheet>);

/// See [`Figures`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Sheet {
    counts: BTreeMap<&'static str, u64>,
    faults: BTreeMap<&'static str, u64>,
    acknowledged_at: Option<Instant>,
    gaps: Vec<Duration>,
    /// The leader that was hit, and when.
    hit: Option<(u32, Instant)>,
    failovers: Vec<Duration>,
}

impl Figures {
    pub(crate) fn count(&self, what: &'static str, times: u64) {
        *self.0.lock().counts.entry(what).or_default() += times;
    }

    pub(crate) fn fault(&self, what: &'static str) {
        *self.0.lock().faults.entry(what).or_default() += 1;
    }

    /// A fault of the leader has begun, in this process.
    pub(crate) fn leader_hit(&self, process: u32) {
        self.0.lock().hit.get_or_insert((process, Instant::now()));
    }

    /// The fault of this process is over.
    pub(crate) fn leader_recovered(&self, process: u32) {
        self.0.lock().hit.take_if(|(hit, _)| *hit == process);
    }

    pub(crate) fn acknowledged(&self, process: u32) {
        let (mut sheet, now) = (self.0.lock(), Instant::now());
        if let Some(before) = sheet.acknowledged_at.replace(now) {
            let gap = now - before;
            if gap >= GAP_MIN {
                sheet.gaps.push(gap);
            }
        }
        if let Some((_, since)) = sheet.hit.take_if(|(hit, _)| *hit != process) {
            sheet.failovers.push(now - since);
        }
    }

    pub(crate) fn sheet(&self) -> Sheet {
        self.0.lock().clone()
    }
}

impl Sheet {
    pub(crate) fn of(&self, what: &str) -> u64 {
        self.counts.get(what).or(self.faults.get(what)).copied().unwrap_or(0)
    }
}

impl fmt::Display for Sheet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |counts: &BTreeMap<&str, u64>| {
            counts.iter().map(|(what, count)| format!("  {count:>9} {what}\n")).collect::<String>()
        };
        write!(f, "seen:\n{}faults:\n{}", list(&self.counts), list(&self.faults))?;
        writeln!(
            f,
            "gaps of {} ms and more without an acknowledgement: {}",
            GAP_MIN.as_millis(),
            spread(&self.gaps)
        )?;
        write!(
            f,
            "from the fault at a leader to the first acknowledgement of another: {}",
            spread(&self.failovers)
        )
    }
}

fn spread(times: &[Duration]) -> String {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let Some(longest) = sorted.last() else { return "none".to_owned() };
    let at = |percent: usize| sorted[(sorted.len() - 1) * percent / 100].as_secs_f64();
    let total: Duration = sorted.iter().sum();
    let (count, total, longest) = (sorted.len(), total.as_secs_f64(), longest.as_secs_f64());
    format!(
        "{count}, in all {total:.1} s; median {:.2} s, 90 % {:.2} s, 99 % {:.2} s, longest \
         {longest:.2} s",
        at(50),
        at(90),
        at(99)
    )
}
