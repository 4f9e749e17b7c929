//! `drowse sleep`, `wake`, `pin`, `unpin`, `idle` and `explain`.

use drowse_api::client::Client;
use drowse_api::platform::AppView;
use drowse_api::sleep::{After, Depth, Explanation, Glance, Rehearsal, SleepCommand, SleepSettings, Wake};
use drowse_api::{AppName, ErrorCode, Problem};
use http::Method;

use crate::app_name;
use crate::args::{App, Explain, GlanceBy, Idle, IdleTime, Sleep, WakeBy};
use crate::failure::Failure;
use crate::show;
use crate::terminal::{Format, Terminal, clean};

/// Puts an app to sleep until somebody asks for it.
pub async fn sleep(args: Sleep, client: &Client, terminal: &Terminal) -> Result<(), Failure> {
    let name = app_name::given_or_here(args.app)?;
    let command = SleepCommand { depth: args.depth.into() };
    let view: AppView = client.call(Method::POST, &format!("/v1/apps/{name}/sleep"), Some(&command)).await?;
    result(&view, terminal, &format!("{name} sleeps ({}) until somebody asks for it", command.depth))
}

/// Wakes an app.
pub async fn wake(args: App, client: &Client, terminal: &Terminal) -> Result<(), Failure> {
    let name = app_name::given_or_here(args.app)?;
    let view: AppView = client.call(Method::POST, &format!("/v1/apps/{name}/wake"), None::<&()>).await?;
    let sentence = if view.instances.iter().any(|instance| instance.status.state.is_ready()) {
        format!("{name} is awake")
    } else {
        format!("{name} is being woken: drowse events -f {name} shows how it goes")
    };
    result(&view, terminal, &sentence)
}

fn result(view: &AppView, terminal: &Terminal, sentence: &str) -> Result<(), Failure> {
    match terminal.format() {
        Format::Json => terminal.json(view),
        Format::Human => terminal.line(sentence),
    }
}

/// Lets an app never sleep, or as it is set.
pub async fn pin(args: App, pinned: bool, client: &Client, terminal: &Terminal) -> Result<(), Failure> {
    let name = app_name::given_or_here(args.app)?;
    let settings = change(&name, client, |settings| settings.pinned = pinned).await?;
    let sentence = if pinned {
        format!("{name} never sleeps")
    } else {
        format!("{name} may sleep: drowse idle {name} tells when")
    };
    match terminal.format() {
        Format::Json => terminal.json(&settings),
        Format::Human => terminal.line(&sentence),
    }
}

/// Shows and sets when an idle app sleeps.
pub async fn idle(args: Idle, client: &Client, terminal: &Terminal) -> Result<(), Failure> {
    let name = app_name::given_or_here(args.app)?;
    let times = [args.paused_after, args.paged_after, args.snapshot_after, args.cold_after];
    let glances = [args.prefetch, args.crawlers, args.monitors];
    let asks_nothing = times.iter().all(Option::is_none) && glances.iter().all(Option::is_none) && args.wake.is_none();
    let settings = if asks_nothing {
        client.get(&format!("/v1/apps/{name}/idle")).await?
    } else {
        change(&name, client, |settings| {
            if let Some(after) = args.paused_after {
                settings.paused_after = after.0;
            }
            if let Some(after) = args.paged_after {
                settings.paged_after = after.0;
            }
            if let Some(after) = args.snapshot_after {
                settings.snapshot_after = after.0;
            }
            if let Some(after) = args.cold_after {
                settings.cold_after = after.0;
            }
            if let Some(wake) = args.wake {
                settings.wake = wake.into();
            }
            let own = [&mut settings.prefetch, &mut settings.crawlers, &mut settings.monitors];
            for (own, asked) in own.into_iter().zip(glances) {
                if let Some(asked) = asked {
                    *own = asked.into();
                }
            }
        })
        .await?
    };
    if terminal.format() == Format::Json {
        return terminal.json(&settings);
    }
    let explanation: Explanation = client.get(&format!("/v1/apps/{name}/explain")).await?;
    terminal.line(&format!("{name}: {}", clean(&explanation.policy)))?;
    let after = |after: Option<After>| match after {
        None => "the platform's".to_owned(),
        Some(After::Never) => "never".to_owned(),
        Some(After::Seconds(seconds)) => format!("{seconds} s"),
    };
    terminal.line(&format!("paused after: {}", after(settings.paused_after)))?;
    terminal.line(&format!("paged after:  {}", after(settings.paged_after)))?;
    terminal.line(&format!("disk after:   {}", after(settings.snapshot_after)))?;
    terminal.line(&format!("cold after:   {}", after(settings.cold_after)))?;
    let wake = match settings.wake {
        None => "the platform's",
        Some(Wake::Page) => "page",
        Some(Wake::Auto) => "auto",
    };
    terminal.line(&format!("wake:         {wake}"))?;
    let glances = [("prefetch", settings.prefetch), ("crawlers", settings.crawlers), ("monitors", settings.monitors)];
    for (who, glance) in glances {
        let gets = match glance {
            None => "the platform's",
            Some(Glance::Answer) => "answer",
            Some(Glance::Wake) => "wake",
            Some(Glance::Hold) => "hold",
        };
        terminal.line(&format!("{:<13} {gets}", format!("{who}:")))?;
    }
    Ok(())
}

async fn change(
    name: &AppName,
    client: &Client,
    change: impl FnOnce(&mut SleepSettings),
) -> Result<SleepSettings, Problem> {
    let path = format!("/v1/apps/{name}/idle");
    let mut settings: SleepSettings = client.get(&path).await?;
    change(&mut settings);
    client.call(Method::PUT, &path, Some(&settings)).await
}

/// Says why an app is awake or asleep, and what led there; or how apps would have slept.
pub async fn explain(args: Explain, client: &Client, terminal: &Terminal) -> Result<(), Failure> {
    let after = match args.dry_run {
        None => None,
        Some(IdleTime(Some(After::Seconds(seconds)))) => Some(seconds),
        Some(_) => return Err(Problem::new(ErrorCode::BadRequest, "--dry-run takes a time, such as 15m").into()),
    };
    let path = |name: &AppName| match after {
        Some(seconds) => format!("/v1/apps/{name}/explain?dry_run={seconds}"),
        None => format!("/v1/apps/{name}/explain"),
    };
    if args.all {
        let mut found = std::collections::BTreeMap::new();
        for app in client.get::<Vec<AppView>>("/v1/apps").await? {
            let explanation: Explanation = client.get(&path(&app.name)).await?;
            found.insert(app.name, explanation.rehearsal);
        }
        if terminal.format() == Format::Json {
            return terminal.json(&found);
        }
        for (name, rehearsal) in &found {
            terminal.line(&format!("{name}: {}", clean(&in_words(rehearsal.as_ref()))))?;
        }
        return Ok(());
    }
    let name = app_name::given_or_here(args.app)?;
    let explanation: Explanation = client.get(&path(&name)).await?;
    if terminal.format() == Format::Json {
        return terminal.json(&explanation);
    }
    if explanation.now.is_empty() {
        terminal.line(&format!("{name} has no instance that serves"))?;
    }
    for sentence in &explanation.now {
        terminal.line(&clean(sentence))?;
    }
    terminal.line(&format!("when: {}", clean(&explanation.policy)))?;
    if after.is_some() {
        terminal.line(&format!("dry run: {}", clean(&in_words(explanation.rehearsal.as_ref()))))?;
    }
    for event in &explanation.recent {
        terminal.line(&format!("{}  {}", console::style(show::date(event.at)).dim(), clean(&event.message)))?;
    }
    Ok(())
}

fn in_words(rehearsal: Option<&Rehearsal>) -> String {
    let Some(Rehearsal { after, watched, slept, times, woken_by }) = rehearsal else {
        return "it was not watched yet".to_owned();
    };
    let percent = slept.saturating_mul(100) / (*watched).max(1);
    let mut text =
        format!("idle for {after} s, it would have slept {slept} s of {watched} s ({percent} %), {times} times");
    for (number, (what, count)) in woken_by.iter().enumerate() {
        let before = if number == 0 { "; woken by " } else { ", " };
        text.push_str(&format!("{before}{what} ({count})"));
    }
    text
}

impl From<crate::args::SleepDepth> for Depth {
    fn from(depth: crate::args::SleepDepth) -> Self {
        match depth {
            crate::args::SleepDepth::Paused => Self::Paused,
            crate::args::SleepDepth::Paged => Self::Paged,
            crate::args::SleepDepth::Snapshot => Self::Snapshot,
            crate::args::SleepDepth::Cold => Self::Cold,
        }
    }
}

impl From<GlanceBy> for Option<Glance> {
    fn from(glance: GlanceBy) -> Self {
        match glance {
            GlanceBy::Answer => Some(Glance::Answer),
            GlanceBy::Wake => Some(Glance::Wake),
            GlanceBy::Hold => Some(Glance::Hold),
            GlanceBy::Default => None,
        }
    }
}

impl From<WakeBy> for Option<Wake> {
    fn from(wake: WakeBy) -> Self {
        match wake {
            WakeBy::Page => Some(Wake::Page),
            WakeBy::Auto => Some(Wake::Auto),
            WakeBy::Default => None,
        }
    }
}
