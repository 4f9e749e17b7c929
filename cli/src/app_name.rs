//! The name of an app when none is given: made from the folder's name, kept nowhere.

use std::path::Path;

use drowse_api::{AppName, ImageReference, Problem};

use crate::failure::bad_request;

const MAX: usize = 40;

/// The app's name: the one given, or the one made from the current folder.
///
/// # Errors
/// When the folder's name cannot be made into a valid one.
pub fn given_or_here(given: Option<AppName>) -> Result<AppName, Problem> {
    match given {
        Some(name) => Ok(name),
        None => of_folder(Path::new(".")),
    }
}

/// The app's name made from the folder's.
///
/// # Errors
/// With a suggestion, when that is no valid name.
pub fn of_folder(folder: &Path) -> Result<AppName, Problem> {
    #[expect(clippy::disallowed_methods, reason = "a folder of the caller's own, read only for its name")]
    let full = std::fs::canonicalize(folder)
        .map_err(|error| bad_request(format!("cannot read the folder {}: {error}", folder.display())))?;
    let own = full.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let made = valid_characters(&own);
    AppName::parse(made.clone()).map_err(|error| {
        bad_request(format!("the folder's name {own:?} cannot be an app's name: {error}"))
            .hint(format!("name the app, for example {}", suggestion(&made)))
    })
}

/// The app's name made from an image's.
///
/// # Errors
/// With a suggestion, when that is no valid name.
pub fn of_image(image: &ImageReference) -> Result<AppName, Problem> {
    let own = image.repository().rsplit('/').next().unwrap_or_default();
    let made = valid_characters(own);
    AppName::parse(made.clone()).map_err(|error| {
        bad_request(format!("the image's name {own:?} cannot be an app's name: {error}"))
            .hint(format!("drowse deploy --image {image} --name {}", suggestion(&made)))
    })
}

/// Lower case, with one hyphen for each run of anything else, and not too long.
fn valid_characters(text: &str) -> String {
    let mut made = String::new();
    for c in text.chars() {
        match c.to_ascii_lowercase() {
            c if c.is_ascii_lowercase() || c.is_ascii_digit() => made.push(c),
            _ if made.ends_with('-') => {}
            _ => made.push('-'),
        }
    }
    let cut: String = made.trim_matches('-').chars().take(MAX).collect();
    cut.trim_end_matches('-').to_owned()
}

/// A valid name close to `made`, which is too short or reserved.
fn suggestion(made: &str) -> String {
    let longer = format!("my-{made}");
    AppName::parse(longer).map_or_else(|_| "my-app".to_owned(), String::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_folders_name_is_made_valid() {
        assert_eq!(valid_characters("My_Shop (2)"), "my-shop-2");
        assert_eq!(valid_characters("--a__b--"), "a-b");
        assert_eq!(valid_characters("Größe"), "gr-e");
        assert_eq!(valid_characters(&format!("{}-b", "a".repeat(39))), "a".repeat(39));
    }

    #[test]
    fn a_folder_whose_name_cannot_be_used_gets_a_suggestion() {
        let base = tempfile::tempdir().expect("a folder");
        for (name, suggested) in [("api", "my-api"), ("x", "my-x"), ("日本", "my-app")] {
            let folder = base.path().join(name);
            std::fs::create_dir(&folder).expect("made");
            let problem = of_folder(&folder).expect_err("no name");
            assert!(problem.hint.expect("a hint").ends_with(suggested), "{name}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_made_is_valid_or_too_short_or_reserved(text in "\\PC{0,60}") {
            let made = valid_characters(&text);
            let is_short = made.len() < 3;
            let parsed = AppName::parse(made);
            let is_reserved = matches!(parsed, Err(drowse_api::ids::NameError::Reserved { .. }));
            prop_assert!(is_short || is_reserved || parsed.is_ok());
        }
    }
}
