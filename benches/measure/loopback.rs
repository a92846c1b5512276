//! The raw network of one machine: how long an answer takes over the loopback device.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// What comes back: an acknowledgement.
const ANSWER_BYTES: usize = 64;

/// The median time from a message of `bytes` to its answer, over one connection, for `time`.
pub(crate) fn round_trip(bytes: usize, time: Duration) -> Duration {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
    let address = listener.local_addr().expect("it is bound");
    let answering = thread::spawn(move || answer(&listener, bytes));
    let mut stream = TcpStream::connect(address).expect("somebody listens");
    stream.set_nodelay(true).expect("a connection of its own");
    let mut latency = Histogram::<u64>::new(3).expect("three digits are a legal precision");
    let (message, mut reply) = (vec![0x5a; bytes], [0; ANSWER_BYTES]);
    let began = Instant::now();
    let mut now = began;
    while now - began < time {
        stream.write_all(&message).expect("the other side reads");
        stream.read_exact(&mut reply).expect("the other side answers");
        let after = Instant::now();
        latency.record((after - now).as_nanos() as u64).expect("it resizes");
        now = after;
    }
    drop(stream);
    answering.join().expect("it ends with the connection");
    Duration::from_nanos(latency.value_at_quantile(0.5))
}

fn answer(listener: &TcpListener, bytes: usize) {
    let (mut stream, _) = listener.accept().expect("somebody connects");
    stream.set_nodelay(true).expect("a connection of its own");
    let mut message = vec![0; bytes];
    while stream.read_exact(&mut message).is_ok() {
        stream.write_all(&[0; ANSWER_BYTES]).expect("the other side waits for it");
    }
}
