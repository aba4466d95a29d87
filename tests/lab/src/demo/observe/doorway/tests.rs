#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::Read as _;

use super::*;

#[test]
fn both_directions_pass_and_each_end_is_passed_on() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let pair = || {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    };
    let ((mut browser, near), (mut server, far)) = (pair(), pair());
    thread::scope(|scope| {
        scope.spawn(|| relay(&near, &far));
        browser.write_all(b"question").unwrap();
        browser.shutdown(Shutdown::Write).unwrap();
        let mut text = String::new();
        server.read_to_string(&mut text).unwrap();
        assert_eq!(text, "question");
        server.write_all(b"answer").unwrap();
        drop(server);
        text.clear();
        browser.read_to_string(&mut text).unwrap();
        assert_eq!(text, "answer");
    });
}

#[test]
fn guests_are_counted_and_go() {
    let all = Arc::new(AtomicUsize::new(0));
    let (one, two) = (Guest::count(&all), Guest::count(&all));
    assert_eq!((one.number, two.number), (1, 2));
    drop((one, two));
    assert_eq!(all.load(Ordering::Relaxed), 0);
}
