#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use super::*;

/// A message about one socket, as the kernel writes it.
fn message(family: i32, state: u8, ports: [u16; 2], addresses: [[u8; 16]; 2]) -> Vec<u8> {
    let mut body = vec![family as u8, state, 0, 0];
    body.extend(ports[0].to_be_bytes());
    body.extend(ports[1].to_be_bytes());
    body.extend(addresses[0]);
    body.extend(addresses[1]);
    body.extend([0; 12]);
    // Expiry, queues, user, inode.
    body.extend([0; 20]);
    let mut message = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend([0; 10]);
    message.extend(body);
    message
}

fn done(code: i32) -> Vec<u8> {
    let mut message = 20_u32.to_ne_bytes().to_vec();
    message.extend((libc::NLMSG_DONE as u16).to_ne_bytes());
    message.extend([0; 10]);
    message.extend(code.to_ne_bytes());
    message
}

fn v4(octets: [u8; 4]) -> [u8; 16] {
    let mut all = [0; 16];
    all[..4].copy_from_slice(&octets);
    all
}

#[test]
fn a_request_has_the_kernels_size_and_asks_for_no_dead_sockets() {
    let bytes = request(SOCK_DESTROY, 5, 10, 0, STATES, &[7; ID]);
    assert_eq!(bytes.len(), 72);
    assert_eq!(bytes[..4], 72_u32.to_ne_bytes());
    assert_eq!(bytes[4..6], 21_u16.to_ne_bytes());
    assert_eq!(bytes[16..20], [10, 6, 0, 0]);
    let states = u32::from_ne_bytes(bytes[20..24].try_into().unwrap());
    // ESTABLISHED, SYN_SENT, …, LISTEN; neither TIME_WAIT nor CLOSE nor what is no socket yet.
    let wanted = [1, 2, 3, 4, 5, 8, 9, 10, 11];
    assert_eq!((0..32).filter(|bit| states & 1 << bit != 0).collect::<Vec<_>>(), wanted);
    assert_eq!(bytes[24..], [7; ID]);
}

#[test]
fn a_dump_is_read_over_several_datagrams_and_mapped_addresses_are_ipv4() {
    let mapped = std::net::Ipv4Addr::new(10, 0, 0, 9).to_ipv6_mapped().octets();
    let mut first = message(libc::AF_INET, 1, [40_000, 80], [v4([10, 0, 0, 1]), v4([10, 96, 0, 1])]);
    first.extend(message(libc::AF_INET6, 2, [40_001, 81], [mapped, mapped]));
    let mut found = Vec::new();
    assert!(!read_dump(&first, &mut found, read_socket).unwrap());
    let mut last = message(libc::AF_INET6, LISTEN, [81, 0], [[0; 16]; 2]);
    last.extend(done(0));
    assert!(read_dump(&last, &mut found, read_socket).unwrap());
    let ends: Vec<_> = found.iter().map(|s| format!("{} {}", s.local, s.remote)).collect();
    assert_eq!(ends, ["10.0.0.1:40000 10.96.0.1:80", "10.0.0.9:40001 10.0.0.9:81", "[::]:81 [::]:0"]);
    assert_eq!(found.iter().map(TcpSocket::listens).collect::<Vec<_>>(), [false, false, true]);
}

#[test]
fn what_the_kernel_refuses_is_an_error_and_garbage_is_no_socket() {
    let error = read_dump(&done(-libc::EOPNOTSUPP), &mut Vec::new(), read_socket).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
    assert!(read_dump(&[], &mut Vec::new(), read_socket).is_err());
    let mut found = Vec::new();
    let whole = message(libc::AF_INET, 1, [1, 2], [[0; 16]; 2]);
    for length in 1..whole.len() {
        let _ = read_dump(&whole[..length], &mut found, read_socket);
    }
    assert!(found.is_empty());
}

#[test]
fn a_connection_of_this_process_is_seen() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let client = std::net::TcpStream::connect(to).unwrap();
    // SAFETY: as in `open`; in this process's own namespace.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_SOCK_DIAG);
        assert!(fd >= 0);
        OwnedFd::from_raw_fd(fd)
    };
    let all = Diag { socket }.sockets().unwrap();
    let own = client.local_addr().unwrap();
    assert!(all.iter().any(|socket| socket.local == own && socket.remote == to));
    assert!(all.iter().any(|socket| socket.local == to && socket.listens()));
}
