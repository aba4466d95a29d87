//! Where the objects are.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::shape::Shape;

/// A place that a controller can be pointed at, and in which objects can be changed.
pub trait Home {
    /// Puts a mesh there.
    fn fill(&mut self, shape: Shape) -> Result<()>;
    /// How a controller is told of it.
    fn flags(&self) -> Vec<String>;
    /// Gives the changing pod its next address. The change counts from the moment before the call.
    fn change(&mut self, revision: u32) -> Result<()>;
}

/// A directory of YAML files: the standalone mode.
#[derive(Debug)]
pub struct Directory {
    objects: PathBuf,
}

impl Directory {
    /// An empty one.
    pub fn create(place: &Path) -> Result<Self> {
        let objects = place.join("objects");
        fs::create_dir(&objects).with_context(|| format!("make {}", objects.display()))?;
        Ok(Self { objects })
    }

    fn put(&self, (name, text): (String, String)) -> Result<()> {
        let (path, new) = (self.objects.join(&name), self.objects.join(format!(".{name}")));
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &path))
            .with_context(|| format!("write {}", path.display()))
    }
}

impl Home for Directory {
    fn fill(&mut self, shape: Shape) -> Result<()> {
        shape.files().try_for_each(|file| self.put(file))?;
        self.change(0)
    }

    fn flags(&self) -> Vec<String> {
        vec![format!("--dir={}", self.objects.display())]
    }

    fn change(&mut self, revision: u32) -> Result<()> {
        self.put(Shape::changing(revision))
    }
}
