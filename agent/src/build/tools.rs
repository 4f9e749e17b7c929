//! What commands of a build run over: the base image of the app with compilers and headers beside it, which the app
//! itself never sees.

use drowse_api::{Digest, ErrorCode, Problem};

use super::pipeline::in_store;
use super::step::Workshop;

/// The image that an app is built with.
pub(super) struct Tools {
    /// What commands run over.
    pub image: Digest,
    /// The base image with compilers, where this node lacks it.
    missing: Option<String>,
}

impl Tools {
    /// Those of the base image `base`, which is the stack `stack`. A node that has none builds by that itself.
    pub async fn of(shop: &Workshop<'_>, stack: &str, base: &Digest) -> Result<Self, Problem> {
        let name = format!("{stack}-build");
        let tag = format!("stack/{name}");
        let found = in_store(shop, move |node| Ok(node.store.tagged(&tag)?)).await?;
        Ok(match found {
            Some(image) => Self { image, missing: None },
            None => Self { image: base.clone(), missing: Some(name) },
        })
    }

    /// How a command ended, with what it may have lacked.
    pub fn told<T>(&self, ended: Result<T, Problem>) -> Result<T, Problem> {
        ended.map_err(|problem| self.explained(problem))
    }

    fn explained(&self, problem: Problem) -> Problem {
        const COMPILES: [&str; 6] = ["gyp ERR!", "gcc", "g++", "command 'cc'", "Python.h", "make: "];
        let Some(name) = &self.missing else { return problem };
        let does_compile = problem.log.iter().any(|line| COMPILES.iter().any(|word| line.contains(word)));
        if problem.code != ErrorCode::BuildError || problem.hint.is_some() || !does_compile {
            return problem;
        }
        problem.hint(format!(
            "this node has no compilers for builds; the operator adds them with: drowse-agent stack build {name}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_compiles_on_a_node_without_compilers_is_told_what_is_missing() {
        let tools = |missing: Option<&str>| Tools {
            image: Digest::from_sha256([1; 32]),
            missing: missing.map(ToOwned::to_owned),
        };
        let failed = |line: &str| Problem::new(ErrorCode::BuildError, "npm ci failed").log(vec![line.to_owned()]);
        let hint = |tools: Tools, line: &str| tools.told::<()>(Err(failed(line))).expect_err("failed").hint;
        let told = hint(tools(Some("node-build")), "npm error gyp ERR! find Python");
        assert!(told.is_some_and(|hint| hint.contains("drowse-agent stack build node-build")));
        assert_eq!(hint(tools(Some("node-build")), "npm error 404"), None);
        assert_eq!(hint(tools(None), "npm error gyp ERR! build error"), None);
    }
}
