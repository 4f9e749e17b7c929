//! `drowse sleep`, `wake`, `pin`, `unpin`, `idle` and `explain`.

use drowse_api::client::Client;
use drowse_api::platform::AppView;
use drowse_api::sleep::{After, Depth, Explanation, SleepCommand, SleepSettings, Wake};
use drowse_api::{AppName, Problem};
use http::Method;

use crate::app_name;
use crate::args::{App, Idle, Sleep, WakeBy};
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
    let settings = if times.iter().all(Option::is_none) && args.wake.is_none() {
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
    terminal.line(&format!("wake:         {wake}"))
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

/// Says why an app is awake or asleep, and what led there.
pub async fn explain(args: App, client: &Client, terminal: &Terminal) -> Result<(), Failure> {
    let name = app_name::given_or_here(args.app)?;
    let explanation: Explanation = client.get(&format!("/v1/apps/{name}/explain")).await?;
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
    for event in &explanation.recent {
        terminal.line(&format!("{}  {}", console::style(show::date(event.at)).dim(), clean(&event.message)))?;
    }
    Ok(())
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

impl From<WakeBy> for Option<Wake> {
    fn from(wake: WakeBy) -> Self {
        match wake {
            WakeBy::Page => Some(Wake::Page),
            WakeBy::Auto => Some(Wake::Auto),
            WakeBy::Default => None,
        }
    }
}
