//! Calls made where their answer cannot come: within a waker, on a node that has died.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::task::{Context, Wake};
use std::time::Duration;

use dledger::transport::{Message, Transport, TransportContext};
use dledger::{AppendError, BarrierError, DLedger, PurgeError, ReadError, TransferError};

use crate::group::{TIMEOUT, eventually, home};

type Call = Box<dyn FnOnce(&DLedger) + Send>;

/// An executor that runs its task within `wake`, on the thread of the node.
struct Inline {
    ledger: DLedger,
    task: Mutex<Option<Call>>,
    done: mpsc::SyncSender<()>,
}

impl Wake for Inline {
    fn wake(self: Arc<Self>) {
        if let Some(task) = self.task.lock().expect("no task panics while it holds this").take() {
            task(&self.ledger);
            let _ = self.done.send(());
        }
    }
}

/// Runs `task` within a waker that the node calls. Fails if it does not return.
pub(crate) fn within_a_waker(ledger: &DLedger, task: impl FnOnce(&DLedger) + Send + 'static) {
    let (done, returned) = mpsc::sync_channel(1);
    let task = Mutex::new(Some(Box::new(task) as Call));
    let waker = Arc::new(Inline { ledger: ledger.clone(), task, done }).into();
    // An append that commits before it is polled wakes no task.
    loop {
        let append = pin!(ledger.append_async("x"));
        if append.poll(&mut Context::from_waker(&waker)).is_pending() {
            break;
        }
    }
    returned.recv_timeout(TIMEOUT).expect("what is called within a waker returns");
}

fn alone(home: &tempfile::TempDir) -> DLedger {
    DLedger::builder(1).dir(home.path().join("log")).open().expect("it opens")
}

/// A transport whose thread panics on a signal: the node has a fault from then on.
pub(crate) struct Doomed(Option<mpsc::Receiver<()>>);

impl Doomed {
    pub(crate) fn when(told: mpsc::Receiver<()>) -> Doomed {
        Doomed(Some(told))
    }
}

impl Transport for Doomed {
    fn start(&mut self, context: TransportContext) -> io::Result<()> {
        let told = self.0.take().expect("a transport is started once");
        context.spawner.spawn("doomed", move || {
            if told.recv().is_ok() {
                panic!("a bug that was made on purpose");
            }
        })
    }

    fn send(&mut self, _messages: &mut Vec<Message>) {}

    fn stop(&mut self) {}
}

/// A logger that appends its records to a ledger, on whatever thread it is called.
struct Shipper {
    ledger: OnceLock<DLedger>,
    outcomes: Mutex<Vec<Result<u64, AppendError>>>,
}

static SHIPPER: Shipper = Shipper { ledger: OnceLock::new(), outcomes: Mutex::new(Vec::new()) };

impl log::Log for Shipper {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Error
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata())
            && let Some(ledger) = self.ledger.get()
        {
            let outcome = ledger.append(record.args().to_string());
            self.outcomes.lock().unwrap().push(outcome);
        }
    }

    fn flush(&self) {}
}

facts! {
    fn a_logger_that_appends_on_a_thread_of_the_node_does_not_block_it() {
        log::set_logger(&SHIPPER).unwrap();
        log::set_max_level(log::LevelFilter::Error);
        let home = home();
        let (doom, told) = mpsc::channel();
        let builder = DLedger::builder(1).dir(home.path().join("log")).append_timeout(TIMEOUT);
        let ledger = builder.transport(Doomed::when(told)).open().unwrap();
        SHIPPER.ledger.set(ledger.clone()).expect("it is set once");
        doom.send(()).unwrap();
        eventually("the node to fail", || ledger.status().fault.is_some());
        eventually("it to be told", || !SHIPPER.outcomes.lock().unwrap().is_empty());
        let outcome = SHIPPER.outcomes.lock().unwrap().remove(0);
        let Err(refused @ AppendError::CalledFromWaker { .. }) = outcome else {
            panic!("{outcome:?}")
        };
        assert!(!refused.may_have_committed());
    }

    fn a_consumer_that_waits_is_told_of_a_fault() {
        let home = home();
        let (doom, told) = mpsc::channel();
        let builder = DLedger::builder(1).dir(home.path().join("log"));
        let ledger = builder.transport(Doomed::when(told)).open().unwrap();
        ledger.append_batch(["a", "b", "c"]).unwrap();
        let blocked = std::thread::spawn({
            let mut tail = ledger.tail(0);
            move || (tail.by_ref().collect::<Vec<_>>(), tail.next().is_none())
        });
        let timed = std::thread::spawn({
            let mut tail = ledger.tail(3);
            move || tail.next_timeout(Duration::from_secs(3600))
        });
        std::thread::sleep(Duration::from_millis(50));
        doom.send(()).unwrap();
        let (entries, has_ended) = blocked.join().unwrap();
        assert_eq!((entries.iter().filter(|entry| entry.is_ok()).count(), has_ended), (3, true));
        let fault = ledger.status().fault.expect("the node says what is wrong with it");
        let timed = timed.join().unwrap().transpose();
        for end in [entries.into_iter().last(), timed, ledger.tail(3).next()] {
            match end {
                Some(Err(ReadError::Failed { reason, .. })) => assert_eq!(reason, fault),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(
            ledger.tail(1).filter(Result::is_ok).count(),
            2,
            "what was committed is read first"
        );
        ledger.shutdown().unwrap_err();
        assert!(ledger.tail(3).next().is_none(), "a tail of a closed ledger just ends");
        let end = ledger.tail(3).next_timeout(Duration::from_secs(3600));
        assert!(matches!(end, Err(ReadError::Stopped)), "{end:?}");
    }

    fn tasks_that_wait_are_told_of_a_fault() {
        let home = home();
        let (doom, told) = mpsc::channel();
        let builder = DLedger::builder(1).dir(home.path().join("log")).max_in_flight_bytes(100);
        let ledger = builder.transport(Doomed::when(told)).open().unwrap();
        let mut watch = ledger.watch();
        let task = std::thread::spawn({
            let ledger = ledger.clone();
            move || pollster::block_on(ledger.committed_past(u64::MAX))
        });
        let appender = std::thread::spawn({
            let ledger = ledger.clone();
            // There is always somebody in line, until the node fails.
            move || loop {
                let appends: Vec<_> = (0..20).map(|_| ledger.append_when_ready([0; 60])).collect();
                let outcomes = appends.into_iter().map(pollster::block_on);
                if let Some(error) = outcomes.filter_map(Result::err).last() {
                    return error;
                }
            }
        });
        std::thread::sleep(Duration::from_millis(50));
        doom.send(()).unwrap();
        let status = watch.find(|status| status.fault.is_some()).expect("a watch tells it");
        let fault = status.fault.unwrap_or_default();
        match (task.join().unwrap(), appender.join().unwrap()) {
            (
                Err(ReadError::Failed { reason, .. }),
                AppendError::Failed { reason: refused, .. },
            ) => {
                assert_eq!([&reason, &refused], [&fault, &fault]);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(pollster::block_on(ledger.leader_async()), None);
        pollster::block_on(ledger.shutdown_async()).unwrap_err();
        assert!(watch.last().is_some_and(|status| status.stopped && status.fault.is_some()));
    }

    fn what_waits_for_the_node_is_refused_within_a_waker_and_the_node_lives() {
        let home = home();
        let ledger = alone(&home);
        ledger.append("before").unwrap();
        within_a_waker(&ledger, |ledger| {
            let end = ledger.status().end_index;
            let refused = ledger.append("y").unwrap_err();
            assert!(matches!(refused, AppendError::CalledFromWaker { .. }), "{refused}");
            assert!(!refused.may_have_committed());
            let refused = ledger.append_parts(&[b"x", b"y"]).unwrap_err();
            assert!(matches!(refused, AppendError::CalledFromWaker { .. }), "{refused}");
            let refused = ledger.append_batch(["a", "b"]).unwrap_err();
            assert!(matches!(refused, AppendError::CalledFromWaker { .. }), "{refused}");
            assert_eq!(ledger.status().end_index, end, "nothing was appended");
            assert!(matches!(ledger.barrier(), Err(BarrierError::CalledFromWaker)));
            assert!(matches!(ledger.purge(0), Err(PurgeError::CalledFromWaker)));
            let transfer = ledger.transfer_leadership(1);
            assert!(matches!(transfer, Err(TransferError::CalledFromWaker)));
        });
        assert!(ledger.append("after").is_ok());
    }

    fn what_waits_for_an_append_within_a_waker_says_that_it_may_commit() {
        let home = home();
        let ledger = alone(&home);
        within_a_waker(&ledger, |ledger| {
            let under_way = ledger.append_async("goes on");
            assert!(under_way.wait_timeout(Duration::from_secs(5)).is_none());
            let unknown = under_way.wait().unwrap_err();
            assert!(matches!(unknown, AppendError::CalledFromWaker { .. }), "{unknown}");
            assert!(unknown.may_have_committed());
        });
        assert!(ledger.tail(0).map(Result::unwrap).any(|entry| *entry == *b"goes on"));
    }

    fn a_tail_reads_what_is_there_within_a_waker_and_does_not_wait_for_more() {
        let home = home();
        let ledger = alone(&home);
        ledger.append("first").unwrap();
        within_a_waker(&ledger, |ledger| {
            assert_eq!(*ledger.get(0).unwrap().unwrap(), *b"first");
            let mut tail = ledger.tail(0);
            assert_eq!(*tail.next().unwrap().unwrap(), *b"first");
            let mut tail = ledger.tail(ledger.committed().end);
            let refused = tail.next();
            assert!(matches!(refused, Some(Err(ReadError::CalledFromWaker))), "{refused:?}");
            let refused = tail.next_timeout(Duration::from_secs(5));
            assert!(matches!(refused, Err(ReadError::CalledFromWaker)), "{refused:?}");
        });
        assert!(ledger.append("after").is_ok());
    }

    fn a_ledger_is_shut_down_and_dropped_within_a_waker() {
        let home = home();
        let ledger = alone(&home);
        within_a_waker(&ledger, |ledger| ledger.shutdown().unwrap());
        drop(ledger);
        let mut again = None;
        eventually("the directory is free again", || {
            again = DLedger::builder(1).dir(home.path().join("log")).open().ok();
            again.is_some()
        });
    }
}
