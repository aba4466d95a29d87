//! Not a fault: an application stops reading. Promise: its connection is left alone for as long as it likes, through a
//! tunnel and in plaintext. A window that stays closed looks much like a host that is gone, and must not be taken for one.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use datapath::cast::Cast;
use datapath::conversation::{Conversation, Host};
use lab::Lab;
use lab::row::Table;

/// One who writes to somebody who does not read.
struct Stalled {
    name: String,
    both: Conversation,
    /// The client writes; else the server does.
    upload: bool,
    written: u64,
}

impl Stalled {
    fn ends(&self) -> (&TcpStream, &TcpStream) {
        let Conversation { client, server } = &self.both;
        if self.upload { (client, server) } else { (server, client) }
    }

    /// Writes until nothing has been taken for two seconds.
    fn fill(&mut self) -> Result<()> {
        let mut written = 0;
        let (mut writer, _) = self.ends();
        writer.set_write_timeout(Some(Duration::from_secs(2)))?;
        loop {
            match writer.write(&[7; 65_536]) {
                Ok(0) => bail!("nothing is taken"),
                Ok(count) => written += count as u64,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
                Err(error) => return Err(error.into()),
            }
        }
        self.written = written;
        Ok(())
    }

    /// Nothing has happened to it.
    fn look(&self) -> Result<()> {
        let (writer, reader) = self.ends();
        for (name, end) in [("writer", writer), ("reader", reader)] {
            let error = end.take_error()?;
            ensure!(error.is_none(), "the {name}'s end: {error:?}");
        }
        Ok(())
    }

    /// Reads all of it now.
    fn read_on(&self) -> Result<String> {
        let (writer, mut reader) = self.ends();
        writer.shutdown(Shutdown::Write)?;
        reader.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut buffer = vec![0; 1 << 20];
        let mut total = 0;
        loop {
            match reader
                .read(&mut buffer)
                .with_context(|| format!("after {total} of {} bytes", self.written))?
            {
                0 => break,
                count => total += count as u64,
            }
        }
        ensure!(total == self.written, "{total} of {} bytes", self.written);
        Ok(format!("{total} bytes, every one"))
    }
}

fn left_alone(name: &str, stall: Duration) {
    if !lab::ready(name) {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let mut table = Table::new(name);
        let cast = Cast::start(lab)?;
        let mut stalled = Vec::new();
        for way in cast.ways() {
            let host = Host::start(way.to)?;
            for (what, upload) in [("upload", true), ("download", false)] {
                for (family, address) in [("", way.to.v4().into()), (", IPv6", way.to.v6().into())] {
                    let both = host.converse(way.from, address)?;
                    let name = format!("{}: {what}{family}", way.name);
                    stalled.push(Stalled { name, both, upload, written: 0 });
                }
            }
        }
        std::thread::scope(|scope| -> Result<()> {
            let filling: Vec<_> = stalled.iter_mut().map(|one| scope.spawn(move || one.fill())).collect();
            filling.into_iter().try_for_each(|one| one.join().ok().context("a writer panicked")?)
        })?;
        // That nothing happens takes its time.
        let start = Instant::now();
        while start.elapsed() < stall {
            std::thread::sleep(Duration::from_millis(500));
            for one in &stalled {
                one.look().with_context(|| format!("{} after {:.1?}", one.name, start.elapsed()))?;
            }
        }
        for one in &stalled {
            table.row(&format!("{}, stalled for {} s", one.name, stall.as_secs()), || one.read_on());
        }
        table.finish();
        Ok(())
    });
}

#[test]
fn a_reader_that_stops_for_25_s_is_left_alone() {
    left_alone("a_reader_that_stops_for_25_s_is_left_alone", Duration::from_secs(25));
}

#[test]
#[ignore = "long: a minute of waiting"]
fn a_reader_that_stops_for_60_s_is_left_alone() {
    left_alone("a_reader_that_stops_for_60_s_is_left_alone", Duration::from_secs(60));
}
