//! Stacks: the base images that apps are built on, made on the node from Debian packages.
//!
//! What goes into one is data (`rootfs/stacks/NAME.toml`); where packages come from is the
//! machine's own apt configuration. A stack is one layer, tagged `stack/NAME` in the store with the
//! hash of its recipe, and is built again only when the recipe changed. `NAME-build` is what apps of a stack
//! are built with: a second layer, of what it has beside that stack.

mod apt;
mod build;
mod differs;
mod files;
mod npm;
mod run;

use std::collections::BTreeMap;
use std::path::PathBuf;

use drowse_api::{Digest, MemoryBytes};
use serde::Deserialize;

use crate::digest;
use crate::store::{ImageStore, StoreError};

pub use apt::SourcesError;
pub use build::{build, import};
pub use run::CommandError;

/// Raised when the way stacks are built changes what comes out of the same recipe.
const BUILDER: u32 = 1;
/// Note of a tag: the hash of the recipe.
const NOTE_RECIPE: &str = "dev.drowse.recipe";
/// Note of a tag: the image that it is a layer over.
const NOTE_BELOW: &str = "dev.drowse.below";
/// Note of a tag: the size of the unpacked layers in bytes.
const NOTE_SIZE: &str = "dev.drowse.size";

const RECIPES: [(&str, &str); 3] = [
    ("python", include_str!("../../stacks/python.toml")),
    ("node", include_str!("../../stacks/node.toml")),
    ("buildah", include_str!("../../stacks/buildah.toml")),
];

/// Those that are a layer over another.
const EXTENSIONS: [(&str, &str); 2] = [
    ("python-build", include_str!("../../stacks/python-build.toml")),
    ("node-build", include_str!("../../stacks/node-build.toml")),
];

/// What a stack has beside another's.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Extension {
    name: String,
    extends: String,
    packages: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// How a stack is made.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Its name: the tag is `stack/NAME`.
    pub name: String,
    /// The Debian release whose packages it is made of.
    pub suite: String,
    /// The packages, beside the essential ones.
    pub packages: Vec<String>,
    /// Packages that come with the essential ones and go again.
    #[serde(default)]
    pub purge: Vec<String>,
    /// Paths that are removed again, with all below.
    #[serde(default)]
    pub remove: Vec<String>,
    /// Folders that belong to the user.
    #[serde(default)]
    pub folders: Vec<String>,
    /// The user that apps run as.
    pub user: User,
    /// npm as its authors publish it.
    pub npm: Option<Npm>,
    /// The environment of the image.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The labels of the image.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The stack that it is a layer over, if it is no stack by itself.
    #[serde(skip)]
    pub over: Option<String>,
    /// Hash of all of the above, as it was written.
    #[serde(skip)]
    hash: String,
}

/// The user that apps run as.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// Its name, which is also its group's.
    pub name: String,
    /// Its id, which is also its group's.
    pub id: u32,
    /// Its home.
    pub home: String,
    /// Its shell.
    pub shell: String,
}

/// A release of npm.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Npm {
    /// The version, exactly.
    pub version: String,
    /// SHA-256 of the package, as hexadecimal digits.
    pub sha256: String,
}

/// A stack that the store has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stack {
    /// Its name.
    pub name: String,
    /// The manifest of its image.
    pub image: Digest,
    /// Size of its unpacked layer.
    pub size: MemoryBytes,
}

/// Why a stack could not be built.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// There is no such recipe.
    #[error("there is no stack {name:?}; there are: {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// A recipe that cannot be read.
    #[error("the recipe of stack {name} is not valid")]
    Recipe {
        /// Which.
        name: String,
        /// Where it goes wrong.
        #[source]
        source: toml::de::Error,
    },
    /// apt's configuration has no usable source.
    #[error(transparent)]
    Sources(#[from] SourcesError),
    /// Stacks are made of device nodes' and other users' files.
    #[error("building a stack needs root")]
    NotRoot,
    /// A program that is needed failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A file of the stack could not be written.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The names of all recipes, each after the one that it extends.
pub fn names() -> impl Iterator<Item = &'static str> {
    RECIPES.iter().chain(&EXTENSIONS).map(|(name, _)| *name)
}

/// The recipe of this name.
///
/// # Errors
/// [`StackError::Unknown`], naming those that exist.
pub fn load(name: &str) -> Result<Recipe, StackError> {
    let invalid = |source| StackError::Recipe { name: name.to_owned(), source };
    let find = |all: &[(&str, &'static str)]| all.iter().find(|(known, _)| *known == name).map(|(_, text)| *text);
    if let Some(text) = find(&EXTENSIONS) {
        let extension: Extension = toml::from_str(text).map_err(invalid)?;
        return Ok(extended(load(&extension.extends)?, extension, text));
    }
    let Some(text) = find(&RECIPES) else {
        let known = names().collect::<Vec<_>>().join(", ");
        return Err(StackError::Unknown { name: name.to_owned(), known });
    };
    let mut recipe: Recipe = toml::from_str(text).map_err(invalid)?;
    recipe.hash = digest::of(format!("{BUILDER} {} {text}", std::env::consts::ARCH).as_bytes()).hex().to_owned();
    Ok(recipe)
}

fn extended(base: Recipe, extension: Extension, text: &str) -> Recipe {
    let Recipe { name: below, mut packages, mut env, mut labels, hash, .. } = base;
    packages.extend(extension.packages);
    env.extend(extension.env);
    labels.extend(extension.labels);
    let hash = digest::of(format!("{hash} {text}").as_bytes()).hex().to_owned();
    // npm is in the layer below.
    Recipe { name: extension.name, packages, env, labels, hash, npm: None, over: Some(below), ..base }
}

/// The stacks that the store has.
///
/// # Errors
/// When the store's index cannot be read.
pub fn list(store: &ImageStore) -> Result<Vec<Stack>, StoreError> {
    let stacks = store.tags()?.into_iter().filter_map(|tag| {
        let name = tag.name.strip_prefix("stack/")?.to_owned();
        let size = tag.notes.get(NOTE_SIZE).and_then(|size| size.parse().ok()).unwrap_or_default();
        Some(Stack { name, image: tag.image, size: MemoryBytes(size) })
    });
    Ok(stacks.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_reads_and_names_itself() {
        for name in names() {
            let recipe = load(name).expect(name);
            assert_eq!(recipe.name, name);
            assert_eq!(recipe.user.id, drowse_api::image::APP_ID);
            assert_eq!(recipe.user.home, drowse_api::image::APP_FOLDER);
            assert!(recipe.env.contains_key("PATH"), "{name} has no PATH");
        }
    }

    #[test]
    fn an_unknown_stack_is_told_the_names_that_exist() {
        let error = load("cobol").expect_err("unknown").to_string();
        assert_eq!(error, r#"there is no stack "cobol"; there are: python, node, buildah, python-build, node-build"#);
    }
}
