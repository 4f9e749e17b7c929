//! `drowse exec` and `drowse run`: a command inside, on this terminal or between these streams.

use std::io::Read;
use std::io::{self, IsTerminal};

use drowse_api::client::Client;
use drowse_api::exec::{Ended, ExecRequest, Job};
use tokio::io::AsyncWriteExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::app_name;
use crate::args::{Exec, Run, Tty};
use crate::failure::{Failure, bad_request, internal};
use crate::raw_mode::{self, RawMode};
use crate::session::{Event, Sender, Session};
use crate::terminal::Terminal;

/// How often Ctrl-C is passed on before it is meant for us.
const PATIENCE: u32 = 3;

/// Runs a command beside a running instance.
pub async fn exec(args: Exec, client: &Client, terminal: &Terminal) -> Result<(), Failure> {
    let name = app_name::given_or_here(args.app)?;
    let query = args.instance.map_or_else(String::new, |id| format!("?instance={id}"));
    join(client, &format!("/v1/apps/{name}/exec{query}"), args.command, args.tty, terminal).await
}

/// Runs a command in a sandbox of its own.
pub async fn run(args: Run, client: &Client, terminal: &Terminal) -> Result<(), Failure> {
    let name = app_name::given_or_here(args.app)?;
    join(client, &format!("/v1/apps/{name}/run"), args.command, args.tty, terminal).await
}

async fn join(client: &Client, path: &str, command: Vec<String>, tty: Tty, terminal: &Terminal) -> Result<(), Failure> {
    if tty.tty && !io::stdin().is_terminal() {
        return Err(bad_request("standard input is no terminal").hint("leave out -t").into());
    }
    let on_terminal = !tty.no_tty && (tty.tty || raw_mode::is_there());
    let request = ExecRequest { job: Job::Command(command), terminal: on_terminal.then(raw_mode::own) };
    // Before it starts: a signal that comes in the middle is the command's.
    let signals = Signals::new().map_err(|error| internal("cannot watch signals", &error))?;
    let session = Session::open(client, path, &request).await?;
    let raw = if on_terminal {
        Some(RawMode::enter().map_err(|error| internal("cannot take over the terminal", &error))?)
    } else {
        None
    };
    let ended = converse(session, signals, on_terminal).await;
    drop(raw);
    let ended = ended?;
    if let Some(note) = &ended.note {
        terminal.note(&format!("drowse: {note}"));
    }
    match ended.status.code() {
        0 => Ok(()),
        code => Err(Failure::Command(code)),
    }
}

/// Until it ends. Output, input and signals do not wait for each other.
async fn converse(session: Session, signals: Signals, on_terminal: bool) -> Result<Ended, Failure> {
    let sender = session.sender();
    let keys = tokio::spawn(feed(sender.clone()));
    let mut output = tokio::spawn(show(session));
    let passing = signals.pass_on(&sender, on_terminal);
    let shown = tokio::select! {
        shown = &mut output => shown.unwrap_or_else(|error| Err(internal("the output broke off", &error))),
        () = passing => {
            output.abort();
            Err(Failure::Interrupted)
        }
    };
    keys.abort();
    shown
}

/// Standard input is read by a thread of its own, which the end of the program ends.
async fn feed(sender: Sender) {
    let (chunks, mut read) = mpsc::channel::<Vec<u8>>(1);
    std::thread::spawn(move || {
        let (mut input, mut buffer) = (io::stdin().lock(), vec![0; 16 << 10]);
        loop {
            match input.read(&mut buffer) {
                Ok(length @ 1..) => {
                    if chunks.blocking_send(buffer[..length].to_vec()).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => return,
            }
        }
    });
    while let Some(chunk) = read.recv().await {
        sender.input(&chunk).await;
    }
    sender.end_of_input().await;
}

async fn show(mut session: Session) -> Result<Ended, Failure> {
    let (mut out, mut errors) = (tokio::io::stdout(), tokio::io::stderr());
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::OutputClosed,
        _ => internal("cannot write to standard output", &error),
    };
    loop {
        match session.next().await? {
            Event::Output(bytes) => {
                out.write_all(&bytes).await.map_err(failed)?;
                out.flush().await.map_err(failed)?;
            }
            Event::Error(bytes) => {
                // Where nobody reads errors, there is nobody to tell.
                let _ = errors.write_all(&bytes).await;
                let _ = errors.flush().await;
            }
            Event::Ended(ended) => {
                let _ = out.flush().await;
                return Ok(ended);
            }
        }
    }
}

/// What is sent to us and meant for the command.
struct Signals {
    interrupt: Signal,
    quit: Signal,
    terminate: Signal,
    hang_up: Signal,
    user: [Signal; 2],
    resized: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            user: [signal(SignalKind::user_defined1())?, signal(SignalKind::user_defined2())?],
            resized: signal(SignalKind::window_change())?,
        })
    }

    /// Passes signals on, until one means that the command is to be left: then it is hung up.
    async fn pass_on(mut self, sender: &Sender, on_terminal: bool) {
        let mut interrupts = 0;
        let [mut first, mut second] = self.user;
        loop {
            let number = tokio::select! {
                _ = self.resized.recv() => {
                    if on_terminal {
                        sender.resize(raw_mode::size()).await;
                    }
                    continue;
                }
                _ = self.hang_up.recv() => return,
                _ = self.interrupt.recv() => {
                    interrupts += 1;
                    SignalKind::interrupt()
                }
                _ = self.quit.recv() => SignalKind::quit(),
                _ = self.terminate.recv() => SignalKind::terminate(),
                _ = first.recv() => SignalKind::user_defined1(),
                _ = second.recv() => SignalKind::user_defined2(),
            };
            // On a terminal keys come as input: this one was sent by somebody who wants us to end.
            if interrupts > PATIENCE || on_terminal && number == SignalKind::terminate() {
                return;
            }
            sender.signal(number.as_raw_value()).await;
        }
    }
}
