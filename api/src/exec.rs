//! A process inside, joined to a client: what is asked for, and the frames that go both ways.
//!
//! The call is an HTTP/1.1 upgrade to [`PROTOCOL`]. What cannot be started is answered as any call
//! is; after the 101 the process runs and only frames follow. A frame is a kind (one byte), the
//! length of its payload (four bytes, little endian) and the payload, at most [`MAX_PAYLOAD`] bytes.
//!
//! The agent stops reading a process whose client does not read. The client sends no more input than
//! [`WINDOW`] bytes ahead of what it was told to be [taken](FromProcess::Taken), so that a signal is
//! never stuck behind input that nobody reads. A client whose connection ends is gone: its process is
//! ended.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Problem;

/// The name and version of the protocol, for the header `Upgrade`.
pub const PROTOCOL: &str = "drowse-exec/1";
/// The most bytes of a payload.
pub const MAX_PAYLOAD: usize = 32 << 10;
/// How many bytes of input may be on their way.
pub const WINDOW: usize = 128 << 10;
/// The most words of a command, and bytes of all of them together.
pub const MAX_COMMAND: (usize, usize) = (4096, 128 << 10);

const HEADER: usize = 5;

/// What is to be done inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// What runs.
    pub job: Job,
    /// On a terminal of its own; without, three separate streams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<Terminal>,
}

/// What runs inside, as the app's user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Job {
    /// A command, in the app's environment; the image's shell if there are no words.
    Command(Vec<String>),
    /// Sends a file or folder as a tar stream on standard output.
    Read {
        /// Where it is, seen from the app's working folder.
        path: PathBuf,
    },
    /// Takes a tar stream on standard input.
    Write {
        /// Where it goes: into a folder that is there, else under this very name.
        path: PathBuf,
        /// What it is called in a folder.
        name: String,
    },
}

/// A terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminal {
    /// How large it is.
    pub size: WindowSize,
    /// What programs inside find as TERM.
    #[serde(default)]
    pub kind: String,
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// With what.
    pub status: ExitStatus,
    /// Why, where the status alone does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// With what a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitStatus {
    /// By itself, with this code.
    Exited(u8),
    /// By this signal.
    Signalled(u8),
    /// It could not be found out.
    Unknown,
}

impl ExitStatus {
    /// As a shell shows it: the code, or 128 and the signal's number.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Exited(code) => code,
            Self::Signalled(number) => 128_u8.saturating_add(number),
            Self::Unknown => 1,
        }
    }
}

/// What a client sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToProcess {
    /// For its standard input or terminal.
    Input(Vec<u8>),
    /// Its standard input ends.
    EndOfInput,
    /// Its terminal has another size.
    Resize(WindowSize),
    /// A signal for its process group, by its number.
    Signal(u8),
}

/// What a client is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromProcess {
    /// Of its standard output or terminal.
    Output(Vec<u8>),
    /// Of its standard error.
    Error(Vec<u8>),
    /// So many bytes of input were taken.
    Taken(u32),
    /// It ended; the last frame.
    Ended(Ended),
    /// It had to be given up; the last frame.
    Failed(Problem),
}

/// Bytes that are no frame of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it, the fields are their parts")]
pub enum FrameError {
    #[error("a frame of {length} bytes, more than {MAX_PAYLOAD}")]
    TooLong { length: usize },
    #[error("a frame of kind {kind}, which is not known")]
    Kind { kind: u8 },
    #[error("a frame of kind {kind} whose payload is malformed")]
    Payload { kind: u8 },
}

/// One direction of the stream.
pub trait Frame: Sized {
    /// The frame as it is sent.
    fn to_bytes(&self) -> Vec<u8>;

    /// Reads a frame's payload.
    ///
    /// # Errors
    /// If it is none.
    fn read(kind: u8, payload: &[u8]) -> Result<Self, FrameError>;
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.push(kind);
    bytes.extend(u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend(payload);
    bytes
}

fn json<'a, T: Deserialize<'a>>(kind: u8, payload: &'a [u8]) -> Result<T, FrameError> {
    serde_json::from_slice(payload).map_err(|_| FrameError::Payload { kind })
}

impl Frame for ToProcess {
    fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Input(bytes) => frame(1, bytes),
            Self::EndOfInput => frame(2, &[]),
            Self::Resize(WindowSize { rows, columns }) => {
                let ([a, b], [c, d]) = (rows.to_le_bytes(), columns.to_le_bytes());
                frame(3, &[a, b, c, d])
            }
            Self::Signal(number) => frame(4, &[*number]),
        }
    }

    fn read(kind: u8, payload: &[u8]) -> Result<Self, FrameError> {
        match (kind, payload) {
            (1, bytes) => Ok(Self::Input(bytes.to_vec())),
            (2, []) => Ok(Self::EndOfInput),
            (3, [a, b, c, d]) => Ok(Self::Resize(WindowSize {
                rows: u16::from_le_bytes([*a, *b]),
                columns: u16::from_le_bytes([*c, *d]),
            })),
            (4, [number]) => Ok(Self::Signal(*number)),
            (2..=4, _) => Err(FrameError::Payload { kind }),
            _ => Err(FrameError::Kind { kind }),
        }
    }
}

impl Frame for FromProcess {
    fn to_bytes(&self) -> Vec<u8> {
        // Texts of ours are far shorter than a payload may be; a log is not sent along.
        let json = |kind, text: serde_json::Result<Vec<u8>>| frame(kind, &text.unwrap_or_default());
        match self {
            Self::Output(bytes) => frame(1, bytes),
            Self::Error(bytes) => frame(2, bytes),
            Self::Taken(count) => frame(3, &count.to_le_bytes()),
            Self::Ended(ended) => json(4, serde_json::to_vec(ended)),
            Self::Failed(problem) => json(5, serde_json::to_vec(problem)),
        }
    }

    fn read(kind: u8, payload: &[u8]) -> Result<Self, FrameError> {
        match (kind, payload) {
            (1, bytes) => Ok(Self::Output(bytes.to_vec())),
            (2, bytes) => Ok(Self::Error(bytes.to_vec())),
            (3, count) => {
                let count = count.try_into().map_err(|_| FrameError::Payload { kind })?;
                Ok(Self::Taken(u32::from_le_bytes(count)))
            }
            (4, ended) => Ok(Self::Ended(json(kind, ended)?)),
            (5, problem) => Ok(Self::Failed(json(kind, problem)?)),
            _ => Err(FrameError::Kind { kind }),
        }
    }
}

/// Cuts what arrives into frames. Holds no more than was fed and not taken out.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// What of it was taken out.
    start: usize,
}

impl Decoder {
    /// Takes what has arrived.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend(bytes);
    }

    /// The next whole frame, if it is there.
    ///
    /// # Errors
    /// If what arrived is none; nothing more can be read then.
    pub fn take<F: Frame>(&mut self) -> Result<Option<F>, FrameError> {
        let rest = &self.buffer[self.start..];
        let Some((header, rest)) = rest.split_at_checked(HEADER) else { return Ok(None) };
        let length = u32::from_le_bytes([header[1], header[2], header[3], header[4]]) as usize;
        if length > MAX_PAYLOAD {
            return Err(FrameError::TooLong { length });
        }
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let frame = F::read(header[0], payload)?;
        self.start += HEADER + length;
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ErrorCode;

    fn all<F: Frame>(bytes: &[u8], step: usize) -> Result<Vec<F>, FrameError> {
        let (mut decoder, mut found) = (Decoder::default(), Vec::new());
        for part in bytes.chunks(step) {
            decoder.feed(part);
            while let Some(frame) = decoder.take()? {
                found.push(frame);
            }
        }
        Ok(found)
    }

    #[test]
    fn frames_read_back_however_they_are_cut() {
        let there = vec![
            ToProcess::Input(vec![7; MAX_PAYLOAD]),
            ToProcess::Resize(WindowSize { rows: 24, columns: 80 }),
            ToProcess::Input(Vec::new()),
            ToProcess::Signal(2),
            ToProcess::EndOfInput,
        ];
        let back = vec![
            FromProcess::Output(b"out".to_vec()),
            FromProcess::Error(vec![0, 255]),
            FromProcess::Taken(70_000),
            FromProcess::Failed(Problem::new(ErrorCode::Unavailable, "the agent ends")),
            FromProcess::Ended(Ended { status: ExitStatus::Signalled(9), note: Some("why".to_owned()) }),
        ];
        let (sent, answered): (Vec<u8>, Vec<u8>) =
            (there.iter().flat_map(Frame::to_bytes).collect(), back.iter().flat_map(Frame::to_bytes).collect());
        for step in [1, 3, 1000, usize::MAX] {
            assert_eq!(all::<ToProcess>(&sent, step).expect("frames"), there);
            assert_eq!(all::<FromProcess>(&answered, step).expect("frames"), back);
        }
    }

    #[test]
    fn what_is_no_frame_is_told_before_it_is_waited_for() {
        assert_eq!(
            all::<ToProcess>(&[1, 255, 255, 255, 255], 5),
            Err(FrameError::TooLong { length: u32::MAX as usize })
        );
        assert_eq!(all::<ToProcess>(&[9, 0, 0, 0, 0], 5), Err(FrameError::Kind { kind: 9 }));
        assert_eq!(all::<ToProcess>(&[3, 1, 0, 0, 0, 7], 6), Err(FrameError::Payload { kind: 3 }));
        assert_eq!(all::<FromProcess>(b"\x04\x01\0\0\0{", 6), Err(FrameError::Payload { kind: 4 }));
        assert_eq!(all::<FromProcess>(b"HTTP/1.1 200", 4), Err(FrameError::TooLong { length: 0x2f50_5454 }));
    }

    #[test]
    fn an_exit_is_shown_as_shells_do() {
        assert_eq!([ExitStatus::Exited(3), ExitStatus::Signalled(2)].map(ExitStatus::code), [3, 130]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), step in 1_usize..50) {
            let _ = all::<ToProcess>(&bytes, step);
            let _ = all::<FromProcess>(&bytes, step);
        }
    }
}
