//! etcd: three members on loopback, a process each, the disk synced, and a client that speaks gRPC
//! to the leader. Started if `etcd` is on the PATH.
//!
//! The client is as thin as one can be: HTTP/2 by `h2` on one connection, and the few fields of two
//! messages by hand. What it costs is less than what a full client costs.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use http::Request;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use crate::clients;
use crate::measure::scratch::scratch;
use crate::measure::turn::Turn;
use crate::subject::Subject;

const READY_MAX: Duration = Duration::from_secs(20);
/// Keys that are put, over and over: etcd keeps every revision all the same.
const KEYS: u64 = 10_000;

pub(crate) struct Etcd {
    runtime: Runtime,
    leader: Client,
    // Before the directory, which they use until they have ended.
    members: Vec<Member>,
    _dir: TempDir,
}

struct Member(Child);

impl Drop for Member {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The version of the etcd that would be started, if there is one.
pub(crate) fn version() -> Option<String> {
    let output = Command::new("etcd").arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.lines().next()?.rsplit(' ').next()?.to_owned())
}

pub(crate) fn open() -> Option<Box<dyn Subject>> {
    version()?;
    let dir = scratch();
    let listeners: Vec<TcpListener> =
        (0..6).map(|_| TcpListener::bind("127.0.0.1:0").expect("loopback is there")).collect();
    let ports: Vec<u16> = listeners
        .iter()
        .map(|listener| listener.local_addr().expect("it is bound").port())
        .collect();
    drop(listeners);
    let (client_ports, peer_ports) = ports.split_at(3);
    let members =
        (0..3).map(|at| Member(start(at, client_ports, peer_ports, dir.path()))).collect();
    let runtime = clients::runtime();
    let leader = runtime.block_on(find_leader(client_ports));
    Some(Box::new(Etcd { runtime, leader, members, _dir: dir }))
}

fn start(at: usize, client_ports: &[u16], peer_ports: &[u16], dir: &Path) -> Child {
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let cluster: Vec<String> =
        peer_ports.iter().enumerate().map(|(at, port)| format!("m{at}={}", url(*port))).collect();
    let mut command = Command::new("etcd");
    command.args([
        "--name",
        &format!("m{at}"),
        "--initial-cluster",
        &cluster.join(","),
        "--log-level",
        "error",
        "--logger",
        "zap",
    ]);
    command.args([
        "--listen-client-urls",
        &url(client_ports[at]),
        "--advertise-client-urls",
        &url(client_ports[at]),
    ]);
    command.args([
        "--listen-peer-urls",
        &url(peer_ports[at]),
        "--initial-advertise-peer-urls",
        &url(peer_ports[at]),
    ]);
    command
        .args(["--quota-backend-bytes", "8589934592", "--data-dir"])
        .arg(dir.join(format!("m{at}")));
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("etcd was there a moment ago")
}

async fn find_leader(ports: &[u16]) -> Client {
    let deadline = Instant::now() + READY_MAX;
    while Instant::now() < deadline {
        for port in ports {
            if let Some(client) = Client::connect(*port).await
                && client.leads().await
            {
                return client;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("etcd has no leader within {READY_MAX:?}");
}

impl Subject for Etcd {
    fn append(&mut self, bytes: usize, window: usize, time: Duration) -> Turn {
        let value = Bytes::from(vec![0x5a; bytes]);
        let client = self.leader.clone();
        let next = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let pids: Vec<u32> = self.members.iter().map(|member| member.0.id()).collect();
        clients::run(
            &self.runtime,
            window,
            time,
            || pids.iter().map(|pid| cpu_of(*pid)).sum(),
            move || {
                let (client, value) = (client.clone(), value.clone());
                let key = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % KEYS;
                async move {
                    client.put(key, &value).await.expect("a healthy group takes every put");
                }
            },
        )
    }
}

/// Processor time of another process so far, where the system tells: in hundredths of a second.
fn cpu_of(pid: u32) -> Duration {
    let ticks = || {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
    };
    Duration::from_millis(10 * ticks().unwrap_or(0))
}

#[derive(Clone)]
struct Client(SendRequest<Bytes>);

impl Client {
    async fn connect(port: u16) -> Option<Client> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        stream.set_nodelay(true).ok()?;
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(1 << 20)
            .initial_connection_window_size(16 << 20)
            .initial_max_send_streams(2048);
        let (client, connection) = builder.handshake(stream).await.ok()?;
        tokio::spawn(async move { drop(connection.await) });
        Some(Client(client))
    }

    /// etcdserverpb.KV/Put with key (1) and value (2).
    async fn put(&self, key: u64, value: &[u8]) -> Result<(), h2::Error> {
        let mut request = BytesMut::with_capacity(value.len() + 32);
        request.put_u8(1 << 3 | 2);
        request.put_u8(8);
        request.put_u64(key);
        request.put_u8(2 << 3 | 2);
        put_varint(&mut request, value.len() as u64);
        request.put_slice(value);
        self.call("KV/Put", &request).await.map(drop)
    }

    /// etcdserverpb.Maintenance/Status: whether the member (2) in the header (1) is the leader (4).
    async fn leads(&self) -> bool {
        let Ok(answer) = self.call("Maintenance/Status", &[]).await else { return false };
        let fields = fields_of(&answer);
        let header =
            fields.iter().find_map(|(number, _, bytes)| (*number == 1).then(|| fields_of(bytes)));
        let member = header.and_then(|header| {
            header.iter().find_map(|(number, value, _)| (*number == 2).then_some(*value))
        });
        member.is_some()
            && member
                == fields.iter().find_map(|(number, value, _)| (*number == 4).then_some(*value))
    }

    async fn call(&self, method: &str, message: &[u8]) -> Result<Vec<u8>, h2::Error> {
        let request = Request::post(format!("http://127.0.0.1/etcdserverpb.{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .expect("it is a request");
        let mut framed = BytesMut::with_capacity(5 + message.len());
        framed.put_u8(0);
        framed.put_u32(message.len() as u32);
        framed.put_slice(message);
        let (response, mut stream) = self.0.clone().ready().await?.send_request(request, false)?;
        stream.send_data(framed.freeze(), true)?;
        let mut body = response.await?.into_body();
        let mut answer = Vec::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            answer.extend_from_slice(&chunk);
        }
        let trailers = body.trailers().await?;
        let status = trailers.as_ref().and_then(|trailers| trailers.get("grpc-status"));
        assert!(
            answer.len() >= 5 && status.is_none_or(|status| status == "0"),
            "{method} is refused: {trailers:?}"
        );
        Ok(answer.split_off(5))
    }
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// The fields of a protobuf message: number, and the value or the bytes.
fn fields_of(mut message: &[u8]) -> Vec<(u64, u64, &[u8])> {
    let mut fields = Vec::new();
    while let Some(tag) = varint(&mut message) {
        let Some(value) = varint(&mut message) else { break };
        let bytes = if tag & 7 == 2 {
            message.split_off(..(value as usize).min(message.len())).unwrap_or_default()
        } else {
            &[][..]
        };
        fields.push((tag >> 3, value, bytes));
    }
    fields
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
