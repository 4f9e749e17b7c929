//! Where in the tree something is: a slice, an id, and one of its two leaves.

use std::fmt;

use drowse_api::{DeploymentId, InstanceId, UserId};

/// A text that names no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} names no control group of ours: use 1 to 60 of a-z, 0-9 and hyphen")]
pub struct PlaceError {
    text: String,
}

/// Whose limits a place falls under.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slice {
    /// A user's instances: one pool.
    User(UserId),
    /// Builds, which can never take an instance down.
    Builds,
    /// What the node runs for everyone, such as the server of static sites.
    System,
}

impl Slice {
    /// The folder's name.
    #[must_use]
    pub fn folder(&self) -> String {
        match self {
            Self::User(user) => format!("user-{user}"),
            Self::Builds => "builds".to_owned(),
            Self::System => "system".to_owned(),
        }
    }

    /// The slice that has this folder, if one can have it.
    #[must_use]
    pub fn from_folder(name: &str) -> Option<Self> {
        match name {
            "builds" => Some(Self::Builds),
            "system" => Some(Self::System),
            _ => name.strip_prefix("user-").and_then(|user| UserId::parse(user).ok()).map(Self::User),
        }
    }
}

/// The groups of one instance, build or helper.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    slice: Slice,
    id: String,
}

impl Place {
    /// The place of `id` in `slice`.
    ///
    /// # Errors
    /// If `id` cannot be the name of a folder there.
    pub fn new(slice: Slice, id: impl Into<String>) -> Result<Self, PlaceError> {
        let id = id.into();
        let fits = (1..=60).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fits { Ok(Self { slice, id }) } else { Err(PlaceError { text: id }) }
    }

    /// The place of an instance.
    #[must_use]
    pub fn instance(user: &UserId, id: &InstanceId) -> Self {
        Self { slice: Slice::User(user.clone()), id: id.to_string() }
    }

    /// The place of a build.
    #[must_use]
    pub fn build(id: &DeploymentId) -> Self {
        Self { slice: Slice::Builds, id: id.to_string() }
    }

    /// The slice it is in.
    #[must_use]
    pub fn slice(&self) -> &Slice {
        &self.slice
    }

    /// Its name within the slice.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its folder below the root: `user-USER/ID`.
    #[must_use]
    pub fn folder(&self) -> String {
        format!("{}/{}", self.slice.folder(), self.id)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.folder())
    }
}

/// One of the two groups of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Leaf {
    /// Our pid 1: never frozen, killed only with the sandbox.
    Init,
    /// Everything the app starts.
    App,
}

impl Leaf {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Init, Self::App];

    /// The folder's name.
    #[must_use]
    pub fn folder(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::App => "app",
        }
    }
}

/// A command that runs beside an app, in a group of its own inside `app`: limited, frozen, counted and
/// killed with it, and killed by itself when it ends.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandGroup(String);

impl CommandGroup {
    /// A group for one command; ids are never the same.
    #[must_use]
    pub fn generate() -> Self {
        Self(InstanceId::generate().to_string())
    }

    /// The folder's name.
    #[must_use]
    pub fn folder(&self) -> String {
        format!("command-{}", self.0)
    }

    /// The group that has this folder, if one can have it.
    #[must_use]
    pub fn from_folder(name: &str) -> Option<Self> {
        let id = name.strip_prefix("command-")?;
        InstanceId::parse(id).ok().map(|id| Self(id.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_found_again_by_its_folder() {
        let user = UserId::generate();
        for slice in [Slice::User(user), Slice::Builds, Slice::System] {
            assert_eq!(Slice::from_folder(&slice.folder()), Some(slice));
        }
        assert_eq!(Slice::from_folder("init.scope"), None);
    }

    #[test]
    fn an_id_cannot_leave_its_slice() {
        for id in ["", "..", "a/b", "A", &"x".repeat(61)] {
            assert!(Place::new(Slice::Builds, id).is_err(), "{id}");
        }
    }
}
