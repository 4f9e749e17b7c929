//! The two options of this program, read without a library: it is part of what every node runs.

use std::ffi::OsString;
use std::path::PathBuf;

/// How it is called.
pub const USAGE: &str = "usage: drowse-sites --root FOLDER --port PORT";

/// What it was told.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// The folder with one folder per address.
    pub root: PathBuf,
    /// Where it listens, on every IPv4 address; 0 lets the kernel choose.
    pub port: u16,
}

impl Options {
    /// Reads the arguments after the program's name.
    ///
    /// # Errors
    /// One sentence on the argument that is missing or wrong.
    pub fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let mut arguments = arguments;
        let (mut root, mut port) = (None, None);
        while let Some(name) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{} needs a value", name.display()));
            match name.to_str() {
                Some("--root") => root = Some(PathBuf::from(value()?)),
                Some("--port") => {
                    let text = value()?;
                    let number = text.to_str().and_then(|text| text.parse().ok());
                    port = Some(number.ok_or_else(|| format!("{} is not a port", text.display()))?);
                }
                _ => return Err(format!("{} is not an option", name.display())),
            }
        }
        Ok(Self { root: root.ok_or("--root is missing")?, port: port.ok_or("--port is missing")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Options, String> {
        Options::parse(arguments.iter().map(OsString::from))
    }

    #[test]
    fn both_options_are_read_and_both_are_needed() {
        let read = parse(&["--port", "8080", "--root", "/sites"]);
        assert_eq!(read, Ok(Options { root: "/sites".into(), port: 8080 }));
        assert_eq!(parse(&["--port", "8080"]), Err("--root is missing".to_owned()));
        assert_eq!(parse(&["--root"]), Err("--root needs a value".to_owned()));
        assert_eq!(parse(&["--port", "99999"]), Err("99999 is not a port".to_owned()));
        assert_eq!(parse(&["--fast"]), Err("--fast is not an option".to_owned()));
    }
}
