//! Where the replicas of the demo keep what they must not forget.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use viewring_runtime::random;

use crate::exit::Failure;

/// A folder for temporary files with one for each replica in it. It goes, with all that is in it,
/// when this is dropped.
pub(super) struct Folder(PathBuf);

impl Folder {
    /// # Errors
    /// When it cannot be made.
    pub(super) fn new(replicas: u8) -> Result<Self, Failure> {
        Self::new_in(&std::env::temp_dir(), replicas)
    }

    fn new_in(parent: &Path, replicas: u8) -> Result<Self, Failure> {
        // Nobody can have made one of this name before us: making it would fail.
        let path = parent.join(format!("viewring-demo-{:016x}", random()));
        let make = |path: &Path| {
            DirBuilder::new().mode(0o700).create(path).map_err(|error| {
                Failure::setup(format_args!(
                    "cannot make {}: {error}; TMPDIR says where else",
                    path.display()
                ))
            })
        };
        make(&path)?;
        let folder = Self(path);
        (0..replicas).try_for_each(|id| make(&folder.of(id)))?;
        Ok(folder)
    }

    /// The folder of one replica.
    pub(super) fn of(&self, id: u8) -> PathBuf {
        self.0.join(id.to_string())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!("cannot remove {}: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_there_and_then_it_is_gone() {
        viewring_runtime::block_on(async {
            let folder = Folder::new(3).expect("temporary files can be made");
            let path = folder.0.clone();
            fs::write(folder.of(2).join("view"), "x").expect("it can be written");
            assert!(path.is_dir());
            drop(folder);
            assert!(!path.exists());
            assert!(Folder::new_in(&path, 3).is_err(), "its parent is gone");
        })
        .expect("io_uring");
    }
}
