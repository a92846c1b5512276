//! From Java DLedger: each of its features, options, callbacks and response codes, and what stands
//! for it here.
//!
//! Read from the sources of openmessaging/dledger, tags 0.3.1.2 (what RocketMQ 4.5 to 5 ships) and
//! 0.4.0, and of RocketMQ's use of it. "Absent" means: deliberately not built, with the reason.
//! "Not yet" means: planned.
//!
//! # Before anything else
//!
//! | | Java DLedger | here |
//! |---|---|---|
//! | acknowledged | written on a majority; synced within 10 ms, errors of it ignored | synced on a majority; [`FlushPolicy::Async`] is the other choice, with its price stated |
//! | index | dense from 0, but a no-op of 0.4 may take one | dense from 0, and nothing that Raft does takes one |
//! | position | byte offset in the files, headers and blanks counted | the sum of the payload lengths before: it does not depend on segment sizes |
//! | checksums | fields that are never filled in | verified at each read |
//! | reads | what a node has, committed or not | committed entries only |
//! | a deposed leader | serves reads for up to 6 s | [`DLedger::barrier`] tells what may be relied on |
//! | node ids | text, `n0` | numbers from 1, [`NodeId`] |
//! | client protocol | JSON over remoting (50000 to 50002, 51005) | none: a library has no port for clients. A host serves its own |
//! | disk format | a commit log and an index of fixed units | another one (`src/storage/segmented/format.md`). Old logs are not read: keep them beside, and begin the new one at their end with [`Builder::first_position`] |
//!
//! # Features
//!
//! | Java | here | what differs |
//! |---|---|---|
//! | `handleAppend`, `appendAsLeader(byte[])` | [`DLedger::append`], [`append_async`](DLedger::append_async), [`append_parts`](DLedger::append_parts), [`append_when_ready`](DLedger::append_when_ready) | bytes are bounded, not requests; the last one waits for room |
//! | `AppendFuture.getPos()` | [`AppendFuture::position`], [`index`](AppendFuture::index) | known at once, provisional until the future resolves |
//! | `appendAsLeader(List<byte[]>)`, `BatchAppendFuture.getPositions()` | [`DLedger::append_batch`] | all or nothing. Positions: add up the lengths from the first one's |
//! | `get`, index list | [`DLedger::get`], [`read`](DLedger::read) | on every node, committed entries only |
//! | `pull` (declared only) | [`DLedger::tail`] | waits for more, blocking, with a time-out, in chunks or as a stream |
//! | `metadata` | [`DLedger::status`], [`watch`](DLedger::watch) | every node knows members and leader; [`Builder::advertise`] adds where clients find each |
//! | `UserDefineProcessor` (59999) | absent | a host has a protocol of its own; nothing of it has to pass through the log's port |
//! | election, "heartbeat leak" | [`Builder::election_timeout`], [`heartbeat_interval`](Builder::heartbeat_interval) | a second instead of six, with a real pre-vote and a leader that steps down without a quorum |
//! | leadership transfer (51005) | [`DLedger::transfer_leadership`] | waits until the other one leads; `shutdown` of a leader does it by itself |
//! | `preferredLeaderIds` | not yet | a host can transfer when it sees another leader than it wants |
//! | `enableLeaderElector = false` | absent | a role by decree is two leaders sooner or later |
//! | `addRoleChangeHandler(handle(term, role))` | [`Builder::on_role_change`], [`DLedger::role_changes`] | off the engine's thread, in order, with term and leader. Leader is told only once the first batch of its term is committed |
//! | push, COMPARE, TRUNCATE, watermarks | Raft, by tikv's `raft` | commits by entries of the leader's own term only; nothing committed is ever cut |
//! | batch push | always | a batch fills while the one before is synced, without a delay |
//! | fast advance of the commit index (0.4) | always | a new leader commits an empty batch, which takes no index |
//! | state machine, snapshots | absent | the log is the state. A host replays it; a follower behind what is retained is moved forward |
//! | `ReadMode` | [`DLedger::barrier`] | linearizable, and no entry is written for it |
//! | several groups in one server (`DLedgerProxy`) | [`Host`] | one port, one pair of connections for each pair of processes, idle groups sleep |
//! | append hook | [`Builder::append_hook`] | the leader only, before checksum and replication; a panic fails that append alone |
//! | expiry at 70 and 85 % (`CleanSpaceService`) | [`Retention`], [`DLedger::purge`], [`DLedger::pin`] | by bytes, age and fill; age by the time of sealing on this node |
//! | data files under several paths, read-only ones | not yet | one directory for each node |
//! | flush every 10 ms | [`FlushPolicy`] | a failed sync stops the node: it is never ignored |
//! | checkpoint file (0.3) | absent | the commit index is durable with the vote |
//! | metrics | not yet | [`DLedger::status`] has the figures of a node |
//! | CLI `readFile`, `get`, `append` | `examples/dledger_cli.rs`, [`tools`](crate::tools) | closed logs: verify, inspect, dump, back up, restore, salvage |
//! | changing members, TLS | not yet | Java has neither |
//!
//! # Options of `DLedgerConfig`
//!
//! | Java, and its default | here, and its default |
//! |---|---|
//! | `group` "default" | [`Builder::group`] "default" |
//! | `selfId` "n0" | the id given to [`DLedger::builder`] |
//! | `peers` "n0-localhost:20911" | [`Builder::peer`], [`peers`](Builder::peers); none: a node alone |
//! | `storeBaseDir`, `dataStorePath` | [`Builder::dir`]; no default |
//! | `readOnlyDataStoreDirs` | not yet |
//! | `storeType` FILE or MEMORY | [`Builder::storage`]: [`MemoryStorage`](crate::storage::MemoryStorage), or a host's own |
//! | `mappedFileSizeForEntryData` 1 GiB | [`Builder::segment_bytes`] 64 MiB |
//! | `mappedFileSizeForEntryIndex` | absent: each segment holds its own index |
//! | `flushFileInterval` 10 ms | [`FlushPolicy::Async`]; the default is to sync each batch |
//! | `checkPointInterval` | absent |
//! | `fileReservedHours` 72, `deleteWhen` "04" | [`Retention::max_age`]; absent: an hour of the day |
//! | `diskSpaceRatioToCheckExpired` 0.70 | [`Retention::disk_used`] |
//! | `diskSpaceRatioToForceClean` 0.85, `enableDiskForceClean` | [`Retention::disk_used_force`] |
//! | full at 0.90 | no ratio: a node steps back when a write finds no room, and goes on by itself |
//! | `maxPendingRequestsNum` 10,000 | [`Builder::max_in_flight_bytes`] 64 MiB |
//! | `maxWaitAckTimeMs` 2,500 | [`Builder::append_timeout`] 5 s |
//! | `maxPushTimeOutMs` 1,000 | absent: what was lost is sent again at a heartbeat |
//! | `peerPushQuota` 20 MiB/s, `peerPushThrottlePoint` | [`Builder::catch_up_bytes_per_second`] 256 MiB/s, for those that lag |
//! | `enableBatchAppend`, `maxBatchAppendSize`, `..IntervalMs` | absent: batches fill by themselves |
//! | `heartBeatTimeIntervalMs` 2,000 | [`Builder::heartbeat_interval`] 100 ms |
//! | `maxHeartBeatLeak` 3 (6 s) | [`Builder::election_timeout`] 1 s |
//! | `minVoteIntervalMs` 300, `maxVoteIntervalMs` 1,000 | absent: drawn between one and two election timeouts |
//! | `preferredLeaderIds` | not yet |
//! | `maxLeadershipTransferWaitIndex`, `..WaitTimeout` | absent: a transfer waits for its target, two election timeouts at most |
//! | `min-`, `maxTakeLeadershipVoteIntervalMs` | absent |
//! | `enableFastAdvanceCommitIndex` | always |
//! | `enablePushToFollower`, `enableLeaderElector` | absent |
//! | `enableSnapshot` and what belongs to it | absent: no state machine |
//! | `metricsExporterType` and what belongs to it | not yet |
//!
//! # Callbacks
//!
//! | Java | here |
//! |---|---|
//! | `RoleChangeHandler.handle(term, role)` | [`Builder::on_role_change`]; [`Status`] has more |
//! | `RoleChangeHandler.startup`, `shutdown` | absent: a closure owns what it needs |
//! | `DLedgerStore.addAppendHook((entry, buffer, bodyOffset))` | [`Builder::append_hook`] with [`Place`](crate::Place) and the payload |
//! | `StateMachine.onApply(iterator)` | [`DLedger::tail`] on any node |
//! | `StateMachine.onSnapshotSave`, `onSnapshotLoad` | absent |
//! | `StateMachine.onError` | [`Status::fault`], through [`DLedger::watch`] |
//! | `ReadClosure`, `WriteClosure` | absent: append, then read |
//! | `UserDefineProcessor` | absent |
//!
//! # What RocketMQ asks of its log
//!
//! | `DLedgerCommitLog` | here |
//! |---|---|
//! | position at once, before the commit | [`AppendFuture::position`] |
//! | its own offset written into the message | [`Builder::append_hook`], [`Place::position`](crate::Place) |
//! | `getData(offset)`, zero copy | [`DLedger::get_at`], [`read_at`](DLedger::read_at) |
//! | `getMinOffset`, `getMaxOffset`, `committedPos` | [`DLedger::positions`] |
//! | a scanner that skips headers of 48 bytes and blanks | none needed: positions count payloads alone, and the bytes between two positions are payloads |
//! | the same offsets on all replicas | always, also after a follower was moved forward |
//! | a base offset after an old commit log | [`Builder::first_position`] |
//! | dispatch from the oldest or a stored time | [`DLedger::index_at`], [`DLedger::tail`] |
//! | `deleteWhen`, `fileReservedHours` changed at run time | [`DLedger::set_retention`] |
//! | role change, then waiting until the tail is committed | not needed: leader is told when it is |
//!
//! # Response codes
//!
//! | Java | here |
//! |---|---|
//! | 200 SUCCESS | `Ok` |
//! | 300 TIMEOUT, 502 WAIT_QUORUM_ACK_TIMEOUT | [`AppendError::TimedOut`]: may commit yet |
//! | 301 METADATA_ERROR | [`AppendError::NotLeader`] without a leader |
//! | 302 NETWORK_ERROR | none: a member that is not reached is in [`Status::members`] |
//! | 303 UNSUPPORTED, 500 INTERNAL_ERROR, -1 UNKNOWN | none: each error has its own type |
//! | 400 UNKNOWN_GROUP, 401 UNKNOWN_MEMBER, 402 UNEXPECTED_MEMBER | [`Status::refused`] on both nodes |
//! | 403 EXPIRED_TERM, 501 TERM_CHANGED for an append under way | [`AppendError::OutcomeUnknown`]: may have committed |
//! | 404 NOT_LEADER, 505 LEADER_NOT_READY, 504 ILLEGAL_MEMBER_STATE | [`AppendError::NotLeader`] |
//! | 405 to 409, 412, 413, 416, 419 to 422 | none: between nodes, Raft's own |
//! | 410 INDEX_OUT_OF_RANGE | `Ok(None)` beyond the end, [`ReadError::Purged`] before the beginning |
//! | 411 UNEXPECTED_ARGUMENT | [`OpenError::Setting`], [`AppendError::TooLarge`] |
//! | 414 DISK_ERROR | [`AppendError::Failed`], [`Status::fault`] |
//! | 415 DISK_FULL | [`AppendError::StorageFull`], [`Status::full`] |
//! | 417 FALL_BEHIND_TOO_MUCH, 418 TAKE_LEADERSHIP_FAILED | [`TransferError`] |
//! | 503 LEADER_PENDING_FULL | [`AppendError::Busy`] |
//! | 506 LEADER_TRANSFERRING | [`AppendError::NotLeader`], until the other one leads |
//! | 507, 508 (snapshots) | none |
//!
//! RocketMQ maps 200 to PUT_OK; 404, 505, 409 and 415 to SERVICE_NOT_AVAILABLE; 502 to
//! IN_SYNC_REPLICAS_NOT_ENOUGH; 503 to OS_PAGE_CACHE_BUSY; all others to UNKNOWN_ERROR. A producer
//! that gets one of the last two kinds may be told to try again only if
//! [`AppendError::may_have_committed`] is false.

#[cfg(doc)]
use crate::*;
