//! Stacks.
use std::collections::BTreeMap;

use drowse_api::Digest;

use crate::store::ImageStore;

/// How a stack is made.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// Its name.
    pub name: String,
    /// Environment.
    pub env: BTreeMap<String, String>,
}

/// x
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// x
    #[error("unimplemented")]
    Unimplemented,
}

#[allow(missing_docs, clippy::missing_errors_doc, unused_variables)]
pub fn load(name: &str) -> Result<Recipe, StackError> {
    Err(StackError::Unimplemented)
}
#[allow(missing_docs, clippy::missing_errors_doc, unused_variables)]
pub fn names() -> &'static [&'static str] {
    &["python", "node"]
}
/// Builds the stack unless the store has it already, and tags it `stack/NAME`.
#[allow(missing_docs, clippy::missing_errors_doc, unused_variables)]
pub fn build(recipe: &Recipe, store: &ImageStore, progress: &dyn Fn(&str)) -> Result<Digest, StackError> {
    Err(StackError::Unimplemented)
}
