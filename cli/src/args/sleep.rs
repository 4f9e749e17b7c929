//! How deeply and when apps sleep, as words of the command line.

use clap::ValueEnum;
use drowse_api::AppName;
use drowse_api::sleep::After;

/// `explain`.
#[derive(Debug, clap::Args)]
pub struct Explain {
    /// The app [default: made from the current folder's name]
    #[arg(value_name = "APP")]
    pub app: Option<AppName>,
    /// Also say how it would have slept, had it been put to sleep whenever it was idle for so long
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "15m")]
    pub dry_run: Option<IdleTime>,
    /// All apps, with --dry-run
    #[arg(long, requires = "dry_run", conflicts_with = "app")]
    pub all: bool,
}

/// `sleep`.
#[derive(Debug, clap::Args)]
pub struct Sleep {
    /// The app [default: made from the current folder's name]
    #[arg(value_name = "APP")]
    pub app: Option<AppName>,
    /// How deeply
    #[arg(long, value_enum, default_value_t = SleepDepth::Paused, value_name = "DEPTH")]
    pub depth: SleepDepth,
}

/// A depth of sleep that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SleepDepth {
    /// Its processes stand still and keep their memory; nobody notices the wake
    Paused,
    /// Its processes stand still and most of their memory is in swap; nobody notices the wake
    Paged,
    /// Its processes are on disk and come back as they were
    Snapshot,
    /// Nothing of it runs; it is started when somebody asks for it
    Cold,
}

/// `idle`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A time is such as 15s, 10m or 2h; never turns that depth off, default leaves it to the platform.")]
pub struct Idle {
    /// The app [default: made from the current folder's name]
    #[arg(value_name = "APP")]
    pub app: Option<AppName>,
    /// Pause it when it is idle for so long
    #[arg(long, value_name = "TIME")]
    pub paused_after: Option<IdleTime>,
    /// Have its memory go to swap when it is idle for so long
    #[arg(long, value_name = "TIME")]
    pub paged_after: Option<IdleTime>,
    /// Put it to disk when it is idle for so long, and bring it back on demand
    #[arg(long, value_name = "TIME")]
    pub snapshot_after: Option<IdleTime>,
    /// End it when it is idle for so long, and start it on demand
    #[arg(long, value_name = "TIME")]
    pub cold_after: Option<IdleTime>,
    /// What a browser gets that asks for it then: a page with a button, or the app itself
    #[arg(long, value_enum, value_name = "WAKE")]
    pub wake: Option<WakeBy>,
    /// What a browser's prefetch gets then
    #[arg(long, value_enum, value_name = "ANSWER")]
    pub prefetch: Option<GlanceBy>,
    /// What a crawler gets then
    #[arg(long, value_enum, value_name = "ANSWER")]
    pub crawlers: Option<GlanceBy>,
    /// What a monitor gets then
    #[arg(long, value_enum, value_name = "ANSWER")]
    pub monitors: Option<GlanceBy>,
}

/// What somebody gets who only looks by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GlanceBy {
    /// An answer of the platform's; the app sleeps on
    Answer,
    /// An answer of the platform's; the app wakes for the next one
    Wake,
    /// The app's own answer, once it is awake
    Hold,
    /// As the platform has it
    Default,
}

/// What wakes an app for a browser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WakeBy {
    /// The button of the Wake Up page
    Page,
    /// Asking for it
    Auto,
    /// As the platform has it
    Default,
}

/// A time of being idle; nothing is the platform's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdleTime(pub Option<After>);

impl std::str::FromStr for IdleTime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "default" => return Ok(Self(None)),
            "never" => return Ok(Self(Some(After::Never))),
            _ => {}
        }
        let time: jiff::SignedDuration = text.parse().map_err(|_| "write a time such as 15s, 10m or 2h".to_owned())?;
        match u32::try_from(time.as_secs()) {
            Ok(seconds @ 1..) => Ok(Self(Some(After::Seconds(seconds)))),
            _ => Err("1s is the shortest time; never turns it off".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_times_are_times_never_or_the_platforms() {
        let parse = |text: &str| text.parse::<IdleTime>().map(|time| time.0);
        assert_eq!(parse("15s"), Ok(Some(After::Seconds(15))));
        assert_eq!(parse("1h 30m"), Ok(Some(After::Seconds(5400))));
        assert_eq!((parse("never"), parse("default")), (Ok(Some(After::Never)), Ok(None)));
        assert!(["0s", "10ms", "-5s", "soon"].into_iter().all(|text| parse(text).is_err()));
    }
}
