//! Log lines of raft-rs.

use std::fmt::{self, Write};

/// Hands raft-rs's log lines to the `log` crate, under the target `dledger::raft` and with the
/// group and the node.
pub(super) struct LogDrain(pub(super) String);

impl slog::Drain for LogDrain {
    type Ok = ();
    type Err = slog::Never;

    fn is_enabled(&self, level: slog::Level) -> bool {
        log_level(level) <= log::max_level()
    }

    /// The values of the logger itself are left out: they name the node once more.
    fn log(
        &self,
        record: &slog::Record<'_>,
        _values: &slog::OwnedKVList,
    ) -> Result<(), slog::Never> {
        let level = log_level(record.level());
        if log::log_enabled!(target: "dledger::raft", level) {
            let line = line_of(record);
            log::log!(target: "dledger::raft", level, "{}: {line}", self.0);
        }
        Ok(())
    }
}

/// The message, with its values in parentheses.
fn line_of(record: &slog::Record<'_>) -> String {
    let mut values = Values(Vec::new());
    // Only a value that cannot be formatted is an error, and then the others are worth their line.
    let _ = slog::KV::serialize(&record.kv(), record, &mut values);
    let mut line = record.msg().to_string();
    // Values come last first.
    for (at, (key, value)) in values.0.iter().rev().enumerate() {
        let _ = write!(line, "{}{} {value}", if at == 0 { " (" } else { ", " }, key.trim());
    }
    if !values.0.is_empty() {
        line.push(')');
    }
    line
}

/// The values of one line, as text.
struct Values(Vec<(slog::Key, String)>);

impl slog::Serializer for Values {
    fn emit_arguments(&mut self, key: slog::Key, value: &fmt::Arguments<'_>) -> slog::Result {
        self.0.push((key, value.to_string()));
        Ok(())
    }
}

/// raft-rs logs every vote and every stale message at INFO: for a host that is DEBUG.
fn log_level(level: slog::Level) -> log::Level {
    match level {
        slog::Level::Critical | slog::Level::Error => log::Level::Error,
        slog::Level::Warning => log::Level::Warn,
        slog::Level::Info | slog::Level::Debug => log::Level::Debug,
        slog::Level::Trace => log::Level::Trace,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of a line of raft-rs.
    struct Kept<'a>(&'a std::sync::Mutex<Vec<String>>);

    impl slog::Drain for Kept<'_> {
        type Ok = ();
        type Err = slog::Never;

        fn log(&self, record: &slog::Record<'_>, _: &slog::OwnedKVList) -> Result<(), slog::Never> {
            self.0.lock().unwrap().push(line_of(record));
            Ok(())
        }
    }

    #[test]
    fn a_line_has_its_values_in_the_order_in_which_they_were_given() {
        let lines: &'static std::sync::Mutex<Vec<String>> = Box::leak(Box::default());
        let logger = slog::Logger::root(Kept(lines), slog::o!("raft_id" => 1));
        slog::info!(logger, "became leader at term {term}", term = 3);
        slog::info!(logger, "stepped down"; "from" => 2, "state" => ?Some("x"), "why" => %"late");
        slog::info!(logger, "nothing to add");
        let expected = [
            "became leader at term 3 (term 3)",
            "stepped down (from 2, state Some(\"x\"), why late)",
            "nothing to add",
        ];
        assert_eq!(*lines.lock().unwrap(), expected);
    }
}
