//! Secrets: given to instances and to nobody else, kept sealed, lost with their key and never silently.

use std::collections::BTreeMap;
use std::path::Path;

use drowse_api::platform::{EnvPatch, Environment, SecretView, SecretsPatch};
use drowse_api::{ErrorCode, Problem};
use drowse_store::Store;
use drowse_store::sqlite::Sqlite;
use http::Method;

use super::{Rig, until};
use crate::serve::{Controller, forget_secrets};

const PLANTED: &str = "pl4nted-in-a-secret";

fn patch(set: &[(&str, &str)], unset: &[&str]) -> SecretsPatch {
    SecretsPatch {
        set: set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        unset: unset.iter().map(|name| (*name).to_owned()).collect(),
    }
}

impl Rig {
    async fn change_secrets(&self, patch: SecretsPatch) -> Result<Vec<String>, Problem> {
        let views: Vec<SecretView> = self.client.call(Method::PATCH, "/v1/apps/shop/secrets", Some(&patch)).await?;
        until("nothing is on its way", || async { self.app("shop").await.pending.is_none() }).await;
        self.until_running(1).await;
        Ok(views.into_iter().map(|view| view.name).collect())
    }

    fn given(&self) -> BTreeMap<String, String> {
        let instance = self.agent.instances().remove(0);
        instance.spec.secrets.reveal().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// Everything in the controller's folder, also what the database has not tidied up yet.
    fn files_with(&self, text: &str) -> Vec<String> {
        files_with(self.dir.path(), text)
    }
}

fn files_with(folder: &Path, text: &str) -> Vec<String> {
    let mut found = vec![];
    for entry in std::fs::read_dir(folder).expect("lists").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_with(&path, text));
        } else if std::fs::read(&path).is_ok_and(|bytes| bytes.windows(text.len()).any(|part| part == text.as_bytes()))
        {
            found.push(path.display().to_string());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_reaches_the_instances_and_is_written_nowhere() {
    let rig = Rig::start().await;
    rig.deployed("shop").await;
    let names = rig.change_secrets(patch(&[("TOKEN", PLANTED), ("OTHER", "x")], &[])).await.expect("set");
    assert_eq!(names, ["OTHER", "TOKEN"]);
    assert_eq!(rig.given().get("TOKEN").map(String::as_str), Some(PLANTED));
    assert_eq!(rig.change_secrets(patch(&[], &["OTHER"])).await.expect("unset"), ["TOKEN"]);
    assert_eq!(rig.given().len(), 1);
    rig.post("/v1/apps/shop/restart").await;
    rig.until_running(1).await;
    rig.deployed("shop").await;
    rig.until_running(1).await;
    assert_eq!(rig.given().get("TOKEN").map(String::as_str), Some(PLANTED), "every release has it");
    let events = format!("{:?}", rig.events().await);
    assert!(events.contains("secrets changed (OTHER, TOKEN)") && !events.contains(PLANTED), "{events}");
    let desired = rig.controller.as_ref().expect("runs").ledger.desired();
    assert!(!format!("{desired:?}").contains(PLANTED));
    for path in ["", "/secrets", "/releases", "/env", "/deployments"] {
        let answer: serde_json::Value = rig.client.get(&format!("/v1/apps/shop{path}")).await.expect("answers");
        assert!(!answer.to_string().contains(PLANTED), "{path}: {answer}");
    }
    assert_eq!(rig.files_with(PLANTED), Vec::<String>::new());
    assert!(!rig.files_with("TOKEN").is_empty(), "the test looks at the right files");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_secret_is_refused_without_its_value() {
    let rig = Rig::start().await;
    rig.deployed("shop").await;
    let env = EnvPatch { set: [("SHOWN".to_owned(), "1".to_owned())].into(), unset: vec![] };
    let _: Environment = rig.client.call(Method::PATCH, "/v1/apps/shop/env", Some(&env)).await.expect("accepted");
    rig.until_running(1).await;
    let long = PLANTED.repeat(5000);
    let zero = format!("{PLANTED}\0");
    for (name, value, code) in [
        ("1TOKEN", PLANTED, ErrorCode::BadRequest),
        ("PORT", PLANTED, ErrorCode::BadRequest),
        ("TOKEN", zero.as_str(), ErrorCode::BadRequest),
        ("TOKEN", "", ErrorCode::BadRequest),
        ("TOKEN", long.as_str(), ErrorCode::TooLarge),
        ("SHOWN", PLANTED, ErrorCode::Conflict),
    ] {
        let problem = rig.change_secrets(patch(&[(name, value)], &[])).await.expect_err(name);
        assert_eq!(problem.code, code, "{problem:?}");
        assert!(!format!("{problem:?}").contains(PLANTED), "{problem:?}");
    }
    let wrong = serde_json::json!({ "set": PLANTED });
    let problem = rig
        .client
        .call::<serde_json::Value>(Method::PATCH, "/v1/apps/shop/secrets", Some(&wrong))
        .await
        .expect_err("no");
    assert!(problem.detail.contains("line 1") && !format!("{problem:?}").contains(PLANTED), "{problem:?}");
    rig.change_secrets(patch(&[("TOKEN", PLANTED)], &[])).await.expect("set");
    let env = EnvPatch { set: [("TOKEN".to_owned(), "1".to_owned())].into(), unset: vec![] };
    let refused = rig.client.call::<Environment>(Method::PATCH, "/v1/apps/shop/env", Some(&env)).await;
    assert_eq!(refused.expect_err("it would hide the secret").code, ErrorCode::Conflict);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_other_key_stops_the_start_and_says_which_is_needed() {
    let mut rig = Rig::start().await;
    rig.deployed("shop").await;
    rig.change_secrets(patch(&[("TOKEN", PLANTED)], &[])).await.expect("set");
    rig.kill();
    let key = rig.config.secrets_key();
    let kept = key.with_extension("kept");
    std::fs::rename(&key, &kept).expect("moved");
    let start = |rig: &Rig| {
        let (config, path) = (rig.config.clone(), rig.dir.path().join("data/drowse.db"));
        async move {
            let store = opened(&path).await;
            match Controller::start(config, store).await {
                Ok(_) => panic!("it must not start"),
                Err(error) => format!("{:#}", anyhow::Error::from(error)),
            }
        }
    };
    let missing = start(&rig).await;
    assert!(missing.contains("is missing") && missing.contains("backed up"), "{missing}");
    assert!(!key.exists(), "no other key is made in its place");
    drowse_seal::Key::create(&key).expect("another");
    let wrong = start(&rig).await;
    assert!(wrong.contains("holds key") && wrong.contains("forget-secrets"), "{wrong}");
    std::fs::rename(&kept, &key).expect("put back");
    rig.open().await;
    rig.post("/v1/apps/shop/restart").await;
    until("it was restarted", || async { rig.app("shop").await.pending.is_none() }).await;
    rig.until_running(1).await;
    assert_eq!(rig.given().get("TOKEN").map(String::as_str), Some(PLANTED));

    rig.kill();
    std::fs::remove_file(&key).expect("lost for good");
    let store = opened(&rig.dir.path().join("data/drowse.db")).await;
    assert_eq!(forget_secrets(store, &rig.config).await.expect("forgets"), 1);
    rig.open().await;
    let left: Vec<SecretView> = rig.client.get("/v1/apps/shop/secrets").await.expect("lists");
    assert_eq!(left, []);
    rig.change_secrets(patch(&[("TOKEN", "anew")], &[])).await.expect("set anew");
}

/// The store, when what was killed has closed it.
async fn opened(path: &Path) -> Store {
    for _ in 0..1000 {
        if let Ok(engine) = Sqlite::open(path) {
            return Store::new(engine);
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the database stays in use");
}
