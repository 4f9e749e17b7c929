//! The program `nft`: rules in, elements in and out. Every call is one transaction of the kernel.

use std::net::Ipv4Addr;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::error::NetworkError;
use super::table::LINKS;

/// What one link may send from: an element of the table's set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Element {
    pub link: String,
    pub address: Ipv4Addr,
}

/// Applies a text of rules, all of it or nothing.
pub(super) async fn apply(rules: &str) -> Result<(), NetworkError> {
    run(&["-f", "-"], rules, "the rules").await.map(drop)
}

/// Has the kernel look at a text of rules, and applies nothing.
pub(super) async fn try_out(rules: &str) -> Result<(), NetworkError> {
    run(&["-c", "-f", "-"], rules, "the rules").await.map(drop)
}

pub(super) async fn add(table: &str, element: &Element) -> Result<(), NetworkError> {
    apply(&format!("add element inet {table} {LINKS} {{ {} }}\n", element.text())).await
}

/// Deletes elements, whether they are there or not: what an agent before this one began when it was
/// killed may end only now. Added first, in the same transaction, since deleting what is gone is an error.
pub(super) async fn delete(table: &str, elements: &[Element]) -> Result<(), NetworkError> {
    if elements.is_empty() {
        return Ok(());
    }
    let list = elements.iter().map(Element::text).collect::<Vec<_>>().join(", ");
    let set = format!("element inet {table} {LINKS} {{ {list} }}\n");
    apply(&format!("add {set}delete {set}")).await
}

/// Deletes the elements that `is_meant`; none are no error, nor is a table that is gone.
pub(super) async fn remove(table: &str, is_meant: impl Fn(&Element) -> bool) -> Result<(), NetworkError> {
    let meant: Vec<Element> = elements(table).await?.into_iter().filter(|element| is_meant(element)).collect();
    delete(table, &meant).await
}

/// Every element of the set; none if there is no table.
pub(super) async fn elements(table: &str) -> Result<Vec<Element>, NetworkError> {
    const WHAT: &str = "the list of elements";
    let output = match run(&["-j", "list", "set", "inet", table, LINKS], "", WHAT).await {
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
    Ok(lists.flatten().filter_map(read_element).collect())
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

impl Element {
    fn text(&self) -> String {
        format!("\"{}\" . {}", self.link, self.address)
    }
}

fn read_element(value: &Value) -> Option<Element> {
    let parts = value["concat"].as_array()?;
    let link = parts.first()?.as_str()?.to_owned();
    Some(Element { link, address: parts.get(1)?.as_str()?.parse().ok()? })
}
