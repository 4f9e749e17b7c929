//! Python apps.

mod guess;
mod lists;
mod pipfile;
mod pyproject;

use drowse_api::{ErrorCode, Problem};

use self::guess::{Guess, guess};
use self::lists::Lists;
use super::{Build, Detected, Install, Serves, Source, procfile};

pub(super) fn detect(source: &Source) -> Result<Detected, Problem> {
    let mut lists = lists::read(source)?;
    let mut notes = std::mem::take(&mut lists.notes);
    let (serves, servers) = match procfile(source) {
        Some(start) => (Serves::Process { start, origin: "Procfile".to_owned() }, &[][..]),
        None => {
            let Guess { what, start, servers } = guess(source, &|name| lists.names(name)).ok_or_else(nothing)?;
            notes.push(format!("no Procfile: {what}; the start command is a guess"));
            (Serves::Process { start, origin: "guess".to_owned() }, servers)
        }
    };
    let missing: Vec<&str> = servers.iter().copied().filter(|name| !lists.names(name)).collect();
    if !missing.is_empty() {
        notes.push(format!("{} is installed too: the app's own lists name no server", missing.join(" with ")));
    }
    let build = build(source, &lists);
    Ok(Detected { install: Some(install(lists, &missing)), build, serves, notes })
}

fn nothing() -> Problem {
    Problem::new(ErrorCode::NothingToRun, "no Procfile, and no Flask, Django, WSGI or ASGI app or app.py was found")
        .hint("add a Procfile with a line such as: web: gunicorn --bind 0.0.0.0:$PORT app:app")
}

const PIP: &str = "/usr/bin/python3 -m pip --python /venv/bin/python install --no-warn-script-location";

fn install(lists: Lists, servers: &[&str]) -> Install {
    let mut script = "set -e; /usr/bin/python3 -m venv --without-pip /venv".to_owned();
    if let Some(what) = &lists.arguments {
        script.push_str(&format!("; {PIP} {what}"));
    }
    if !servers.is_empty() {
        // On its own: where the app's lists have hashes, pip wants one of everything in the same call.
        script.push_str(&format!("; {PIP} {}", servers.join(" ")));
    }
    Install { shown: lists.shown, script, files: lists.files, is_cacheable: lists.is_cacheable, keep: "venv" }
}

/// What is done with the source once its dependencies are there.
fn build(source: &Source, lists: &Lists) -> Option<Build> {
    let mut commands: Vec<String> =
        lists.own.iter().map(|what| format!("{PIP} --no-deps --no-build-isolation {what}")).collect();
    let mut shown: Vec<String> = lists.own.iter().map(|what| format!("pip install --no-deps {what}")).collect();
    if !commands.is_empty() && !lists.backend.is_empty() {
        // What builds the app's own package is known from its file, and is installed beside it.
        let backend: Vec<String> = lists.backend.iter().map(|name| super::quoted(name)).collect();
        commands.insert(0, format!("{PIP} {}", backend.join(" ")));
    }
    // Without it Django has no files to show for its own pages, and whitenoise nothing to serve.
    if source.has("manage.py") && lists.names("whitenoise") {
        commands.push("python manage.py collectstatic --noinput".to_owned());
        shown.push("python manage.py collectstatic --noinput".to_owned());
    }
    let script = format!("set -e; {}", commands.join("; "));
    (!commands.is_empty()).then(|| Build { shown: shown.join(" && "), script, keep: &["app", "venv"] })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{source, start_of};
    use super::*;

    fn found(files: &[(&str, &str)]) -> Detected {
        let (_folder, source) = source(files);
        detect(&source).expect("is one")
    }

    const FLASK: (&str, &str) = ("app.py", "from flask import Flask\n\napp = Flask(__name__)\n");

    #[test]
    fn a_server_is_installed_where_the_app_has_none_and_it_is_told() {
        let bare = found(&[FLASK, ("requirements.txt", "Flask>=3\n")]);
        let script = bare.install.as_ref().expect("installs").script.clone();
        assert!(script.ends_with(" gunicorn"), "{script}");
        assert!(bare.notes.iter().any(|note| note.contains("gunicorn is installed too")), "{:?}", bare.notes);
        assert!(bare.notes.iter().any(|note| note.contains("a guess")), "{:?}", bare.notes);
        let with = found(&[FLASK, ("requirements.txt", "Flask>=3\ngunicorn==23\n")]);
        assert!(with.install.expect("installs").script.ends_with("-r requirements.txt"));
        assert!(!with.notes.iter().any(|note| note.contains("installed too")), "{:?}", with.notes);
        // What a Procfile starts is the app's own affair.
        let own = found(&[FLASK, ("Procfile", "web: python app.py\n"), ("requirements.txt", "flask\n")]);
        assert!(own.install.expect("installs").script.ends_with("-r requirements.txt"));
    }

    #[test]
    fn a_package_of_its_own_is_installed_over_its_dependencies() {
        let project = "[project]\nname = \"shop\"\nversion = \"1\"\ndependencies = [\"flask>=3\"]\n\
                       [build-system]\nrequires = [\"hatchling\"]\nbuild-backend = \"hatchling.build\"\n";
        let found = found(&[FLASK, ("pyproject.toml", project)]);
        let install = found.install.expect("installs");
        assert!(install.is_cacheable, "the dependencies alone decide");
        let build = found.build.expect("its own package");
        assert_eq!(build.shown, "pip install --no-deps .");
        assert!(build.script.contains("'hatchling'"), "{}", build.script);
    }

    #[test]
    fn static_files_of_django_are_collected_for_whitenoise() {
        let files = [("manage.py", ""), ("shop/wsgi.py", ""), ("requirements.txt", "django\nwhitenoise\n")];
        let found = found(&files);
        assert_eq!(
            found.build.as_ref().map(|build| build.shown.as_str()),
            Some("python manage.py collectstatic --noinput")
        );
        assert!(start_of(&found).starts_with("gunicorn "), "{}", start_of(&found));
    }

    #[test]
    fn nothing_to_run_says_what_to_add() {
        let (_folder, nothing) = source(&[("notes.txt", "")]);
        let problem = detect(&nothing).expect_err("nothing");
        assert_eq!(problem.code, ErrorCode::NothingToRun);
        assert!(problem.hint.is_some_and(|hint| hint.contains("Procfile")));
    }
}
