//! All records in memory, and the steps that change them.
//!
//! A [`Desired`] is one revision of the store and never changes: who plans reads it without a lock.
//! A [`Step`] is what someone wants changed, with what it relies on.

use std::collections::BTreeMap;
use std::sync::Arc;

use drowse_api::event::EventKind;
use drowse_api::{AppName, ControllerId, DeploymentId, InstanceId};
use drowse_store::{Change, Entry, Record, Revision, Store, StoreError, record};
use jiff::Timestamp;

use crate::model::{
    App, Build, Counter, Cursor, Deployment, Instance, KnownRouter, Lineage, PastRelease, Registry, Stray, Token, User,
};

/// A record and the revision that last changed it.
#[derive(Debug)]
pub struct Held<T> {
    /// The record.
    pub value: Arc<T>,
    /// The revision that last changed it.
    pub modified: Revision,
}

impl<T> Clone for Held<T> {
    fn clone(&self) -> Self {
        Self { value: Arc::clone(&self.value), modified: self.modified }
    }
}

/// All records of one kind, by id. A clone is the same map until one of them changes.
#[derive(Debug)]
pub struct Table<T>(Arc<BTreeMap<String, Held<T>>>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Clone for Table<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Table<T> {
    /// The record with this id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Arc<T>> {
        self.0.get(id).map(|held| &held.value)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<T>> {
        self.0.values().map(|held| &held.value)
    }

    /// All of them with their revisions.
    pub fn held(&self) -> impl Iterator<Item = &Held<T>> {
        self.0.values()
    }

    /// Whether nothing of it changed between the two.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn map(&mut self) -> &mut BTreeMap<String, Held<T>> {
        Arc::make_mut(&mut self.0)
    }

    /// The revision that last changed a record; 0 if it does not exist.
    #[must_use]
    pub fn modified(&self, id: &str) -> Revision {
        self.0.get(id).map_or(Revision(0), |held| held.modified)
    }
}

/// Something that happened, before it has its number.
#[derive(Debug, Clone, PartialEq)]
pub struct Fact {
    /// What kind.
    pub kind: EventKind,
    /// When, if not now.
    pub at: Option<Timestamp>,
    /// The app it is about.
    pub app: Option<AppName>,
    /// The deployment it is about.
    pub deployment: Option<DeploymentId>,
    /// The instance it is about.
    pub instance: Option<InstanceId>,
    /// What and why.
    pub message: String,
}

impl Fact {
    /// A fact about nothing yet.
    #[must_use]
    pub fn new(kind: EventKind, message: impl Into<String>) -> Self {
        Self { kind, at: None, app: None, deployment: None, instance: None, message: message.into() }
    }

    /// About an app.
    #[must_use]
    pub fn app(mut self, app: &AppName) -> Self {
        self.app = Some(app.clone());
        self
    }

    /// About a deployment and its app.
    #[must_use]
    pub fn deployment(mut self, app: &AppName, deployment: &DeploymentId) -> Self {
        self.deployment = Some(deployment.clone());
        self.app(app)
    }

    /// About an instance, its deployment and its app.
    #[must_use]
    pub fn instance(mut self, instance: &Instance) -> Self {
        self.instance = Some(instance.id.clone());
        self.deployment(&instance.app, &instance.deployment)
    }
}

/// Changes that belong together, and what happened with them. Carried out only if neither the
/// records it changes nor its guards were changed since it was decided.
#[derive(Debug, Clone, Default)]
pub struct Step {
    /// Keys of records that it relies on without changing them.
    pub guards: Vec<String>,
    /// What it changes.
    pub writes: Vec<Write>,
    /// What is told of it.
    pub facts: Vec<Fact>,
}

impl Step {
    /// A step that changes this.
    #[must_use]
    pub fn new(write: impl Into<Write>) -> Self {
        Self { writes: vec![write.into()], ..Self::default() }
    }

    /// And this.
    #[must_use]
    pub fn and(mut self, write: impl Into<Write>) -> Self {
        self.writes.push(write.into());
        self
    }

    /// Told so.
    #[must_use]
    pub fn told(mut self, fact: Fact) -> Self {
        self.facts.push(fact);
        self
    }

    /// Only if this record stays as it is.
    #[must_use]
    pub fn guarded<T: Record>(mut self, record: &T) -> Self {
        self.guards.push(record::key::<T>(&record.id()));
        self
    }

    /// Every key that it relies on.
    pub fn keys(&self) -> impl Iterator<Item = String> + '_ {
        self.guards.iter().cloned().chain(self.writes.iter().map(Write::key))
    }
}

/// A write that removes `record`.
#[must_use]
pub fn removal<T: Record>(record: &T) -> Write {
    Write::Delete(record::key::<T>(&record.id()))
}

macro_rules! tables {
    ($($(#[$doc:meta])* $field:ident: $type:ident;)*) => {
        /// All records at one revision of the store.
        #[derive(Debug, Clone, Default)]
        pub struct Desired {
            /// The revision.
            pub revision: Revision,
            $($(#[$doc])* pub $field: Table<$type>,)*
        }

        /// A change of one record.
        #[derive(Debug, Clone)]
        pub enum Write {
            $($(#[$doc])* $type(Arc<$type>),)*
            /// The record with this key is removed.
            Delete(String),
        }

        $(impl From<$type> for Write {
            fn from(record: $type) -> Self {
                Self::$type(Arc::new(record))
            }
        })*

        impl Write {
            /// The key of the record it changes.
            #[must_use]
            pub fn key(&self) -> String {
                match self {
                    $(Self::$type(record) => record::key::<$type>(&record.id()),)*
                    Self::Delete(key) => key.clone(),
                }
            }

            /// As the store's change.
            ///
            /// # Errors
            /// A record that cannot be written as JSON.
            pub fn change(&self) -> Result<Change, StoreError> {
                let key = self.key();
                Ok(match self {
                    $(Self::$type(record) => Change::Put { key, value: record::encode(record.as_ref())? },)*
                    Self::Delete(_) => Change::Delete { key },
                })
            }
        }

        impl Desired {
            /// Reads all records.
            ///
            /// # Errors
            /// The store's, or a record that this program cannot read.
            pub async fn load(store: &Store) -> Result<Self, StoreError> {
                let mut desired = Self { revision: store.revision(), ..Self::default() };
                $(for entry in store.list(&record::prefix::<$type>()).await?.entries {
                    let Entry { modified, .. } = entry;
                    let value = Arc::new(record::decode::<$type>(&entry)?);
                    desired.$field.map().insert(value.id(), Held { value, modified });
                })*
                Ok(desired)
            }

            /// The revision that last changed a record; 0 if it does not exist.
            #[must_use]
            pub fn modified(&self, key: &str) -> Revision {
                match key.split_once('/') {
                    $(Some((<$type as Record>::KIND, id)) => self.$field.modified(id),)*
                    _ => Revision(0),
                }
            }

            /// With a write that was committed at `revision`.
            pub fn apply(&mut self, write: &Write, revision: Revision) {
                self.revision = revision;
                match write {
                    $(Write::$type(value) => {
                        let held = Held { value: Arc::clone(value), modified: revision };
                        self.$field.map().insert(value.id(), held);
                    })*
                    Write::Delete(key) => match key.split_once('/') {
                        $(Some((<$type as Record>::KIND, id)) => drop(self.$field.map().remove(id)),)*
                        _ => {}
                    },
                }
            }
        }
    };
}

tables! {
    /// Users.
    users: User;
    /// Access tokens.
    tokens: Token;
    /// Logins for registries.
    registries: Registry;
    /// Apps.
    apps: App;
    /// Deployments.
    deployments: Deployment;
    /// Releases that served.
    past: PastRelease;
    /// Builds.
    builds: Build;
    /// Instances.
    instances: Instance;
    /// How far each node's events were taken over.
    cursors: Cursor;
    /// The numbers of the stored events.
    counters: Counter;
    /// Whose records these are; one.
    lineages: Lineage;
    /// What nodes have and no record knows.
    strays: Stray;
    /// Routers that have reported.
    routers: KnownRouter;
}

impl Desired {
    /// Whose records these are. Absent only before the first start's first step.
    #[must_use]
    pub fn lineage(&self) -> Option<&ControllerId> {
        self.lineages.iter().next().map(|lineage| &lineage.id)
    }

    /// The deployments of an app, newest first.
    #[must_use]
    pub fn deployments_of(&self, app: &AppName) -> Vec<&Arc<Deployment>> {
        let mut found: Vec<_> = self.deployments.iter().filter(|deployment| deployment.app == *app).collect();
        found.sort_by(|a, b| (b.created, &b.id).cmp(&(a.created, &a.id)));
        found
    }

    /// The earlier releases of an app, newest first.
    #[must_use]
    pub fn past_of(&self, app: &AppName) -> Vec<&Arc<PastRelease>> {
        let mut found: Vec<_> = self.past.iter().filter(|release| release.app == *app).collect();
        found.sort_by_key(|release| std::cmp::Reverse(release.number));
        found
    }

    /// The instances of an app, oldest first.
    #[must_use]
    pub fn instances_of(&self, app: &AppName) -> Vec<&Arc<Instance>> {
        let mut found: Vec<_> = self.instances.iter().filter(|instance| instance.app == *app).collect();
        found.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        found
    }
}
