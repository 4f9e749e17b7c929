//! What a Dockerfile starts from, and what it asks for by name. Read only so far that the images can be had
//! before the build; what it says beyond that is buildah's to read.

use std::collections::{BTreeMap, BTreeSet};

/// What is known of a Dockerfile before it is built.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Dockerfile {
    /// Images that it starts from or copies from, as they are written.
    pub images: BTreeSet<String>,
    /// Arguments that it declares.
    pub arguments: BTreeSet<String>,
    /// Whether it has a HEALTHCHECK.
    pub has_health_check: bool,
}

/// Reads a Dockerfile; `given` are values for its arguments.
pub(super) fn read(text: &str, given: &BTreeMap<String, String>) -> Dockerfile {
    let mut found = Dockerfile::default();
    let mut stages = BTreeSet::new();
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    let mut has_stage = false;
    for line in instructions(text) {
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((&line, ""));
        match word.to_ascii_uppercase().as_str() {
            "ARG" => {
                for argument in rest.split_whitespace() {
                    let (name, default) = argument.split_once('=').unwrap_or((argument, ""));
                    found.arguments.insert(name.to_owned());
                    // Those before the first stage are what FROM may be made of.
                    if !has_stage {
                        let default = default.trim_matches(['"', '\'']);
                        let value = given.get(name).cloned().unwrap_or_else(|| expanded(default, &values));
                        values.insert(name.to_owned(), value);
                    }
                }
            }
            "FROM" => {
                has_stage = true;
                let mut words = rest.split_whitespace().skip_while(|word| word.starts_with("--"));
                let image = words.next().map(|image| expanded(image, &values)).unwrap_or_default();
                if is_image(&image, &stages) {
                    found.images.insert(image);
                }
                if words.next().is_some_and(|word| word.eq_ignore_ascii_case("as"))
                    && let Some(name) = words.next()
                {
                    stages.insert(name.to_ascii_lowercase());
                }
            }
            "COPY" | "ADD" | "RUN" => {
                let options = rest.split_whitespace().take_while(|word| word.starts_with("--"));
                for from in options.filter_map(source_of) {
                    if is_image(from, &stages) {
                        found.images.insert(from.to_owned());
                    }
                }
            }
            "HEALTHCHECK" => found.has_health_check |= !rest.trim().eq_ignore_ascii_case("none"),
            _ => {}
        }
    }
    found
}

/// `--from=X`, or the same in a mount.
fn source_of(option: &str) -> Option<&str> {
    let value = match option.strip_prefix("--mount=") {
        Some(mount) => mount.split(',').find_map(|part| part.strip_prefix("from=")),
        None => option.strip_prefix("--from="),
    };
    value.filter(|value| !value.is_empty())
}

/// Not a stage by its name or number, not `scratch`, no layout of the folder's own, and known at all.
fn is_image(name: &str, stages: &BTreeSet<String>) -> bool {
    let is_layout = ["oci:", "oci-archive:", "docker-archive:", "dir:"].iter().any(|kind| name.starts_with(kind));
    let is_stage = stages.contains(&name.to_ascii_lowercase()) || name.bytes().all(|b| b.is_ascii_digit());
    !(name.is_empty() || is_layout || is_stage || name == "scratch" || name.contains('$'))
}

/// With `$NAME`, `${NAME}` and `${NAME:-default}` replaced; what is not known stays, and is then no image.
fn expanded(text: &str, values: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let (name, default, end) = if let Some(inner) = after.strip_prefix('{') {
            let Some(close) = inner.find('}') else { break };
            let (name, default) =
                inner[..close].split_once(":-").map_or((&inner[..close], None), |(n, d)| (n, Some(d)));
            (name, default, close + 2)
        } else {
            let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
            (&after[..end], None, end)
        };
        match values.get(name).filter(|value| !value.is_empty()).map(String::as_str).or(default) {
            Some(value) => out.push_str(value),
            None => out.push_str(&rest[at..=at + end]),
        }
        rest = &after[end..];
    }
    out + rest
}

/// Instructions, each on one line, without comments and the text of here-documents.
fn instructions(text: &str) -> Vec<String> {
    let mut lines = text.lines();
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        let mut whole = line.trim().to_owned();
        if whole.is_empty() || whole.starts_with('#') {
            continue;
        }
        while whole.ends_with('\\') {
            whole.pop();
            // Comments and empty lines inside of an instruction are left out.
            match lines.by_ref().map(str::trim).find(|line| !line.starts_with('#') && !line.is_empty()) {
                Some(next) => whole.push_str(next),
                None => break,
            }
        }
        for end in here_documents(&whole) {
            for line in lines.by_ref() {
                if line.trim() == end {
                    break;
                }
            }
        }
        found.push(whole);
    }
    found
}

/// What ends the here-documents that begin in a line.
fn here_documents(line: &str) -> Vec<String> {
    let is_able = ["RUN", "COPY", "ADD"].iter().any(|word| line.to_ascii_uppercase().starts_with(word));
    let begins = line.split_whitespace().filter_map(|word| word.strip_prefix("<<")).filter(|_| is_able);
    let ends = begins.map(|word| word.trim_start_matches('-').trim_matches(['"', '\'']).to_owned());
    ends.filter(|end| !end.is_empty() && end.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(text: &str) -> Vec<String> {
        read(text, &BTreeMap::new()).images.into_iter().collect()
    }

    #[test]
    fn images_are_found_wherever_a_dockerfile_names_them() {
        let text = "# syntax=x\nARG V=3.12\nFROM --platform=linux/amd64 drowse/python AS Build\n\
            run --mount=type=cache,target=/x --mount=type=bind,from=tools.example/t:1,target=/t true\n\
            FROM python:${V}-slim\nCOPY --chown=1 --from=build /a /a\nCOPY --from=0 /b /b\n\
            COPY --from=other.example/x@sha256:00 /c /c\nFROM scratch\nFROM build\nFROM oci:./base\n";
        assert_eq!(
            images(text),
            ["drowse/python", "other.example/x@sha256:00", "python:3.12-slim", "tools.example/t:1"]
        );
    }

    #[test]
    fn arguments_have_defaults_and_are_given() {
        let text =
            "ARG BASE=a.example/base:1\nARG OTHER=${BASE}\nFROM $OTHER\nARG TOKEN\nFROM ${MISSING:-b/c}\nFROM $NONE\n";
        assert_eq!(images(text), ["a.example/base:1", "b/c"]);
        let found = read(text, &BTreeMap::from([("BASE".to_owned(), "mine:2".to_owned())]));
        assert!(found.images.contains("mine:2"), "{found:?}");
        assert_eq!(found.arguments.iter().map(String::as_str).collect::<Vec<_>>(), ["BASE", "OTHER", "TOKEN"]);
    }

    #[test]
    fn long_lines_comments_and_here_documents_are_passed_over() {
        let text = "FROM \\\n  # why not\n  a/b\nRUN <<EOF\nFROM not/this\nEOF\nHEALTHCHECK NONE\nRUN cat <<A <<-\"B\"\nFROM no\nA\nFROM no\nB\nFROM c/d\n";
        assert_eq!(images(text), ["a/b", "c/d"]);
        assert!(!read(text, &BTreeMap::new()).has_health_check);
        assert!(read("FROM a\nhealthcheck CMD x", &BTreeMap::new()).has_health_check);
    }
}
