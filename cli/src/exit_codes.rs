//! What the exit codes mean. The codes of problems stand in `drowse_api::error`; here are the words.

use drowse_api::ErrorCode;

use crate::failure::INTERRUPTED;

const MEANINGS: &[(u8, &str)] = &[
    (0, "done"),
    (1, "a fault of Drowse itself"),
    (2, "the command, a value in it or the folder is not right"),
    (3, "what was named does not exist"),
    (4, "no token, a wrong one, or not allowed"),
    (5, "it exists already, is not kept any more, or something newer took its place"),
    (6, "a limit is used up, or the disk is full"),
    (7, "the controller or a node does not answer, or is not fit"),
    (10, "the build failed"),
    (11, "the app did not listen in time"),
    (12, "the app crashed again and again"),
    (13, "the release command failed"),
    (126, "what was named as a command cannot be executed"),
    (127, "there is no such command in the app's image"),
    (INTERRUPTED, "ended by Ctrl-C"),
];

/// What the table cannot tell.
const COMMANDS: &str = "\
drowse exec and drowse run end as their command does: with its code, or with 128 and the number of the signal
that ended it (130 for Ctrl-C, 137 where it was killed). The codes above are theirs only where the command
was not started, or the connection to it broke; standard error says which.
";

/// The table, one line for each exit code, with the problem codes that lead to it.
pub fn table() -> String {
    let mut text = String::new();
    for (exit, meaning) in MEANINGS {
        let codes: Vec<_> =
            ErrorCode::ALL.iter().filter(|code| code.exit_code() == *exit).map(|code| code.as_str()).collect();
        let codes = if codes.is_empty() { String::new() } else { format!(" ({})", codes.join(", ")) };
        text.push_str(&format!("  {exit:>3}  {meaning}{codes}\n"));
    }
    text.push('\n');
    text.push_str(COMMANDS);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exit_code_is_explained() {
        for code in ErrorCode::ALL {
            assert!(MEANINGS.iter().any(|(exit, _)| *exit == code.exit_code()), "{}", code.as_str());
            assert!(table().contains(code.as_str()));
        }
    }
}
