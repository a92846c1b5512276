//! Other programs, and what they do to connections.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::spawn;

use dledger::DLedger;

use crate::group::{addresses, eventually, home, leader};

/// Passes connections on to `target` until it is made to stall: then it takes nothing more, and
/// keeps what it has open.
struct Proxy {
    address: SocketAddr,
    stalled: Arc<AtomicBool>,
}

impl Proxy {
    fn to(target: String) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // Accepted connections inherit it: so there is not much that a sender can be rid of.
        socket2::SockRef::from(&listener).set_recv_buffer_size(16 << 10).unwrap();
        let (address, stalled) = (listener.local_addr().unwrap(), Arc::<AtomicBool>::default());
        let flag = stalled.clone();
        spawn(move || {
            for near in listener.incoming() {
                let (near, Ok(far)) = (near.unwrap(), TcpStream::connect(&target)) else {
                    continue;
                };
                let (back, forth) = (flag.clone(), flag.clone());
                let ends = (near.try_clone().unwrap(), far.try_clone().unwrap());
                spawn(move || pass(near, far, &forth));
                spawn(move || pass(ends.1, ends.0, &back));
            }
        });
        Proxy { address, stalled }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, stalled: &AtomicBool) {
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        while stalled.load(Ordering::Relaxed) {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

/// Counts what is written to the log, from warnings up.
struct Lines;

static WARNINGS: AtomicUsize = AtomicUsize::new(0);

impl log::Log for Lines {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }
    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            println!("{}", record.args());
            WARNINGS.fetch_add(1, Ordering::Relaxed);
        }
    }
    fn flush(&self) {}
}

facts! {
    // Load balancers, readiness probes, port scanners, and who has the address of another service.
    fn foreign_connections_disturb_no_node_and_do_not_fill_the_log() {
        log::set_logger(&Lines).unwrap();
        log::set_max_level(log::LevelFilter::Warn);
        let home = home();
        let addresses = addresses(3);
        let nodes = [1u64, 2, 3].map(|id| {
            let builder = DLedger::builder(id).dir(home.path().join(id.to_string()));
            builder.peers((1u64..=3).zip(addresses.clone())).open().unwrap()
        });
        leader(&nodes);
        let greetings: [&[u8]; 4] = [
            b"",
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00",
            b"\0\0\0\0",
        ];
        for _ in 0..50 {
            for (address, greeting) in
                addresses.iter().flat_map(|address| greetings.map(|greeting| (address, greeting)))
            {
                let mut knocking = TcpStream::connect(address).unwrap();
                // The other end may have hung up by now.
                let _ = knocking.write_all(greeting);
            }
        }
        eventually("an append", || nodes.iter().any(|node| node.append("all is well").is_ok()));
        // Each node says it once in 10 s, and a slow machine may have had elections meanwhile.
        let warnings = WARNINGS.load(Ordering::Relaxed);
        assert!(warnings < 60, "{warnings} warnings for 600 connections");
    }

    // Connections of the run before linger for a minute in `TIME_WAIT`.
    fn a_node_that_starts_again_at_once_has_its_port_again() {
        let home = home();
        let addresses = addresses(3);
        let open = |id: usize| {
            let builder = DLedger::builder(id as u64).dir(home.path().join(id.to_string()));
            builder.peers((1u64..=3).zip(addresses.clone())).open().unwrap()
        };
        let mut nodes = [1, 2, 3].map(open);
        for round in 0..6 {
            leader(&nodes);
            nodes[round % 3].shutdown().unwrap();
            nodes[round % 3] = open(round % 3 + 1);
        }
        eventually("an append", || nodes.iter().any(|node| node.append("all is well").is_ok()));
    }
}

#[cfg(unix)]
facts! {
    // Programs in a pipe want to end when it breaks, and so does what embeds a library in C. A
    // write to a connection that is closed at the same moment must not be taken for that.
    fn a_host_that_ends_with_a_broken_pipe_does_not_end_with_a_broken_connection() {
        // SAFETY: this process has no handler that would be lost.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        let (home, addresses) = (home(), addresses(3));
        let proxy = Proxy::to(addresses[2].clone());
        let nodes = [1u64, 2, 3].map(|id| {
            let mut peers = addresses.clone();
            if id != 3 {
                peers[2] = proxy.address.to_string();
            }
            let builder = DLedger::builder(id).dir(home.path().join(id.to_string()));
            builder.peers((1u64..=3).zip(peers)).open().unwrap()
        });
        while leader(&nodes) == 2 {
            let _ = nodes[2].transfer_leadership(1);
        }
        let leading = &nodes[leader(&nodes)];
        let of_all = || nodes[2].committed().end == leading.committed().end;
        leading.append("all are connected").unwrap();
        eventually("all have it", of_all);
        proxy.stalled.store(true, Ordering::Relaxed);
        // Enough that the thread that writes to node 3 waits in the middle of it.
        for _ in 0..16 {
            leading.append(vec![5; 1 << 20]).unwrap();
        }
        leading.shutdown().unwrap();
        proxy.stalled.store(false, Ordering::Relaxed);
    }
}
