//! Who may do what, by which door.

use drowse_api::client::Client;
use drowse_api::platform::{AppView, TokenCreated, TokenRequest, TokenView, WhoAmI};
use drowse_api::{ErrorCode, Problem};
use http::Method;

use super::Rig;

fn over_tcp(rig: &Rig, token: Option<&str>) -> Client {
    let address = rig.controller.as_ref().expect("runs").api_address;
    Client::tcp(address.to_string(), "api.drowse.localhost", token.map(str::to_owned))
}

fn code<T>(outcome: Result<T, Problem>) -> ErrorCode {
    outcome.map(drop).expect_err("refused").code
}

#[tokio::test(flavor = "multi_thread")]
async fn by_tcp_only_a_token_opens_and_only_until_it_is_revoked() {
    let rig = Rig::start().await;
    assert_eq!(code(over_tcp(&rig, None).get::<WhoAmI>("/v1/whoami").await), ErrorCode::Unauthenticated);
    let request = TokenRequest { label: "laptop".to_owned(), expires: None };
    let created: TokenCreated = rig.client.call(Method::POST, "/v1/tokens", Some(&request)).await.expect("creates");
    let remote = over_tcp(&rig, Some(&created.secret));
    let who: WhoAmI = remote.get("/v1/whoami").await.expect("known");
    assert_eq!((who.name.as_str(), who.by.as_str()), ("owner", "laptop"));
    let listed: Vec<TokenView> = remote.get("/v1/tokens").await.expect("lists");
    assert_eq!(listed, std::slice::from_ref(&created.token));
    let wrong = format!("{}x", created.secret);
    assert_eq!(code(over_tcp(&rig, Some(&wrong)).get::<WhoAmI>("/v1/whoami").await), ErrorCode::Unauthenticated);
    let path = format!("/v1/tokens/{}", created.token.id);
    let _: TokenView = remote.call(Method::DELETE, &path, None::<&()>).await.expect("revokes");
    assert_eq!(code(remote.get::<WhoAmI>("/v1/whoami").await), ErrorCode::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_wrong_tokens_is_slowed_and_a_right_one_still_opens() {
    let rig = Rig::start().await;
    let request = TokenRequest { label: "laptop".to_owned(), expires: None };
    let created: TokenCreated = rig.client.call(Method::POST, "/v1/tokens", Some(&request)).await.expect("creates");
    let guess = over_tcp(&rig, Some("drowse_aaaaaaaaaa_guess"));
    let mut last = ErrorCode::Internal;
    for _ in 0..30 {
        last = code(guess.get::<WhoAmI>("/v1/whoami").await);
    }
    assert_eq!(last, ErrorCode::Exhausted);
    assert!(over_tcp(&rig, Some(&created.secret)).get::<WhoAmI>("/v1/whoami").await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_but_the_health_check_needs_someone() {
    let rig = Rig::start().await;
    let stranger = over_tcp(&rig, None);
    let calls = [
        (Method::GET, "/v1/whoami"),
        (Method::GET, "/v1/doctor"),
        (Method::GET, "/v1/tokens"),
        (Method::POST, "/v1/tokens"),
        (Method::DELETE, "/v1/tokens/x"),
        (Method::GET, "/v1/apps"),
        (Method::GET, "/v1/apps/shop"),
        (Method::DELETE, "/v1/apps/shop"),
        (Method::GET, "/v1/apps/shop/deployments"),
        (Method::POST, "/v1/apps/shop/deployments?type=python"),
        (Method::POST, "/v1/apps/shop/restart"),
        (Method::POST, "/v1/apps/shop/stop"),
        (Method::POST, "/v1/apps/shop/start"),
        (Method::GET, "/v1/apps/shop/env"),
        (Method::PATCH, "/v1/apps/shop/env"),
        (Method::GET, "/v1/apps/shop/logs"),
        (Method::GET, "/v1/deployments/x"),
        (Method::GET, "/v1/deployments/x/watch"),
        (Method::GET, "/v1/events"),
    ];
    for (method, path) in calls {
        let outcome = stranger.call::<serde_json::Value>(method.clone(), path, Some(&serde_json::json!({}))).await;
        assert_eq!(code(outcome), ErrorCode::Unauthenticated, "{method} {path}");
    }
    assert_eq!(code(stranger.get::<serde_json::Value>("/v1/routes/watch").await), ErrorCode::Forbidden);
    let nothing = serde_json::json!({});
    let report = stranger.call::<()>(Method::PUT, "/v1/routers/x", Some(&nothing));
    assert_eq!(code(report.await), ErrorCode::Forbidden);
    assert!(stranger.download("/healthz").await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_users_app_is_not_there_and_its_name_is_taken() {
    use crate::desired::Step;
    use crate::model::User;
    let rig = Rig::start().await;
    rig.deployed("shop").await;
    let ledger = &rig.controller.as_ref().expect("runs").ledger;
    let now = jiff::Timestamp::now();
    let other = User { id: drowse_api::UserId::generate(), name: "other".to_owned(), created: now };
    let request = TokenRequest { label: "theirs".to_owned(), expires: None };
    let (token, secret) = crate::tokens::create(&other.id, request, now).expect("creates");
    ledger.update(|_| Ok((Step::new(other.clone()).and(token.clone()), ()))).await.expect("stores");
    let stranger = over_tcp(&rig, Some(&secret));
    assert!(stranger.get::<Vec<AppView>>("/v1/apps").await.expect("lists").is_empty());
    for path in ["/v1/apps/shop", "/v1/apps/shop/env", "/v1/apps/shop/logs"] {
        assert_eq!(code(stranger.get::<serde_json::Value>(path).await), ErrorCode::NotFound, "{path}");
    }
    let stop = stranger.call::<AppView>(Method::POST, "/v1/apps/shop/stop", None::<&()>).await;
    assert_eq!(code(stop), ErrorCode::NotFound);
    let body = futures_util::stream::iter([Ok::<_, std::io::Error>(bytes::Bytes::from_static(b"x"))]);
    let deploy =
        stranger.upload::<serde_json::Value, _, _>(Method::POST, "/v1/apps/shop/deployments?type=static", body);
    assert_eq!(code(deploy.await), ErrorCode::Conflict);
}

/// What is answered to these bytes, when all of them were written first.
async fn answer_to(rig: &Rig, head: &str, body: usize) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let address = rig.controller.as_ref().expect("runs").api_address;
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("connects");
    stream.write_all(head.as_bytes()).await.expect("takes the head");
    let chunk = vec![b'x'; 1 << 16];
    for _ in 0..body / chunk.len() {
        stream.write_all(&chunk).await.expect("takes all of the body");
    }
    let mut answer = vec![0; 4096];
    let read = super::within(stream.read(&mut answer)).await.expect("an answer");
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_refused_in_the_middle_of_an_upload_reads_why() {
    let rig = Rig::start_with(|config| config.limits.upload = drowse_api::MemoryBytes::mib(1)).await;
    let length = 16 << 20;
    let head = |more: &str| {
        format!(
            "POST /v1/apps/shop/deployments?type=static HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n{more}\r\n"
        )
    };
    let answer = answer_to(&rig, &head(""), length).await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    let request = TokenRequest { label: "laptop".to_owned(), expires: None };
    let created: TokenCreated = rig.client.call(Method::POST, "/v1/tokens", Some(&request)).await.expect("creates");
    let answer = answer_to(&rig, &head(&format!("Authorization: Bearer {}\r\n", created.secret)), length).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[test]
fn a_data_folder_that_others_can_read_is_closed() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("folder");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("opens");
    let _lock = crate::serve::lock(dir.path()).expect("locks");
    assert_eq!(std::fs::metadata(dir.path()).expect("is there").permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_second_controller_on_the_same_folder_is_refused() {
    let dir = tempfile::tempdir().expect("folder");
    let first = crate::serve::lock(dir.path()).expect("locks");
    let error = crate::serve::lock(dir.path()).expect_err("locked");
    assert!(error.to_string().contains("another controller uses"), "{error}");
    drop(first);
    assert!(crate::serve::lock(dir.path()).is_ok());
}
