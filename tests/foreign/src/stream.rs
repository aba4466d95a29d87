//! One tunnel, of either end: what is said, what is heard, and how it ends.

use std::future::poll_fn;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};

/// How long one step may take.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A tunnel that was answered with 200.
#[derive(Debug)]
pub struct Stream {
    /// What this end says.
    pub send: SendStream<Bytes>,
    /// What the other end says.
    pub receive: RecvStream,
}

/// How the other end ended its side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// END_STREAM.
    Clean,
    /// RST_STREAM with this code.
    Reset(Reason),
    /// The connection went away under it.
    Lost,
}

impl Stream {
    /// Says all of it, within what the other end grants.
    pub async fn say(&mut self, data: impl Into<Bytes>) -> Result<()> {
        say(&mut self.send, data.into()).await
    }

    /// Says that no more will come.
    pub fn end(&mut self) -> Result<()> {
        Ok(self.send.send_data(Bytes::new(), true)?)
    }

    /// Resets it.
    pub fn reset(mut self, reason: Reason) {
        self.send.send_reset(reason);
    }

    /// Hears exactly these words.
    pub async fn expect(&mut self, words: &[u8]) -> Result<()> {
        let heard = hear(&mut self.receive, words.len()).await?;
        ensure!(heard == words, "heard {:?}", String::from_utf8_lossy(&heard));
        Ok(())
    }

    /// Says something and hears it back.
    pub async fn echo(&mut self, words: &'static [u8]) -> Result<()> {
        self.say(words).await?;
        self.expect(words).await
    }

    /// Passes over what still comes, to the end.
    pub async fn ending(&mut self) -> Result<Ending> {
        within(async {
            loop {
                match self.receive.data().await {
                    Some(Ok(data)) => self.receive.flow_control().release_capacity(data.len())?,
                    Some(Err(error)) => return Ok(ended(&error)),
                    None => return Ok(Ending::Clean),
                }
            }
        })
        .await
        .context("wait for the end of the tunnel")
    }
}

/// Says all of it, within what the other end grants.
pub async fn say(send: &mut SendStream<Bytes>, mut data: Bytes) -> Result<()> {
    within(async {
        while !data.is_empty() {
            send.reserve_capacity(data.len());
            let granted = match send.capacity() {
                0 => poll_fn(|cx| send.poll_capacity(cx)).await.context("the tunnel is closed")??,
                granted => granted,
            };
            send.send_data(data.split_to(granted.min(data.len())), false)?;
        }
        Ok(())
    })
    .await
    .context("say something")
}

/// Hears so many bytes.
pub async fn hear(receive: &mut RecvStream, bytes: usize) -> Result<Vec<u8>> {
    let mut heard = Vec::new();
    let all = within(async {
        while heard.len() < bytes {
            let data = receive.data().await.context("the clean end of the stream")??;
            receive.flow_control().release_capacity(data.len())?;
            heard.extend_from_slice(&data);
        }
        Ok(())
    });
    all.await.with_context(|| format!("after {} of {bytes} bytes", heard.len()))?;
    Ok(heard)
}

/// What an error of a stream says about its end.
pub fn ended(error: &h2::Error) -> Ending {
    match error.reason() {
        Some(reason) if error.is_reset() && error.is_remote() => Ending::Reset(reason),
        _ => Ending::Lost,
    }
}

/// Bounded by [`PATIENCE`] without any progress to show: for steps, not for bulk.
pub async fn within<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(3 * PATIENCE, work).await {
        Ok(result) => result,
        Err(_) => bail!("nothing for {:?}", 3 * PATIENCE),
    }
}
