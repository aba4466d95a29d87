//! Where the lab's objects are told: a directory of YAML that a standalone controller follows, or whoever takes its place.

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::place::Place;

/// Who is told of the lab's objects instead of the directory: an API server, say.
pub trait Objects: Debug + Send + Sync {
    /// An object is there, or says something else now: its whole text, as YAML. Answers the UID that it goes by from now
    /// on, if that is not the lab's to choose.
    fn put(&self, object: &str) -> Result<Option<String>>;

    /// An object is gone. `kind` is in lower case; a namespace may be empty.
    fn remove(&self, kind: &str, namespace: &str, name: &str) -> Result<()>;
}

/// The lab's end of either.
#[derive(Debug)]
pub(crate) struct Store {
    place: Place,
    instead: Option<Arc<dyn Objects>>,
}

impl Store {
    pub(crate) fn new(place: Place, instead: Option<Arc<dyn Objects>>) -> Self {
        Self { place, instead }
    }

    /// Tells one object.
    pub(crate) fn put(&self, kind: &str, namespace: &str, name: &str, text: &str) -> Result<Option<String>> {
        match &self.instead {
            Some(instead) => {
                instead.put(text).with_context(|| format!("tell the API of {kind} {namespace}/{name}"))
            }
            None => self.place.publish(&self.path(kind, namespace, name), text).map(|()| None),
        }
    }

    pub(crate) fn remove(&self, kind: &str, namespace: &str, name: &str) -> Result<()> {
        if let Some(instead) = &self.instead {
            return instead
                .remove(kind, namespace, name)
                .with_context(|| format!("remove {kind} {namespace}/{name} from the API"));
        }
        let path = self.path(kind, namespace, name);
        std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))
    }

    fn path(&self, kind: &str, namespace: &str, name: &str) -> PathBuf {
        let parts = [kind, namespace, name].map(str::to_owned);
        let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        self.place.objects().join(format!("{}.yaml", parts.join("-")))
    }
}
