//! Commands, and the map that they amount to.

use std::collections::BTreeMap;
use std::fmt;

/// One change to the map. Its text is what stands in the log: `put key value` or `del key`.
///
/// Both may be replayed twice without harm, and that is what lets a client repeat one whose outcome
/// it does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Put { key: String, value: String },
    Delete { key: String },
}

impl Command {
    pub(crate) fn put(key: impl Into<String>, value: impl Into<String>) -> Command {
        Command::Put { key: key.into(), value: value.into() }
    }

    /// Keys hold no blanks; a value is the rest of the line.
    pub(crate) fn parse(text: &str) -> Option<Command> {
        let (verb, rest) = text.split_once(' ')?;
        let (key, value) = rest.split_once(' ').unwrap_or((rest, ""));
        match verb {
            _ if key.is_empty() => None,
            "put" => Some(Command::put(key, value)),
            "del" if value.is_empty() => Some(Command::Delete { key: key.to_owned() }),
            _ => None,
        }
    }

    /// What is appended to the log.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.to_string().into_bytes()
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::Put { key, value } => write!(f, "put {key} {value}"),
            Command::Delete { key } => write!(f, "del {key}"),
        }
    }
}

/// The state of the store. Nodes that replayed the same entries hold equal maps, since nothing but
/// the log goes in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Map {
    pub(crate) values: BTreeMap<String, String>,
    /// The index of the first entry that is not in the map yet.
    pub(crate) next: u64,
}

impl Map {
    /// Takes the next entry of the log. What is no command changes nothing, on every node alike.
    pub(crate) fn replay(&mut self, payload: &[u8]) {
        match std::str::from_utf8(payload).ok().and_then(Command::parse) {
            Some(Command::Put { key, value }) => drop(self.values.insert(key, value)),
            Some(Command::Delete { key }) => drop(self.values.remove(&key)),
            None => {}
        }
        self.next += 1;
    }
}
