//! Events: resumed from a revision, as lines or as server-sent events, and told to be gone when they are.

use drowse_api::ErrorCode;
use drowse_api::event::{Event, EventKind};
use http_body_util::BodyExt;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;

use super::{Rig, until, within};

impl Rig {
    async fn lines_after(&self, query: &str) -> Result<Vec<Event>, drowse_api::Problem> {
        let mut lines = self.client.lines::<Event>(&format!("/v1/events?{query}")).await?;
        let mut events = vec![];
        while let Some(event) = lines.next().await? {
            events.push(event);
        }
        Ok(events)
    }

    /// As a browser asks: the answer's head, and then its body piece by piece.
    async fn server_sent(&self, query: &str, last: Option<&str>) -> http::Response<hyper::body::Incoming> {
        let stream = tokio::net::UnixStream::connect(self.config.socket()).await.expect("connects");
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
        tokio::spawn(connection);
        let mut request = http::Request::get(format!("/v1/events?{query}"))
            .header("host", "localhost")
            .header("accept", "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let request = request.body(http_body_util::Empty::<Bytes>::new()).expect("a request");
        sender.send_request(request).await.expect("an answer")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_follows_events_and_goes_on_after_the_last_it_saw() {
    let rig = Rig::start().await;
    rig.deployed("shop").await;
    let all = rig.events().await;
    let (second, newest) = (&all[1], all.last().expect("some"));
    let mut answer = rig.server_sent("follow=true", Some(&second.revision.to_string())).await;
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut text = String::new();
    let until_newest = async {
        while !text.contains(&format!("id: {}\n", newest.revision)) {
            let frame = answer.frame().await.expect("more").expect("a frame");
            text.push_str(std::str::from_utf8(frame.data_ref().expect("data")).expect("text"));
        }
    };
    within(until_newest).await;
    assert!(text.starts_with(&format!("id: {}\ndata: {{\"revision\":{0},", second.revision + 1)), "{text}");
    rig.agent.tell(EventKind::Node, "told later");
    let until_later = async {
        while !text.contains("told later") {
            let frame = answer.frame().await.expect("more").expect("a frame");
            text.push_str(std::str::from_utf8(frame.data_ref().expect("data")).expect("text"));
        }
    };
    within(until_later).await;
    let wrong = rig.server_sent("", Some("yesterday")).await;
    assert_eq!(wrong.status(), 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_for_events_that_are_gone_is_told_so() {
    let rig = Rig::start_with(|config| config.limits.events = 10).await;
    rig.deployed("shop").await;
    for number in 0..15 {
        rig.agent.tell(EventKind::Node, &format!("event {number}"));
    }
    until("the oldest are dropped", || async { rig.events().await[0].revision > 5 }).await;
    let gone = rig.lines_after("after=1").await.expect_err("gone");
    assert_eq!(gone.code, ErrorCode::Compacted);
    assert!(gone.detail.contains("are not kept any more"), "{gone}");
    assert_eq!(rig.server_sent("follow=true", Some("1")).await.status(), 410);
    let kept = rig.lines_after("").await.expect("all that are kept");
    let oldest = kept[0].revision;
    assert_eq!(rig.lines_after(&format!("after={}", oldest + 2)).await.expect("kept")[0].revision, oldest + 3);
    let future = rig.lines_after("after=100000").await.expect_err("never given out");
    assert_eq!(future.code, ErrorCode::Compacted);
    assert!(future.detail.contains("the newest is"), "{future}");
}
