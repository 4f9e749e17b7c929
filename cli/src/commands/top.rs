//! `drowse top`: what apps use now.

use std::collections::BTreeMap;
use std::time::Duration;

use drowse_api::MemoryBytes;
use drowse_api::agent::Occupant;
use drowse_api::client::Client;
use drowse_api::platform::NodeUsage;
use serde::Serialize;

use crate::args::Top;
use crate::failure::Failure;
use crate::terminal::{Format, Terminal};

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(2);
/// Between the two looks that processor time needs, where only one is shown.
const ONCE: Duration = Duration::from_millis(500);

/// Where a sandbox is, and what runs in it: the same one in two looks.
type Key = (String, Occupant);

/// A sandbox with what it used of the processors since the last look.
#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    usage: NodeUsage,
    /// In processors: 1.5 is one and a half of them all the time.
    cpu: f64,
}

/// Shows what is used, once or again and again.
pub async fn run(args: Top, client: &Client, terminal: &Terminal) -> Result<(), Failure> {
    let path = args.app.map_or_else(|| "/v1/usage".to_owned(), |app| format!("/v1/usage?app={app}"));
    let is_once = args.once || !terminal.shows_tables();
    let mut before = look(client, &path).await?;
    let mut screen = console::Term::stdout();
    loop {
        tokio::time::sleep(if is_once { ONCE } else { PAUSE }).await;
        let now = look(client, &path).await?;
        let rows: Vec<Row> = now.iter().map(|(key, usage)| row(before.get(key), usage.clone())).collect();
        if terminal.format() == Format::Json {
            return terminal.json(&rows);
        }
        if !is_once {
            screen_cleared(&mut screen);
        }
        if rows.is_empty() {
            terminal.note("Nothing runs.");
        } else {
            let cells: Vec<Vec<String>> = rows.iter().map(cells).collect();
            terminal.table(&["APP", "INSTANCE", "CPU", "MEMORY", "LIMIT", "PEAK", "PROCESSES", "NODE"], &cells)?;
        }
        if is_once {
            return Ok(());
        }
        before = now;
    }
}

/// A terminal that cannot be cleared shows one table below the other.
fn screen_cleared(screen: &mut console::Term) {
    let _ = screen.clear_screen();
}

async fn look(client: &Client, path: &str) -> Result<BTreeMap<Key, NodeUsage>, Failure> {
    let all: Vec<NodeUsage> = client.get(path).await?;
    Ok(all.into_iter().map(|one| ((one.node.to_string(), one.usage.what.clone()), one)).collect())
}

fn row(before: Option<&NodeUsage>, usage: NodeUsage) -> Row {
    // What came in between has used all that it has used since it was made; its start is not known.
    let cpu = before.map_or(0.0, |before| {
        let (then, now) = (&before.usage, &usage.usage);
        let passed = now.at_microseconds.saturating_sub(then.at_microseconds);
        let used = now.cpu_microseconds.saturating_sub(then.cpu_microseconds);
        if passed == 0 { 0.0 } else { used as f64 / passed as f64 }
    });
    Row { usage, cpu }
}

fn cells(row: &Row) -> Vec<String> {
    let NodeUsage { node, usage } = &row.usage;
    let what = match &usage.what {
        Occupant::Instance(id) => id.to_string(),
        Occupant::Run(id) => format!("run {id}"),
    };
    let limit = |bytes: MemoryBytes| if bytes.0 == u64::MAX { "-".to_owned() } else { bytes.to_string() };
    vec![
        usage.app.to_string(),
        what,
        format!("{:.1} %", row.cpu * 100.0),
        usage.memory.to_string(),
        limit(usage.limits.memory),
        usage.peak.map_or_else(|| "-".to_owned(), |peak| peak.to_string()),
        format!("{} of {}", usage.pids, usage.limits.pids),
        node.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(at: u64, cpu: u64) -> NodeUsage {
        serde_json::from_value(serde_json::json!({
            "node": "node-1", "user": "u1", "app": "shop", "what": {"instance": "i1"}, "memory": 1_048_576,
            "pids": 3, "cpu_microseconds": cpu, "at_microseconds": at,
            "limits": {"memory": 536_870_912, "pids": 512, "cpu_weight": 100},
        }))
        .expect("usage")
    }

    #[test]
    fn processor_time_is_what_was_used_between_two_looks() {
        let row = row(Some(&usage(1_000_000, 500_000)), usage(3_000_000, 1_500_000));
        assert_eq!(cells(&row), ["shop", "i1", "50.0 %", "1 MiB", "512 MiB", "-", "3 of 512", "node-1"]);
        assert_eq!(super::row(None, usage(3, 3)).cpu.to_bits(), 0.0_f64.to_bits());
    }
}
