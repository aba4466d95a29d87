#![allow(clippy::unwrap_used, reason = "a test")]

use std::net::TcpListener;

use super::*;

/// Answers one request after the other with these.
fn server(answers: &'static [&'static str]) -> ReadyArgs {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut piece = [0; 256];
                let read = stream.read(&mut piece).unwrap();
                assert!(read > 0, "cut off");
                request.extend_from_slice(&piece[..read]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    ReadyArgs { address }
}

#[test]
fn an_end_that_comes_up_is_waited_for() {
    let args = server(&[
        "HTTP/1.1 503 Service Unavailable\r\n\r\nworld: not yet\n",
        "HTTP/1.1 200 OK\r\n\r\nready\n",
    ]);
    let answer = run(&args, Duration::from_secs(30)).unwrap();
    assert_eq!((answer.stdout.as_str(), answer.exit_code), ("ready\n", 0));
}

#[test]
fn nobody_there_is_an_error_that_names_the_address() {
    // Bound, so that nobody else is given the port, and not listening.
    let taken = tokio::net::TcpSocket::new_v4().unwrap();
    taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let free = taken.local_addr().unwrap().to_string();
    let failure = run(&ReadyArgs { address: free.clone() }, Duration::from_millis(300)).unwrap_err();
    assert_eq!(failure.exit_code(), 3);
    assert!(failure.to_string().contains(&free), "{failure}");
}
