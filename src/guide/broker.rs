//! Embedding in a broker.
//!
//! A broker has topics with queues, producers that send to them, and consumers that read a queue by
//! its own offsets. Underneath lies one log, into which all messages go in the order in which they
//! came. This guide builds that, in steps, on one node; a group of three differs in the builder
//! alone. Each step is a program that runs.
//!
//! # One topic
//!
//! A message is an entry. A producer is answered when its message is committed, and is told what it
//! may do if it is not.
//!
//! ```
//! use dledger::{AppendError, DLedger};
//!
//! /// What a producer is told.
//! #[derive(Debug, PartialEq)]
//! enum Answer {
//!     Stored(u64),
//!     /// Certainly not stored: send it again, there.
//!     AskAt(Option<String>),
//!     /// Certainly not stored: send it again, here, later.
//!     TryLater,
//!     /// Perhaps stored: sent again, it may be there twice.
//!     Unknown,
//! }
//!
//! fn send(log: &DLedger, message: &[u8]) -> Answer {
//!     match log.append(message) {
//!         Ok(index) => Answer::Stored(index),
//!         Err(AppendError::NotLeader { advertised, .. }) => {
//!             Answer::AskAt(advertised.map(|text| text.to_string()))
//!         }
//!         Err(error) if error.may_have_committed() => Answer::Unknown,
//!         Err(_) => Answer::TryLater,
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let home = tempfile::tempdir()?;
//! # let dir = home.path().join("log");
//! let log = DLedger::builder(1).dir(dir).advertise("10.0.0.1:9876").open()?;
//! log.wait_for_leader(std::time::Duration::from_secs(30));
//! assert_eq!(send(&log, b"first"), Answer::Stored(0));
//! # log.shutdown()?;
//! # Ok(())
//! # }
//! ```
//!
//! A front end with many producers on an async runtime uses
//! [`append_when_ready`](crate::DLedger::append_when_ready): it waits for room in the window, first
//! come first served, and needs neither a thread nor an error for each message that has to wait.
//!
//! # Offsets in the message
//!
//! Many formats carry the place of a message in the message itself, as RocketMQ's physical offset.
//! Only the leader knows it, and only when it is certain which message comes before: so the log
//! calls a hook, which may change the bytes of the message, and not their number.
//!
//! ```
//! use dledger::DLedger;
//!
//! /// Where a message of this broker has room for its offset.
//! const OFFSET_AT: usize = 4;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let home = tempfile::tempdir()?;
//! # let dir = home.path().join("log");
//! let log = DLedger::builder(1)
//!     .dir(dir)
//!     .append_hook(|place, message| {
//!         if let Some(room) = message.get_mut(OFFSET_AT..OFFSET_AT + 8) {
//!             room.copy_from_slice(&place.position.to_be_bytes());
//!         }
//!     })
//!     .open()?;
//! log.wait_for_leader(std::time::Duration::from_secs(30));
//! log.append([0; 100])?;
//! let index = log.append([0; 100])?;
//! let message = log.get(index)?.expect("acknowledged");
//! assert_eq!(message[OFFSET_AT..OFFSET_AT + 8], 100_u64.to_be_bytes());
//! // The offset leads back to the message, and to those behind it.
//! assert_eq!(log.get_at(100)?.expect("committed").index, index);
//! assert_eq!(log.read_at(150, 1024)?.expect("committed").len(), 50);
//! # log.shutdown()?;
//! # Ok(())
//! # }
//! ```
//!
//! Positions are the same on every node and never change, so consumers keep theirs through a
//! failover. A broker that had another log before begins where that one ended:
//! [`Builder::first_position`](crate::Builder::first_position).
//!
//! # Queues: dispatch
//!
//! One thread on each node follows the log, and notes for each queue where its messages lie. That
//! is the consume queue: a table of places, made again from the log whenever it is lost. It is the
//! same on every node, for it follows from the log alone.
//!
//! ```
//! use std::collections::BTreeMap;
//! use std::time::Duration;
//!
//! use dledger::DLedger;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let home = tempfile::tempdir()?;
//! # let dir = home.path().join("log");
//! let log = DLedger::builder(1).dir(dir).open()?;
//! log.wait_for_leader(Duration::from_secs(30));
//! for message in ["a:one", "b:two", "a:three"] {
//!     log.append(message)?;
//! }
//!
//! // Queue to the indexes of its messages: the n-th one has offset n.
//! let mut queues: BTreeMap<String, Vec<u64>> = BTreeMap::new();
//! let mut dispatched = 0;
//! let mut tail = log.tail(dispatched);
//! while dispatched < 3 {
//!     // All that there is, up to these bounds: one call for a whole run of messages.
//!     for entry in tail.next_chunk(1024, 1 << 20, Duration::from_millis(100))? {
//!         let text = std::str::from_utf8(&entry)?;
//!         let (queue, _) = text.split_once(':').ok_or("a message without a queue")?;
//!         queues.entry(queue.to_owned()).or_default().push(entry.index);
//!         dispatched = entry.index + 1;
//!     }
//! }
//! let place = queues["a"][1];
//! assert_eq!(&log.get(place)?.expect("committed")[..], b"a:three");
//! # log.shutdown()?;
//! # Ok(())
//! # }
//! ```
//!
//! A broker stores `dispatched` with its tables, and goes on from there after a restart. If the
//! tables are older than what the log keeps, reading fails with
//! [`ReadError::Purged`](crate::ReadError::Purged), which says where the log begins: the tables
//! begin there too.
//!
//! # Retention
//!
//! The log goes by size, age and the fill of the disk, and removes whole segments from its head.
//! Each node goes by its own policy. What a consumer or a dispatcher still needs is held back by a
//! pin, within a bound.
//!
//! ```
//! use std::time::Duration;
//!
//! use dledger::{DLedger, Retention};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let home = tempfile::tempdir()?;
//! # let dir = home.path().join("log");
//! let three_days = Duration::from_secs(72 * 3600);
//! let log = DLedger::builder(1)
//!     .dir(dir)
//!     .retention(
//!         Retention::keep_all().max_age(three_days).disk_used(0.75).disk_used_force(0.85),
//!     )
//!     .open()?;
//! let pin = log.pin(0)?; // what lies at and behind it stays
//! // .. and later, when it has been read:
//! pin.advance(1000);
//! log.set_retention(Retention::keep_all().max_bytes(100 << 30));
//! # log.shutdown()?;
//! # Ok(())
//! # }
//! ```
//!
//! # Failover: master and slave
//!
//! The role of the node is the role of the broker. A broker becomes master when its node is told to
//! lead: all that was acknowledged before is committed then, and can be read. The term says which
//! reign it is. A master that has been replaced may not know it yet; what it appends in the name of
//! its term is refused for certain:
//!
//! ```
//! use std::time::Duration;
//!
//! use dledger::{AppendError, DLedger, Role};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let home = tempfile::tempdir()?;
//! # let dir = home.path().join("log");
//! let log = DLedger::builder(1)
//!     .dir(&dir)
//!     .on_role_change(|status| match status.role {
//!         Role::Leader => println!("master of term {}", status.term),
//!         _ => println!("slave of {:?}", status.leader),
//!     })
//!     .open()?;
//! log.wait_for_leader(Duration::from_secs(30));
//! let reign = log.status().term;
//! log.append_in_term(reign, "by the master of this term")?;
//! log.shutdown()?;
//!
//! // Opened again it leads in another term, and the broker of before is fenced off.
//! let log = DLedger::builder(1).dir(&dir).open()?;
//! log.wait_for_leader(Duration::from_secs(30));
//! let refused = log.append_in_term(reign, "by a master of the past");
//! assert!(matches!(refused, Err(AppendError::WrongTerm { .. })));
//! # log.shutdown()?;
//! # Ok(())
//! # }
//! ```
//!
//! A master that stops in good order ([`DLedger::shutdown`](crate::DLedger::shutdown)) hands over
//! first, within milliseconds. After one that dies there is no master for one to two election
//! timeouts; producers get [`AppendError::NotLeader`](crate::AppendError::NotLeader), which names
//! the next one as soon as it is known.
//!
//! # Copies without a vote
//!
//! A [learner](crate::Builder::learner) copies the log and serves reads, and is never waited for:
//! an asynchronous slave, as in another data centre.
//!
//! # Many groups
//!
//! A broker that outgrows one leader spreads its queues over several groups on the same machines,
//! each with a leader of its own: [`Host`](crate::Host), and `examples/many_groups.rs`.
