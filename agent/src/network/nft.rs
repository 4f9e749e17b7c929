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

/// The names in a set of links that are refused something; none if there is no table.
pub(super) async fn members(table: &str, set: &str) -> Result<Vec<String>, NetworkError> {
    let name = |value: &Value| Some(value.as_str().or_else(|| value["elem"]["val"].as_str())?.to_owned());
    Ok(list(table, set).await?.iter().filter_map(name).collect())
}

async fn list(table: &str, set: &str) -> Result<Vec<Value>, NetworkError> {
    const WHAT: &str = "the list of elements";
    let output = match run(&["-j", "list", "set", "inet", table, set], "", WHAT).await {
        Ok(output) => output,
        Err(NetworkError::Nft { message, .. }) if message.contains("No such file or directory") => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let value: Value =
        serde_json::from_slice(&output).map_err(|e| NetworkError::Nft { what: WHAT, message: e.to_string() })?;
    let objects = value["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    let lists = objects.iter().filter_map(|object| object["set"]["elem"].as_array());
    Ok(lists.flatten().cloned().collect())
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
