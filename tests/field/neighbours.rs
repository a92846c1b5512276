//! Other programs, and what they do to connections.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::spawn;

use dledger::DLedger;

use crate::group::{addresses, eventually, home, leader};

/// Passes connections on to `target` until it is told to stall: then it takes nothing more, and keeps
/// what it has open.
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
                let (near, Ok(far)) = (near.unwrap(), TcpStream::connect(&target)) else { continue };
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

#[cfg(unix)]
facts! {
    // Programs in a pipe want to end when it breaks, and so does what embeds a library in C. A write to
    // a connection that is closed at the same moment must not be taken for that.
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
