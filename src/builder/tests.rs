//! Which settings are refused, and by what name.

use super::*;

fn refused(builder: Builder) -> &'static str {
    match builder.check() {
        Err(OpenError::Setting { setting, .. }) => setting,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[test]
fn nonsense_is_refused_by_the_name_of_its_knob() {
    let good = || Builder::new(1.into()).dir("somewhere");
    good().check().unwrap();
    good().peer(1, "a:1").peer(2, "b:2").check().unwrap();
    good().advertise(format!("a{}", "ä".repeat(127))).check().unwrap();
    // A group of one listens nowhere, and a transport of the host's own may understand
    // anything.
    good().peer(1, "a").check().unwrap();
    let custom = crate::transport::MemoryNetwork::new().transport(1.into());
    good().peer(1, "a").peer(2, "b").transport(custom).check().unwrap();
    good().spin(Duration::ZERO).check().unwrap();
    good().spin(SPIN_MAX).check().unwrap();
    let ms = Duration::from_millis;
    for (setting, builder) in [
        ("dir", Builder::new(1.into())),
        ("dir", good().dir("")),
        ("group", good().group("")),
        ("group", good().group("a/b")),
        ("group", good().group("-a")),
        ("group", good().group("a".repeat(64))),
        ("peer", Builder::new(0.into()).dir("x")),
        ("peer", good().peer(2, "b")),
        ("peer", good().peer(1, "a").peer(1, "b")),
        ("peer", good().peer(1, "a").peer(0, "b")),
        ("peer", good().peer(1, "a:0").peer(2, "b")),
        ("peer", good().peer(1, "a").peer(2, "b:2")),
        ("peer", good().peer(1, "a:0").peer(2, "b:0")),
        ("peer", good().peer(1, "a:0").peer(2, "b:65536")),
        ("peer", good().peer(1, "a:0").peer(2, ":7001")),
        ("peer", good().peer(1, "a:0").peer(2, "")),
        ("peer", good().peer(1, "a:0").peer(2, "::1:7001")),
        ("peer", good().peer(1, "a:0").peer(2, "[::1]")),
        ("peer", good().peer(1, "a:0").peer(2, "b c:7001")),
        ("peer", good().peers((1..=64u64).map(|id| (id, "a")))),
        ("advertise", good().advertise("a".repeat(256))),
        ("advertise", good().advertise("ä".repeat(128))),
        ("advertise", good().advertise("a\nb")),
        ("advertise", good().advertise("a\u{85}")),
        ("advertise", good().advertise("a\u{202E}")),
        ("segment_bytes", good().segment_bytes(100)),
        ("mapped_segments_max", good().mapped_segments_max(0)),
        ("max_entry_bytes", good().max_entry_bytes(0)),
        ("max_in_flight_bytes", good().max_in_flight_bytes(0)),
        ("catch_up_bytes_per_second", good().catch_up_bytes_per_second(1000)),
        ("append_timeout", good().append_timeout(Duration::ZERO)),
        ("heartbeat_interval", good().heartbeat_interval(Duration::ZERO)),
        ("election_timeout", good().election_timeout(ms(150))),
        ("election_timeout", good().election_timeout(Duration::MAX)),
        ("flush", good().flush(FlushPolicy::Async { interval: Duration::ZERO })),
        ("spin", good().spin(SPIN_MAX + Duration::from_nanos(1))),
    ] {
        assert_eq!(refused(builder), setting);
    }
}
