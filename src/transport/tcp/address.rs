//! Parses and resolves the text of an address.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs};

/// Resolves `text`, a host and a port. Beyond the syntax of the standard library, an IPv6 address
/// may have a zone: `[fe80::1%eth0]:7001`. May wait for name servers.
pub(super) fn resolve(text: &str) -> io::Result<Vec<SocketAddr>> {
    let resolved = match with_zone(text) {
        Some(host_and_port) => host_and_port.to_socket_addrs(),
        None => text.to_socket_addrs(),
    };
    Ok(resolved?.collect())
}

/// An address with a zone, without its brackets, as the system's resolver takes it.
fn with_zone(text: &str) -> Option<(&str, u16)> {
    let (address, port) = text.strip_prefix('[')?.rsplit_once("]:")?;
    Some((address, port.parse().ok()?)).filter(|_| address.contains('%'))
}

/// Whether `text` is a host name that resolved to a loopback address, `listens`, without being one
/// by intent. Some systems resolve the name of the machine to 127.0.1.1.
pub(super) fn is_reached_from_here_only(text: &str, listens: SocketAddr) -> bool {
    let host = text.rsplit_once(':').map_or(text, |(host, _)| host);
    let is_literal = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    let host = host.to_ascii_lowercase();
    let is_meant = is_literal || host == "localhost" || host.ends_with(".localhost");
    listens.ip().is_loopback() && !is_meant
}

/// Rejects an address that TCP can never connect to. The own one may have port 0, for a free port.
pub(super) fn check_address(address: &str, is_own: bool) -> Result<(), String> {
    let wrong = |why: &str| {
        Err(format!("{address:?} {why}: an address is a host and a port, \"10.0.0.1:7001\""))
    };
    let Some((host, port)) = address.rsplit_once(':') else { return wrong("has no port") };
    let is_bracketed = host.starts_with('[') && host.ends_with(']');
    if host.contains(':') && !is_bracketed {
        return wrong("is an address of IPv6 without brackets, \"[2001:db8::1]:7001\"");
    }
    if host.is_empty() || host.contains(char::is_whitespace) {
        return wrong("names no host");
    }
    let is_ipv6 =
        |host: &str| host.split('%').next().is_some_and(|host| host.parse::<Ipv6Addr>().is_ok());
    if is_bracketed && !is_ipv6(host.trim_matches(['[', ']'])) {
        return wrong("is no address of IPv6");
    }
    match port.parse::<u16>() {
        Ok(0) if !is_own => wrong("has port 0, on which no node can be reached"),
        Ok(_) => Ok(()),
        Err(_) => wrong("has no port that is a number up to 65535"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_what_it_was_and_may_have_a_zone_besides() {
        assert_eq!(resolve("127.0.0.1:7").unwrap(), ["127.0.0.1:7".parse().unwrap()]);
        assert_eq!(resolve("[::1]:7").unwrap(), ["[::1]:7".parse().unwrap()]);
        assert!(resolve("127.0.0.1").is_err() && resolve("[fe80::1%lo]").is_err());
        assert!(resolve("[fe80::1%no-such-interface]:7").is_err());
    }

    #[test]
    fn what_cannot_be_connected_to_is_refused() {
        for good in
            ["10.0.0.1:7001", "node-1:7001", "[::1]:7001", "[fe80::1%eth0]:7001", "a.example.org:1"]
        {
            assert_eq!(check_address(good, false), Ok(()));
        }
        for bad in [
            "", "a", "a:", "a:x", "a:-1", "a:65536", ":7001", "::1:7001", "[::1]", "[x]:7001",
            "a b:1", "a:0",
        ] {
            assert!(check_address(bad, false).is_err(), "{bad}");
        }
        assert_eq!(check_address("127.0.0.1:0", true), Ok(()), "one's own port may be left open");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_zone_is_the_name_of_an_interface_or_its_number() {
        for text in ["[fe80::1%lo]:7", "[fe80::1%1]:7"] {
            assert_eq!(resolve(text).unwrap(), ["[fe80::1%1]:7".parse().unwrap()], "{text}");
        }
    }

    #[test]
    fn a_name_that_stands_for_this_machine_alone_is_told_from_one_that_is_meant_to() {
        let (inside, outside) = ("127.0.1.1:7".parse().unwrap(), "10.0.0.1:7".parse().unwrap());
        assert!(is_reached_from_here_only("node1:7", inside));
        assert!(is_reached_from_here_only("node1.example.org:7", "[::1]:7".parse().unwrap()));
        for meant in ["localhost:7", "LocalHost:7", "a.localhost:7", "127.0.1.1:7", "[::1]:7"] {
            assert!(!is_reached_from_here_only(meant, inside), "{meant}");
        }
        assert!(!is_reached_from_here_only("node1:7", outside));
    }
}
