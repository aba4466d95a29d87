use std::net::TcpStream;

use super::*;

#[test]
fn all_addresses_are_those_of_both_families() {
    let listener = tcp("[::]:0".parse().unwrap()).unwrap();
    let port = listener.local_addr().unwrap().port();
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    if listener.local_addr().unwrap().is_ipv6() {
        TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
    }
}

#[test]
fn one_address_is_that_one_and_taken_is_taken() {
    let listener = tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = listener.local_addr().unwrap();
    assert!(TcpStream::connect((Ipv4Addr::new(127, 0, 0, 2), addr.port())).is_err());
    assert_eq!(tcp(addr).unwrap_err().kind(), io::ErrorKind::AddrInUse);
}
