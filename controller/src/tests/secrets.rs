//! Secrets: given to instances and to nobody else, kept sealed, lost with their key and never silently.

use std::collections::BTreeMap;
use std::path::Path;

use drowse_api::platform::{EnvPatch, Environment, RegistryLogin, RegistryView, SecretView, SecretsPatch};
use drowse_api::{ErrorCode, Problem};
use drowse_store::Store;
use drowse_store::sqlite::Sqlite;
use http::Method;

use super::{Rig, until};
use crate::desired::Step;
use crate::model::{Password, Registry};
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
    let missing = rig.why_it_does_not_start().await;
    assert!(missing.contains("is missing") && missing.contains("backed up"), "{missing}");
    assert!(!key.exists(), "no other key is made in its place");
    drowse_seal::Key::create(&key).expect("another");
    let wrong = rig.why_it_does_not_start().await;
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

const REGISTRY: &str = "registry.example:5000";

impl Rig {
    async fn log_in(&self, password: &str) -> Result<RegistryView, Problem> {
        let password = [("password".to_owned(), password.to_owned())].into_iter().collect();
        let login = RegistryLogin { username: "reader".to_owned(), password };
        self.client.call(Method::PUT, &format!("/v1/registries/{REGISTRY}"), Some(&login)).await
    }

    /// The login that a new build gets.
    async fn login_of_a_build(&self) -> Option<String> {
        let deployment = self.deploy_as("shop", "image").await.expect("accepted");
        let _ = self.follow(&deployment).await;
        let given = self.agent.logins(&deployment.id);
        given.reveal().find(|(registry, _)| *registry == REGISTRY).map(|(_, login)| login.to_owned())
    }

    async fn why_it_does_not_start(&self) -> String {
        let store = opened(&self.dir.path().join("data/drowse.db")).await;
        match Controller::start(self.config.clone(), store).await {
            Ok(_) => panic!("it must not start"),
            Err(error) => format!("{:#}", anyhow::Error::from(error)),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_for_a_registry_reaches_the_builds_and_is_sealed_like_a_secret() {
    let mut rig = Rig::start().await;
    let shown = rig.log_in(PLANTED).await.expect("taken");
    assert_eq!((shown.registry.as_str(), shown.username.as_str()), (REGISTRY, "reader"));
    assert_eq!(rig.login_of_a_build().await, Some(format!("reader:{PLANTED}")));
    let listed: serde_json::Value = rig.client.get("/v1/registries").await.expect("lists");
    assert!(listed.to_string().contains("reader") && !listed.to_string().contains(PLANTED), "{listed}");
    assert!(!format!("{:?}", rig.events().await).contains(PLANTED));
    let desired = rig.controller.as_ref().expect("runs").ledger.desired();
    assert!(!format!("{desired:?}").contains(PLANTED));
    let wrong = serde_json::json!({ "username": "reader", "password": PLANTED });
    let path = format!("/v1/registries/{REGISTRY}");
    let refused = rig.client.call::<RegistryView>(Method::PUT, &path, Some(&wrong)).await.expect_err("no map");
    assert!(!format!("{refused:?}").contains(PLANTED), "{refused:?}");
    assert_eq!(rig.files_with(PLANTED), Vec::<String>::new());
    assert!(!rig.files_with("reader").is_empty(), "the test looks at the right files");

    rig.kill();
    let key = rig.config.secrets_key();
    let kept = key.with_extension("kept");
    std::fs::rename(&key, &kept).expect("moved");
    let missing = rig.why_it_does_not_start().await;
    assert!(missing.contains("is missing") && missing.contains("logins for registries"), "{missing}");
    drowse_seal::Key::create(&key).expect("another");
    let wrong = rig.why_it_does_not_start().await;
    assert!(wrong.contains("holds key"), "{wrong}");
    std::fs::rename(&kept, &key).expect("put back");
    rig.open().await;
    assert_eq!(rig.login_of_a_build().await, Some(format!("reader:{PLANTED}")));

    rig.kill();
    std::fs::remove_file(&key).expect("lost for good");
    let store = opened(&rig.dir.path().join("data/drowse.db")).await;
    assert_eq!(forget_secrets(store, &rig.config).await.expect("forgets"), 1);
    rig.open().await;
    assert_eq!(rig.client.get::<Vec<RegistryView>>("/v1/registries").await.expect("lists"), []);
    assert_eq!(rig.login_of_a_build().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_an_older_release_kept_as_it_is_gets_sealed_at_the_next_start() {
    use drowse_store::Record;
    let mut rig = Rig::start().await;
    let _ = rig.log_in("another").await.expect("taken");
    let ledger = rig.controller.as_ref().expect("runs").ledger.clone();
    let base = ledger.desired();
    let kept = base.registries.iter().next().expect("it is there");
    let older = serde_json::json!({
        "user": kept.user, "name": kept.name, "login": { "reader": PLANTED }, "since": kept.since,
    });
    let older: Registry = serde_json::from_value(Registry::upgrade(1, older)).expect("is read");
    assert_eq!(older.username, "reader");
    assert_eq!(ledger.commit(&base, vec![Step::new(older)]).await.expect("written"), 1);
    drop(ledger);
    assert_eq!(rig.login_of_a_build().await, Some(format!("reader:{PLANTED}")));
    rig.kill();
    rig.open().await;
    let desired = rig.controller.as_ref().expect("runs").ledger.desired();
    assert!(desired.registries.iter().all(|login| matches!(login.password, Password::Sealed(_))), "{desired:?}");
    assert_eq!(rig.login_of_a_build().await, Some(format!("reader:{PLANTED}")));
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
