//! Where raft-rs writes its log.

/// Hands raft-rs's log lines to the `log` crate, under the target `dledger::raft` and with the
/// group and the node.
pub(super) struct LogBridge(pub(super) String);

impl slog::Drain for LogBridge {
    type Ok = ();
    type Err = slog::Never;

    fn is_enabled(&self, level: slog::Level) -> bool {
        log_level(level) <= log::max_level()
    }

    fn log(&self, record: &slog::Record<'_>, _values: &slog::OwnedKVList) -> Result<(), slog::Never> {
        let level = log_level(record.level());
        log::log!(target: "dledger::raft", level, "{}: {}", self.0, record.msg());
        Ok(())
    }
}

/// raft-rs tells every vote and every stale message at its info level: for a host that is detail.
fn log_level(level: slog::Level) -> log::Level {
    match level {
        slog::Level::Critical | slog::Level::Error => log::Level::Error,
        slog::Level::Warning => log::Level::Warn,
        slog::Level::Info | slog::Level::Debug => log::Level::Debug,
        slog::Level::Trace => log::Level::Trace,
    }
}
