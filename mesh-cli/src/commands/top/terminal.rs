//! The terminal, taken and given back: by the end of its guard, before a panic's message, and when a signal comes.

use std::io::{self, IsTerminal as _, Stdout, stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::{Frame, Terminal};
use tokio::signal::unix::{SignalKind, signal};

/// The terminal, as long as it is ours.
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    ended: Arc<AtomicBool>,
}

impl Screen {
    /// Takes the terminal.
    pub(super) fn open() -> io::Result<Self> {
        // First of all, so that there is no moment at which it would be left as it is.
        restore_before_panics();
        let ended = Arc::new(AtomicBool::new(false));
        watch_signals(ended.clone())?;
        enable_raw_mode()?;
        let opened = execute!(stdout(), EnterAlternateScreen)
            .and_then(|()| Terminal::new(CrosstermBackend::new(stdout())));
        match opened {
            Ok(terminal) => Ok(Self { terminal, ended }),
            Err(error) => {
                restore();
                Err(error)
            }
        }
    }

    /// Draws a picture; only what is different goes to the terminal.
    pub(super) fn draw(&mut self, picture: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.terminal.draw(picture).map(drop)
    }

    /// Somebody wants this process to end.
    pub(super) fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Best effort: a terminal that is gone needs nothing.
fn restore() {
    let _ = disable_raw_mode();
    let _ = execute!(stdout(), LeaveAlternateScreen, Show);
}

fn restore_before_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        restore();
        before(panic);
    }));
}

/// How often to see whether the terminal is still there.
const LOOK: Duration = Duration::from_secs(1);
/// How long the loop may take to end by itself.
const GRACE: Duration = Duration::from_secs(1);

/// SIGINT, SIGTERM, SIGHUP and a terminal that is gone end the loop, which gives the terminal back. Where the loop does not end (to
/// read from a terminal that is gone returns at once, again and again), the process does.
fn watch_signals(ended: Arc<AtomicBool>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut signals = {
        let _inside = runtime.enter();
        [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
            .map(signal)
            .into_iter()
            .collect::<io::Result<Vec<_>>>()?
    };
    thread::spawn(move || {
        runtime.block_on(async {
            let [first, second, third] = signals.as_mut_slice() else { return };
            let gone = async {
                while stdout().is_terminal() {
                    tokio::time::sleep(LOOK).await;
                }
            };
            tokio::select! {
                _ = first.recv() => {}
                _ = second.recv() => {}
                _ = third.recv() => {}
                () = gone => {}
            }
        });
        ended.store(true, Ordering::Relaxed);
        thread::sleep(GRACE);
        restore();
        std::process::exit(1);
    });
    Ok(())
}
