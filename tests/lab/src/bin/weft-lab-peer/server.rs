//! Servers: one thread per connection, for ever.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use serde_json::json;

use crate::words;

/// Serves each connection on a thread of its own. A connection that fails is its client's to notice.
pub(crate) fn serve(
    listen: SocketAddr,
    conversation: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen)?;
    let conversation = Arc::new(conversation);
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                eprintln!("accept: {error}");
                continue;
            }
        };
        let conversation = conversation.clone();
        thread::spawn(move || {
            if let Err(error) = conversation(stream) {
                eprintln!("connection: {error}");
            }
        });
    }
}

fn send_back(stream: &TcpStream) -> io::Result<()> {
    // Not `TcpStream` to itself with `&`: the copy goes through splice, which not every application uses.
    let mut buffer = vec![0; 64 << 10];
    let (mut from, mut to) = (stream, stream);
    loop {
        match io::Read::read(&mut from, &mut buffer)? {
            0 => return stream.shutdown(std::net::Shutdown::Write),
            count => to.write_all(&buffer[..count])?,
        }
    }
}

pub(crate) fn echo(listen: SocketAddr) -> anyhow::Result<()> {
    serve(listen, |stream| {
        stream.set_nodelay(true)?;
        send_back(&stream)
    })
}

pub(crate) fn banner(listen: SocketAddr, text: String) -> anyhow::Result<()> {
    serve(listen, move |mut stream| {
        stream.write_all(format!("{text}\r\n").as_bytes())?;
        send_back(&stream)
    })
}

pub(crate) fn print_peer(listen: SocketAddr) -> anyhow::Result<()> {
    serve(listen, |mut stream| {
        let line = json!({
            "peer": words::address(stream.peer_addr()),
            "local": words::address(stream.local_addr()),
        });
        println!("{line}");
        stream.write_all(format!("{line}\n").as_bytes())
    })
}
