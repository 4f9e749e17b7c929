//! The program `nft`: rules in, and the list of all rules out. Every call is one transaction of the kernel.

use std::process::Stdio;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::error::NetworkError;

/// Applies a text of rules, all of it or nothing.
pub(super) async fn apply(rules: &str) -> Result<(), NetworkError> {
    run(&["-f", "-"], rules, "the rules").await.map(drop)
}

/// Has the kernel look at a text of rules, and applies nothing.
pub(super) async fn try_out(rules: &str) -> Result<(), NetworkError> {
    run(&["-c", "-f", "-"], rules, "the rules").await.map(drop)
}

/// The whole ruleset of this namespace, as `nft -j` prints it.
pub(super) async fn everything() -> Result<Value, NetworkError> {
    const WHAT: &str = "the list of all rules";
    let output = run(&["-j", "list", "ruleset"], "", WHAT).await?;
    serde_json::from_slice(&output).map_err(|e| NetworkError::Nft { what: WHAT, message: e.to_string() })
}

async fn run(arguments: &[&str], input: &str, what: &'static str) -> Result<Vec<u8>, NetworkError> {
    let mut child = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(NetworkError::NftMissing)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends before it has read all says why on its standard error.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(NetworkError::NftMissing)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(NetworkError::Nft { what, message })
}
