//! Folders to deploy: the probe, which does whatever a test asks it to, and the real examples.

use std::fs;
use std::path::{Path, PathBuf};

use drowse_api::deployment::AppType;
use tempfile::TempDir;

use crate::machine;

/// A folder with an app in it, gone when dropped.
#[derive(Debug)]
pub struct App {
    folder: TempDir,
    app_type: AppType,
}

impl App {
    /// An empty folder.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn empty(app_type: AppType) -> Self {
        Self { folder: TempDir::with_prefix("drowse-app-").expect("a folder"), app_type }
    }

    /// The probe (`tests/apps/probe.py`): answers `VERSION PID` at `/`, and see there for the rest.
    /// Needs nothing but the python stack, so it builds without any package registry.
    #[must_use]
    pub fn probe(version: &str) -> Self {
        Self::empty(AppType::Python)
            .file("server.py", include_str!("../apps/probe.py"))
            .file("requirements.txt", "")
            .file("Procfile", "web: exec python3 -u server.py\n")
            .file("version", version)
    }

    /// A page and its 404, without a build.
    #[must_use]
    pub fn page(text: &str) -> Self {
        Self::empty(AppType::Static).file("index.html", text).file("404.html", "no such page here")
    }

    /// With this file, made or overwritten.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().expect("inside the folder")).expect("a folder");
        fs::write(path, content).expect("written");
        self
    }

    /// With these variables, set by the app's `.profile`.
    #[must_use]
    pub fn profile(self, variables: &[(&str, &str)]) -> Self {
        let lines: String = variables.iter().map(|(name, value)| format!("export {name}='{value}'\n")).collect();
        self.file(".profile", lines)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Its type.
    #[must_use]
    pub fn app_type(&self) -> AppType {
        self.app_type
    }
}

/// One of `examples/`.
#[must_use]
pub fn example(name: &str) -> PathBuf {
    machine::repository().join("examples").join(name)
}
