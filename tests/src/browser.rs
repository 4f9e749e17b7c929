//! A real browser without a window: Debian's chromium, told what to do by its own protocol.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// How long it may take to start, and to answer.
const LIMIT: Duration = Duration::from_secs(60);

/// A browser with one page. It ends when this is dropped.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    session: String,
    next: u64,
    _folder: tempfile::TempDir,
}

/// Whether there is one, or how to get it.
///
/// # Errors
/// One sentence.
pub fn is_there() -> Result<(), String> {
    if Path::new("/usr/bin/chromium").exists() {
        return Ok(());
    }
    Err("chromium is not installed: apt-get install chromium".to_owned())
}

impl Browser {
    /// Starts one for which every host under `domain` is at `router`.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(domain: &str, router: SocketAddr) -> Result<Self> {
        let folder = tempfile::TempDir::with_prefix("drowse-browser-")?;
        let mut child = Command::new("/usr/bin/chromium")
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args(["--remote-debugging-port=0", "--window-size=900,700"])
            .arg(format!("--host-resolver-rules=MAP *.{domain} {}", router.ip()))
            .arg(format!("--user-data-dir={}", folder.path().display()))
            .arg("about:blank")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("chromium does not start")?;
        let stderr = child.stderr.take().context("its stderr")?;
        let (send, receive) = mpsc::channel();
        std::thread::spawn(move || {
            // Read to its end: it must not wait for a reader.
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some(address) = line.strip_prefix("DevTools listening on ") {
                    let _ = send.send(address.trim().to_owned());
                }
            }
        });
        let address = tokio::task::spawn_blocking(move || receive.recv_timeout(LIMIT)).await?;
        let address = match address {
            Ok(address) => address,
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                bail!("chromium told no address: {error}");
            }
        };
        let (socket, _) = tokio_tungstenite::connect_async(&address).await.context("chromium's protocol")?;
        let mut browser = Self { child, socket, session: String::new(), next: 0, _folder: folder };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" })).await?;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", attach).await?;
        attached["sessionId"].as_str().context("a session")?.clone_into(&mut browser.session);
        browser.call("Page.enable", json!({})).await?;
        Ok(browser)
    }

    async fn call(&mut self, method: &str, parameters: Value) -> Result<Value> {
        self.next += 1;
        let id = self.next;
        let mut request = json!({ "id": id, "method": method, "params": parameters });
        if !self.session.is_empty() {
            request["sessionId"] = json!(self.session);
        }
        self.socket.send(Message::text(request.to_string())).await?;
        let answer = tokio::time::timeout(LIMIT, async {
            loop {
                let message = self.socket.next().await.context("chromium ended")??;
                let Message::Text(text) = message else { continue };
                let mut value: Value = serde_json::from_str(&text)?;
                if value["id"] == json!(id) {
                    return if value["error"].is_null() {
                        Ok(value["result"].take())
                    } else {
                        bail!("{method}: {value}")
                    };
                }
            }
        });
        answer.await.with_context(|| format!("{method} was not answered"))?
    }

    /// Goes to an address; its page may still be on its way.
    ///
    /// # Errors
    /// When the browser cannot.
    pub async fn visit(&mut self, address: &str) -> Result<()> {
        self.call("Page.navigate", json!({ "url": address })).await.map(drop)
    }

    /// What a script says on the page.
    ///
    /// # Errors
    /// When there is no page, or the script fails.
    pub async fn evaluate(&mut self, script: &str) -> Result<Value> {
        let parameters = json!({ "expression": script, "returnByValue": true, "awaitPromise": true });
        let mut answer = self.call("Runtime.evaluate", parameters).await?;
        if !answer["exceptionDetails"].is_null() {
            bail!("{script}: {}", answer["exceptionDetails"]);
        }
        Ok(answer["result"]["value"].take())
    }

    /// Waits until a script says `true`; what it said last is in the panic.
    ///
    /// # Panics
    /// When it does not for too long.
    pub async fn until(&mut self, script: &str) {
        let deadline = std::time::Instant::now() + LIMIT;
        loop {
            // A page that is just being left says nothing.
            let said = self.evaluate(script).await;
            if matches!(said, Ok(Value::Bool(true))) {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "never: {script}: {said:?}");
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// The page as a picture, for whoever wants to look at it: it is kept where the variable
    /// `DROWSE_TEST_SCREENSHOTS` says.
    ///
    /// # Errors
    /// When the browser cannot, or the file cannot be written.
    pub async fn screenshot(&mut self, name: &str) -> Result<()> {
        let Some(folder) = std::env::var_os("DROWSE_TEST_SCREENSHOTS") else { return Ok(()) };
        let picture = self.call("Page.captureScreenshot", json!({ "format": "png" })).await?;
        let bytes = base64::engine::general_purpose::STANDARD.decode(picture["data"].as_str().unwrap_or_default())?;
        std::fs::create_dir_all(&folder)?;
        Ok(std::fs::write(Path::new(&folder).join(format!("{name}.png")), bytes)?)
    }

    /// Whether pages are shown dark, and how large the window is.
    ///
    /// # Errors
    /// When the browser cannot.
    pub async fn show_as(&mut self, is_dark: bool, width: u32, height: u32) -> Result<()> {
        let scheme = if is_dark { "dark" } else { "light" };
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", features).await?;
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.call("Emulation.setDeviceMetricsOverride", size).await.map(drop)
    }

    /// Whether scripts of pages are run.
    ///
    /// # Errors
    /// When the browser cannot.
    pub async fn run_scripts(&mut self, runs: bool) -> Result<()> {
        self.call("Emulation.setScriptExecutionDisabled", json!({ "value": !runs })).await.map(drop)
    }

    /// Presses a key on the page.
    ///
    /// # Errors
    /// When the browser cannot.
    pub async fn press_enter(&mut self) -> Result<()> {
        for kind in ["keyDown", "keyUp"] {
            let key = json!({
                "type": kind, "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r",
            });
            self.call("Input.dispatchKeyEvent", key).await?;
        }
        Ok(())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its other processes end with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
