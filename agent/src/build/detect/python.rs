//! Python apps.

use drowse_api::{ErrorCode, Problem};

use super::{Detected, Install, Source, procfile};

/// Files that may hold the app object, in the order in which they are looked at.
const MODULES: [&str; 7] = ["wsgi.py", "asgi.py", "app.py", "main.py", "application.py", "server.py", "run.py"];
/// Files that are run as they are when no app object is found.
const PROGRAMS: [&str; 5] = ["app.py", "main.py", "server.py", "run.py", "bot.py"];

pub(super) fn detect(source: &Source) -> Result<Detected, Problem> {
    let requirements = source.text("requirements.txt");
    let mut notes = Vec::new();
    let install = install(source, requirements.as_deref(), &mut notes);
    let wants = |name: &str| requirements.as_deref().is_some_and(|text| requires(text, name));
    let (start, origin) = match procfile(source) {
        Some(line) => (line, "Procfile".to_owned()),
        None => {
            let start = guess(source, &wants).ok_or_else(nothing)?;
            notes.push("no Procfile; the start command is a guess from the code".to_owned());
            (start, "guess".to_owned())
        }
    };
    Ok(Detected { install: Some(install), build: None, start, origin, notes })
}

fn nothing() -> Problem {
    Problem::new(ErrorCode::NothingToRun, "no Procfile, and no Flask, Django, WSGI or ASGI app or app.py was found")
        .hint("add a Procfile with a line such as: web: gunicorn --bind 0.0.0.0:$PORT app:app")
}

fn install(source: &Source, requirements: Option<&str>, notes: &mut Vec<String>) -> Install {
    const VENV: &str = "set -e; /usr/bin/python3 -m venv --without-pip /venv; ";
    let pip = "/usr/bin/python3 -m pip --python /venv/bin/python install --no-warn-script-location";
    let (shown, what, files, is_cacheable) = match requirements {
        Some(text) => {
            let shown = "pip install -r requirements.txt".to_owned();
            let files = vec![("requirements.txt".to_owned(), text.as_bytes().to_vec())];
            (shown, "-r requirements.txt", files, !text.lines().any(is_local))
        }
        None if source.has("pyproject.toml") => ("pip install .".to_owned(), ".", Vec::new(), false),
        None => {
            notes.push("no requirements.txt: only Python's own library is there".to_owned());
            ("python3 -m venv /venv".to_owned(), "", Vec::new(), true)
        }
    };
    let script = if what.is_empty() { VENV.to_owned() } else { format!("{VENV}{pip} {what}") };
    Install { shown, script, files, is_cacheable, keep: "venv" }
}

/// Whether a line of requirements leads to other files of the source.
fn is_local(line: &str) -> bool {
    let line = line.trim();
    ["-e", "--editable", "-r", "--requirement", "-c", "--constraint", ".", "/", "file:", "-f", "--find-links"]
        .iter()
        .any(|prefix| line.starts_with(prefix))
        || line.contains("@ file:")
}

/// Whether requirements name this package.
fn requires(text: &str, name: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    text.lines().map(str::trim_start).any(|line| {
        let end = line.find(|c| !is_part(c)).unwrap_or(line.len());
        line[..end].replace('_', "-").eq_ignore_ascii_case(name)
    })
}

/// What serves an app object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Interface {
    Wsgi,
    Asgi,
}

fn guess(source: &Source, wants: &dyn Fn(&str) -> bool) -> Option<String> {
    if let Some((object, interface)) = django(source).or_else(|| app_object(source)) {
        if let Some(line) = server(&object, interface, wants) {
            return Some(line);
        }
        if source.has("manage.py") {
            return Some("python manage.py runserver 0.0.0.0:$PORT".to_owned());
        }
        if wants("flask") {
            return Some(format!("flask --app {object} run --host 0.0.0.0 --port $PORT"));
        }
    }
    PROGRAMS.into_iter().find(|name| source.has(name)).map(|name| format!("python {name}"))
}

/// Of gunicorn and uvicorn the one that is among the requirements.
fn server(object: &str, interface: Interface, wants: &dyn Fn(&str) -> bool) -> Option<String> {
    match interface {
        Interface::Wsgi if wants("gunicorn") => Some(format!("gunicorn --bind 0.0.0.0:$PORT {object}")),
        Interface::Wsgi if wants("waitress") => Some(format!("waitress-serve --listen=0.0.0.0:$PORT {object}")),
        Interface::Asgi if wants("uvicorn") => Some(format!("uvicorn {object} --host 0.0.0.0 --port $PORT")),
        Interface::Asgi if wants("hypercorn") => Some(format!("hypercorn --bind 0.0.0.0:$PORT {object}")),
        _ => None,
    }
}

/// Django keeps its app in the folder of its settings.
fn django(source: &Source) -> Option<(String, Interface)> {
    source.has("manage.py").then_some(())?;
    let folder = source.names().into_iter().find(|name| source.has(&format!("{name}/wsgi.py")))?;
    Some((format!("{folder}.wsgi:application"), Interface::Wsgi))
}

/// The first variable that is bound to an app, in a file where apps are.
fn app_object(source: &Source) -> Option<(String, Interface)> {
    MODULES.into_iter().find_map(|file| {
        let text = source.text(file)?;
        let module = file.trim_end_matches(".py");
        text.lines().find_map(|line| {
            let (name, value) = line.split_once('=')?;
            // Only at the top level of the module.
            let name = name.split(':').next()?.trim_end();
            if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                return None;
            }
            let interface = interface_of(value.trim())?;
            Some((format!("{module}:{name}"), interface))
        })
    })
}

fn interface_of(value: &str) -> Option<Interface> {
    let callee = value.split('(').next()?.rsplit('.').next()?.trim();
    match callee {
        "Flask" | "get_wsgi_application" | "create_app" | "Bottle" | "default_app" if value.contains('(') => {
            Some(Interface::Wsgi)
        }
        "FastAPI" | "Starlette" | "Quart" | "get_asgi_application" if value.contains('(') => Some(Interface::Asgi),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::source;
    use super::*;

    fn start(files: &[(&str, &str)]) -> String {
        let (_folder, source) = source(files);
        detect(&source).expect("is one").start
    }

    #[test]
    fn the_start_command_is_guessed_from_code_and_requirements() {
        let flask = ("app.py", "from flask import Flask\n\napp = Flask(__name__)\n");
        let cases: [(&[(&str, &str)], &str); 7] = [
            (&[flask, ("requirements.txt", "flask\ngunicorn==23\n")], "gunicorn --bind 0.0.0.0:$PORT app:app"),
            (&[flask, ("requirements.txt", "Flask>=3\n")], "flask --app app:app run --host 0.0.0.0 --port $PORT"),
            (
                &[("main.py", "api: FastAPI = FastAPI()\n"), ("requirements.txt", "fastapi\nuvicorn[standard]\n")],
                "uvicorn main:api --host 0.0.0.0 --port $PORT",
            ),
            (
                &[("manage.py", ""), ("shop/wsgi.py", ""), ("requirements.txt", "django\ngunicorn\n")],
                "gunicorn --bind 0.0.0.0:$PORT shop.wsgi:application",
            ),
            (&[("manage.py", ""), ("shop/wsgi.py", "")], "python manage.py runserver 0.0.0.0:$PORT"),
            (&[("main.py", "print(1)\n")], "python main.py"),
            (&[("Procfile", "web: ./run\n"), flask], "./run"),
        ];
        for (files, expected) in cases {
            assert_eq!(start(files), expected);
        }
    }

    #[test]
    fn a_requirement_is_found_by_its_whole_name() {
        let text = "Flask-Login==1\n  gunicorn ; python_version > '3'\nuvicorn[standard]\n";
        assert!(requires(text, "flask-login") && requires(text, "gunicorn") && requires(text, "uvicorn"));
        assert!(!requires(text, "flask"));
    }

    #[test]
    fn requirements_that_lead_to_other_files_are_not_cached() {
        for line in ["-e .", "./wheels/a.whl", "-r base.txt", "thing @ file:///app/thing"] {
            assert!(is_local(line), "{line}");
        }
        assert!(!is_local("flask==3.0"));
    }

    #[test]
    fn nothing_to_run_says_what_to_add() {
        let (_folder, nothing) = source(&[("notes.txt", "")]);
        let problem = detect(&nothing).expect_err("nothing");
        assert_eq!(problem.code, ErrorCode::NothingToRun);
        assert!(problem.hint.is_some_and(|hint| hint.contains("Procfile")));
    }
}
