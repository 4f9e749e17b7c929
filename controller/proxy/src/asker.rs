//! Who asks: what a request says of itself, as far as that decides whether it wakes a sleeping app.

use drowse_api::sleep::{Glance, Glances};
use http::{HeaderMap, Method, Uri, header};

use crate::fault::Form;

/// What is looked at of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asking<'a> {
    pub(crate) method: &'a Method,
    pub(crate) uri: &'a Uri,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) is_upgrade: bool,
}

/// Who that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asker {
    /// A person, who looks at a page.
    Person,
    /// A program that wants this very answer.
    Program,
    /// Somebody who only looks by: nothing is woken for it.
    Bystander(Bystander),
}

/// Who only looks by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bystander {
    /// A browser that guesses what may be looked at next.
    Prefetch,
    /// A browser that wants a picture for its tab.
    Icon,
    /// A crawler, or what it reads first.
    Crawler,
    /// Somebody's monitor.
    Monitor,
}

impl Bystander {
    /// What it gets, of what its app's owner has set.
    pub(crate) fn of(self, glances: Glances) -> Glance {
        match self {
            Self::Prefetch | Self::Icon => glances.prefetch,
            Self::Crawler => glances.crawlers,
            Self::Monitor => glances.monitors,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Prefetch => "a prefetch",
            Self::Icon => "a browser's icon",
            Self::Crawler => "a crawler",
            Self::Monitor => "a monitor",
        }
    }
}

/// Words in `User-Agent` of crawlers and link previews, in lower case.
const CRAWLERS: [&str; 22] = [
    "googlebot",
    "bingbot",
    "yandexbot",
    "baiduspider",
    "duckduckbot",
    "applebot",
    "petalbot",
    "semrushbot",
    "ahrefsbot",
    "mj12bot",
    "dotbot",
    "gptbot",
    "claudebot",
    "ccbot",
    "bytespider",
    "amazonbot",
    "facebookexternalhit",
    "twitterbot",
    "linkedinbot",
    "slackbot",
    "discordbot",
    "telegrambot",
];

/// Words in `User-Agent` of monitors, in lower case.
const MONITORS: [&str; 12] = [
    "uptimerobot",
    "pingdom",
    "statuscake",
    "betteruptime",
    "better uptime",
    "uptime-kuma",
    "site24x7",
    "blackbox-exporter",
    "blackbox exporter",
    "kube-probe",
    "elb-healthchecker",
    "googlehc",
];

impl Asking<'_> {
    /// Who asks.
    pub(crate) fn who(&self) -> Asker {
        if !matches!(*self.method, Method::GET | Method::HEAD) || self.is_upgrade {
            return Asker::Program;
        }
        if let Some(bystander) = self.bystander() {
            return Asker::Bystander(bystander);
        }
        let is_page = match self.value("sec-fetch-mode") {
            Some(mode) => mode.eq_ignore_ascii_case("navigate"),
            None => Form::wanted_by(self.headers) == Form::Page,
        };
        if is_page { Asker::Person } else { Asker::Program }
    }

    /// Whether somebody asks who wakes nothing, and so keeps nothing awake.
    pub(crate) fn only_looks_by(&self, glances: Glances) -> bool {
        matches!(self.who(), Asker::Bystander(bystander) if bystander.of(glances) == Glance::Answer)
    }

    fn bystander(&self) -> Option<Bystander> {
        let guesses = |name| self.value(name).is_some_and(|value| value.to_ascii_lowercase().contains("prefetch"));
        if ["sec-purpose", "purpose", "x-moz"].into_iter().any(guesses) {
            return Some(Bystander::Prefetch);
        }
        match self.uri.path() {
            "/favicon.ico" | "/apple-touch-icon.png" | "/apple-touch-icon-precomposed.png" => {
                return Some(Bystander::Icon);
            }
            "/robots.txt" => return Some(Bystander::Crawler),
            _ => {}
        }
        let agent = self.value("user-agent")?.to_ascii_lowercase();
        if MONITORS.iter().any(|word| agent.contains(word)) {
            Some(Bystander::Monitor)
        } else if CRAWLERS.iter().any(|word| agent.contains(word)) {
            Some(Bystander::Crawler)
        } else {
            None
        }
    }

    /// The request as the rest of a sentence. Without what follows the question mark, which may be secret.
    pub(crate) fn cause(&self) -> String {
        let path: String = self.uri.path().chars().take(80).collect();
        let agent = self.value(header::USER_AGENT.as_str()).unwrap_or_default();
        let agent: String = agent.chars().take(60).collect();
        if agent.is_empty() { format!("{} {path}", self.method) } else { format!("{} {path}, {agent}", self.method) }
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(method: Method, path: &'static str, headers: &[(&'static str, &'static str)]) -> Asker {
        let map =
            headers.iter().map(|(name, value)| (header::HeaderName::from_static(name), value.parse().expect("one")));
        let (headers, uri) = (map.collect(), Uri::from_static(path));
        Asking { method: &method, uri: &uri, headers: &headers, is_upgrade: false }.who()
    }

    #[test]
    fn people_programs_and_bystanders_are_told_apart() {
        let page = ("accept", "text/html,application/xhtml+xml");
        let by = Asker::Bystander;
        assert_eq!(who(Method::GET, "/", &[page]), Asker::Person);
        assert_eq!(who(Method::GET, "/", &[page, ("sec-fetch-mode", "navigate")]), Asker::Person);
        assert_eq!(
            who(Method::GET, "/data", &[page, ("sec-fetch-mode", "cors")]),
            Asker::Program,
            "a script's request"
        );
        assert_eq!(who(Method::GET, "/", &[("accept", "*/*"), ("user-agent", "curl/8.5.0")]), Asker::Program);
        assert_eq!(who(Method::POST, "/", &[page, ("sec-fetch-mode", "navigate")]), Asker::Program, "a form was sent");
        assert_eq!(who(Method::GET, "/", &[page, ("sec-purpose", "prefetch;prerender")]), by(Bystander::Prefetch));
        assert_eq!(who(Method::GET, "/favicon.ico", &[]), by(Bystander::Icon));
        assert_eq!(who(Method::GET, "/robots.txt", &[]), by(Bystander::Crawler));
        let googlebot = ("user-agent", "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)");
        assert_eq!(who(Method::GET, "/", &[page, googlebot]), by(Bystander::Crawler));
        assert_eq!(who(Method::HEAD, "/", &[("user-agent", "Pingdom.com_bot_version_1.4")]), by(Bystander::Monitor));
        assert_eq!(who(Method::POST, "/hook", &[googlebot]), Asker::Program, "what changes something is no look");
    }

    #[test]
    fn a_cause_tells_the_path_and_the_program_and_no_secret() {
        let headers = HeaderMap::from_iter([(header::USER_AGENT, "curl/8.5.0".parse().expect("one"))]);
        let uri = Uri::from_static("/feed?token=secret");
        let asking = Asking { method: &Method::GET, uri: &uri, headers: &headers, is_upgrade: false };
        assert_eq!(asking.cause(), "GET /feed, curl/8.5.0");
    }
}
