use super::*;

const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:280A 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 101 1 0000000000000000 100 0 0 10 0
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 102 1 0000000000000000 100 0 0 10 0
   2: 0A00000A:280A 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 103 1 0000000000000000 100 0 0 10 0
   3: 0100007F:280A 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 104 1 0000000000000000 20 4 30 10 -1
   4: 0100007F:280A 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 105 1 0000000000000000 100 0 0 10 0
";

#[test]
fn listening_sockets_are_read_as_far_as_they_go() {
    let mut inodes = Vec::new();
    listeners(TABLE.as_bytes(), 10250, &mut inodes).unwrap();
    // What comes behind the first established one is not looked at: the kernel lists no listener there.
    assert_eq!(inodes, [101, 103]);
    inodes.clear();
    listeners("a table\nthat is none\n".as_bytes(), 10250, &mut inodes).unwrap();
    assert_eq!(inodes, [0_u64; 0]);
}

#[test]
fn this_process_holds_its_own_sockets() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut inodes = Vec::new();
    for table in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        listeners(BufReader::new(File::open(table).unwrap()), port, &mut inodes).unwrap();
    }
    assert_eq!(inodes.len(), 1);
    assert_eq!(holders(&inodes), [std::process::id()]);
}
