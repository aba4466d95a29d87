//! Asking the thread that follows the files whether it has seen all of them.
//!
//! Whoever writes a policy and then waits for it means the one that was written, not the one before. Changes are gathered for a
//! moment, so an answer at once would be about that one: the question goes the same way as the changes, behind them.
//!
//! ```text
//! settled() ─ question, a byte into the pipe ─▶ the thread: what is there to be told ─▶ Told::Changed, Told::Settled ─▶ answer
//! ```

use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::oneshot;

/// How long the thread may be at something else: a look at a large directory, say. Then the answer is about what is known.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whoever has asked; told by being dropped or answered.
pub type Question = oneshot::Sender<()>;

/// Asks. Clones ask the same thread.
#[derive(Clone, Debug)]
pub struct Asker {
    questions: Sender<Question>,
    pipe: Weak<OwnedFd>,
}

/// Stops the thread when it is dropped.
#[derive(Debug)]
pub struct Stop(#[expect(dead_code, reason = "its being closed is the signal")] Arc<OwnedFd>);

/// The thread's end.
#[derive(Debug)]
pub(super) struct Asked {
    questions: Receiver<Question>,
    /// Readable when there is a question, closed at the end.
    pub(super) pipe: OwnedFd,
}

/// Both ends.
pub(super) fn pair() -> Result<(Asker, Asked, Stop), Errno> {
    // A thread that is stuck does not get whoever asks stuck as well.
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    let (write, (questions, asked)) = (Arc::new(write), channel());
    let asker = Asker { questions, pipe: Arc::downgrade(&write) };
    Ok((asker, Asked { questions: asked, pipe: read }, Stop(write)))
}

impl Asker {
    /// Back once all that had been written before is taken over, or where that takes too long.
    pub async fn settled(&self) {
        let (answer, settled) = oneshot::channel();
        let Some(pipe) = self.pipe.upgrade() else { return };
        if self.questions.send(answer).is_err() {
            return;
        }
        match nix::unistd::write(&*pipe, &[0]) {
            // Full: it is called already.
            Ok(_) | Err(Errno::EAGAIN) => {}
            // Where nobody reads any more there is nothing to wait for.
            Err(_) => return,
        }
        let _in_time = tokio::time::timeout(PATIENCE, settled).await;
    }
}

impl Asked {
    /// The thread is to stop.
    pub(super) fn is_over(&self) -> bool {
        self.state().contains(PollFlags::POLLHUP)
    }

    /// Who has asked so far. To be taken before looking: what they mean is there by then.
    pub(super) fn take(&self) -> Vec<Question> {
        if self.state().contains(PollFlags::POLLIN) {
            // One byte for each; what is left wakes the thread again, for nothing.
            let _ = nix::unistd::read(&self.pipe, &mut [0; 256]);
        }
        self.questions.try_iter().collect()
    }

    fn state(&self) -> PollFlags {
        let mut fds = [PollFd::new(self.pipe.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::ZERO);
        fds[0].revents().unwrap_or(PollFlags::empty())
    }
}
