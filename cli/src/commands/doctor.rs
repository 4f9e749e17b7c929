//! `drowse doctor`: what works on the hosts, what does not, and what to do.

use drowse_api::agent::{Check, Verdict};
use drowse_api::client::Client;
use drowse_api::platform::NodeChecks;
use drowse_api::{ErrorCode, Problem};

use crate::failure::Failure;
use crate::show;
use crate::terminal::{Format, Terminal, clean};

/// Shows every check; fails if one of them did.
pub async fn run(client: &Client, terminal: &Terminal) -> Result<(), Failure> {
    let nodes: Vec<NodeChecks> = client.get("/v1/doctor").await?;
    match terminal.format() {
        Format::Json => terminal.json(&nodes)?,
        Format::Human => {
            for node in &nodes {
                terminal.line(&format!("{}", console::style(&node.node).bold()))?;
                node.checks.iter().try_for_each(|check| print(check, terminal))?;
            }
        }
    }
    let failed = nodes.iter().flat_map(|node| &node.checks).filter(|check| check.verdict == Verdict::Failure).count();
    if failed > 0 {
        let detail = format!("{} failed: apps cannot run until that is mended", show::count(failed, "check"));
        return Err(Problem::new(ErrorCode::HostUnfit, detail).into());
    }
    Ok(())
}

fn print(check: &Check, terminal: &Terminal) -> Result<(), Failure> {
    let mark = match check.verdict {
        Verdict::Ok => console::style("ok     ").green(),
        Verdict::Warning => console::style("warning").yellow(),
        Verdict::Failure => console::style("FAILURE").red().bold(),
    };
    terminal.line(&format!("  {mark}  {}: {}", clean(&check.name), clean(&check.found)))?;
    match &check.advice {
        Some(advice) => terminal.line(&format!("           {} {}", console::style("try:").cyan(), clean(advice))),
        None => Ok(()),
    }
}
