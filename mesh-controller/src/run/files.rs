//! The standalone home: a directory of objects, a state directory, a file of tokens.

use std::path::Path;
use std::sync::Arc;

use mesh_identity::{Authority as _, LiveAuthority};
use tokio::sync::mpsc;

use super::{RunError, Serving, Shell, authority};
use crate::config::Config;
use crate::index::Captures;
use crate::issue::Issuer;
use crate::issue::files::{self, Given};
use crate::publish::{Callers, ControlService, Tokens};
use crate::reconcile::policies;
use crate::state::{self, StateDir};
use crate::watch::settled::Stop;
use crate::watch::{Batch, FilesConfig, Source, Told};

/// Read and checked.
pub(super) struct Prepared {
    tokens: Tokens,
    source: Source,
    first: Batch,
    state_dir: StateDir,
    authority: LiveAuthority,
}

/// The first world is published; the rest follows once it is run.
pub(super) struct FilesHome {
    told: mpsc::Receiver<Told>,
    stop_watching: Stop,
    state_dir: StateDir,
    /// The authority's files, to be followed.
    given: (Given, LiveAuthority),
    serving: Serving,
    about: String,
}

impl FilesHome {
    /// Reads and checks everything, and what agents reported before a restart.
    pub(super) fn prepare(config: &Config, dir: &Path) -> Result<(Prepared, Captures), RunError> {
        let tokens = Tokens::open(config.agent_tokens.as_ref().ok_or(RunError::NoCallers)?)?;
        let files = FilesConfig { directory: dir.into(), reading: config.reading(&config.trust_domain) };
        let (source, first) = Source::open(files)?;
        let state_dir = StateDir::open(&config.state_dir)?;
        let authority = authority::from_disk(config, &config.trust_domain)?;
        let root = authority.roots().to_pem();
        if config.ca_cert.is_some() && state_dir.holds_another_authority(&root) {
            return Err(RunError::TwoAuthorities(config.state_dir.clone()));
        }
        state_dir.keep_root(&root)?;
        let captures = state_dir.captures()?;
        Ok((Prepared { tokens, source, first, state_dir, authority }, captures))
    }

    /// Follows the files and serves until shutdown.
    pub(super) async fn run(self, shell: Shell) -> Result<(), RunError> {
        let Self { mut told, stop_watching, state_dir, given: (given, live), serving, about } = self;
        let hub = shell.hub.clone();
        let (metrics, stop) = (shell.metrics.clone(), shell.shutdown.clone());
        tokio::spawn(files::follow(given, live, state_dir.clone(), metrics, stop));
        tokio::spawn(policies::keep(hub.clone(), None, shell.shutdown.clone()));
        tokio::spawn(state::keep_captures(state_dir, hub.clone(), shell.shutdown.clone()));
        tokio::spawn(async move {
            while let Some(told) = told.recv().await {
                match told {
                    Told::Changed(batch) => hub.apply(batch),
                    Told::Settled(asking) => {
                        for question in asking {
                            // Whoever has hung up is not waiting any more.
                            let _ = question.send(());
                        }
                    }
                }
            }
        });
        let served = shell.serve(serving, &about).await;
        drop(stop_watching);
        served
    }
}

impl Prepared {
    /// Publishes the first world.
    pub(super) fn open(self, config: &Config, shell: &Shell) -> Result<FilesHome, RunError> {
        let Self { tokens, source, first, state_dir, authority } = self;
        shell.trust_domain_is(&config.trust_domain);
        shell.hub.apply(first);
        shell.hub.loaded();
        let issuer = Issuer::new(Arc::new(authority.clone()), config.cert_lifetime);
        let control =
            ControlService::new(shell.hub.clone(), Callers::File(tokens), issuer, shell.shutdown.clone());
        let given = (Given::of(config), authority.clone());
        let serving = Serving::new(authority, control)?;
        let (told, asker, stop_watching) = source.follow()?;
        shell.files_are(asker);
        let dir = config.dir.as_deref().unwrap_or(Path::new("")).display();
        let about = format!("directory {dir}, root {}", config.state_dir.join("root.pem").display());
        Ok(FilesHome { told, stop_watching, state_dir, given, serving, about })
    }
}
