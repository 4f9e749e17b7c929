//! How an app is started whose Procfile does not say: by a server for production, found from the app
//! object in its code and from what its lists name.

use super::super::Source;

/// Files that may hold the app object, in the order in which they are looked at: below the top folder,
/// in packages, and in `src`, which is not one.
const FILES: [&str; 7] = ["wsgi.py", "asgi.py", "app.py", "main.py", "application.py", "server.py", "run.py"];
const PACKAGES: [&str; 4] = ["app", "api", "server", "backend"];
const SRC: &str = "src";
/// Files that are run as they are when no app object is found.
const PROGRAMS: [&str; 5] = ["app.py", "main.py", "server.py", "run.py", "bot.py"];

/// A start command and what led to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Guess {
    /// What was found, as the beginning of a sentence.
    pub what: String,
    /// The start command.
    pub start: String,
    /// What it needs beside the app's own dependencies.
    pub servers: &'static [&'static str],
}

/// What serves an app object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Interface {
    Wsgi,
    Asgi,
}

/// An app object: `module:variable`, and the folder that its module is imported from.
struct Object {
    name: String,
    folder: Option<&'static str>,
    interface: Interface,
    /// It is a function that makes the app.
    is_factory: bool,
}

/// `wants`: whether the app's lists name a package.
pub(super) fn guess(source: &Source, wants: &dyn Fn(&str) -> bool) -> Option<Guess> {
    if let Some(object) = django(source, wants).or_else(|| find(source)) {
        let (start, servers) = server(&object, wants);
        let kind = if object.interface == Interface::Wsgi { "a WSGI app" } else { "an ASGI app" };
        return Some(Guess { what: format!("{kind} was found at {}", object.name), start, servers });
    }
    let program = PROGRAMS.into_iter().find(|name| source.has(name))?;
    Some(Guess { what: format!("there is {program}"), start: format!("python {program}"), servers: &[] })
}

/// A server that the app has, or else one that is installed for it. All of them trust the addresses
/// and the scheme that the router tells, which alone reaches them.
fn server(object: &Object, wants: &dyn Fn(&str) -> bool) -> (String, &'static [&'static str]) {
    let Object { name, folder, interface, is_factory } = object;
    let call = if *is_factory { format!("'{name}()'") } else { name.clone() };
    match interface {
        Interface::Wsgi if wants("waitress") && !wants("gunicorn") => {
            let how = if *is_factory { "--call " } else { "" };
            (format!("waitress-serve --listen=0.0.0.0:$PORT {how}{name}"), &[])
        }
        Interface::Wsgi => {
            let folder = folder.map(|folder| format!("--chdir {folder} ")).unwrap_or_default();
            let trust = "--forwarded-allow-ips '*'";
            (format!("gunicorn {folder}--bind 0.0.0.0:$PORT --threads 4 {trust} {call}"), &["gunicorn"])
        }
        Interface::Asgi if wants("hypercorn") && !wants("uvicorn") => {
            (format!("hypercorn --bind 0.0.0.0:$PORT {call}"), &[])
        }
        Interface::Asgi if wants("daphne") && !wants("uvicorn") => {
            (format!("daphne --bind 0.0.0.0 --port $PORT {call}"), &[])
        }
        Interface::Asgi => {
            let folder = folder.map(|folder| format!("--app-dir {folder} ")).unwrap_or_default();
            let how = if *is_factory { "--factory " } else { "" };
            let trust = "--forwarded-allow-ips '*'";
            // It speaks WebSocket only with this beside it.
            (format!("uvicorn {folder}--host 0.0.0.0 --port $PORT {trust} {how}{name}"), &["uvicorn", "websockets"])
        }
    }
}

/// Django keeps its app in the folder of its settings: for both interfaces, of which the one is used
/// that its lists have a server or a framework for.
fn django(source: &Source, wants: &dyn Fn(&str) -> bool) -> Option<Object> {
    source.has("manage.py").then_some(())?;
    let has = |folder: &str, name: &str| source.has(&format!("{folder}/{name}"));
    let folder = source.names().into_iter().find(|name| has(name, "wsgi.py") || has(name, "asgi.py"))?;
    let wants_asgi = !wants("gunicorn") && ["channels", "daphne", "uvicorn", "hypercorn"].into_iter().any(wants);
    let is_asgi = has(&folder, "asgi.py") && (wants_asgi || !has(&folder, "wsgi.py"));
    let (module, interface) = if is_asgi { ("asgi", Interface::Asgi) } else { ("wsgi", Interface::Wsgi) };
    Some(Object { name: format!("{folder}.{module}:application"), folder: None, interface, is_factory: false })
}

/// The first app object, in a file where apps are.
fn find(source: &Source) -> Option<Object> {
    let top = FILES.into_iter().map(|file| (file.to_owned(), module_of(file), None));
    let packages = PACKAGES.into_iter().flat_map(|folder| {
        let files = ["__init__.py"].into_iter().chain(FILES);
        files.map(move |file| {
            let module = match file {
                "__init__.py" => folder.to_owned(),
                file => format!("{folder}.{}", module_of(file)),
            };
            (format!("{folder}/{file}"), module, None)
        })
    });
    let src = FILES.into_iter().map(|file| (format!("{SRC}/{file}"), module_of(file), Some(SRC)));
    top.chain(packages).chain(src).find_map(|(path, module, folder)| {
        let (variable, interface, is_factory) = object_in(&source.text(&path)?)?;
        Some(Object { name: format!("{module}:{variable}"), folder, interface, is_factory })
    })
}

fn module_of(file: &str) -> String {
    file.trim_end_matches(".py").to_owned()
}

/// The first variable at the top level of a module that is bound to an app; else a factory by its
/// usual name.
fn object_in(text: &str) -> Option<(String, Interface, bool)> {
    let bound = text.lines().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        let name = name.split(':').next()?.trim_end();
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return None;
        }
        Some((name.to_owned(), interface_of(value.trim(), text)?, false))
    });
    bound.or_else(|| {
        let factory = ["create_app", "make_app"].into_iter().find(|name| text.contains(&format!("\ndef {name}(")))?;
        Some((factory.to_owned(), made_by_factory(text)?, true))
    })
}

fn interface_of(value: &str, text: &str) -> Option<Interface> {
    let callee = value.split_once('(')?.0.rsplit('.').next()?.trim();
    match callee {
        "Flask" | "get_wsgi_application" | "Bottle" | "default_app" | "Falcon" => Some(Interface::Wsgi),
        "FastAPI" | "Starlette" | "Quart" | "Litestar" | "get_asgi_application" | "ProtocolTypeRouter" => {
            Some(Interface::Asgi)
        }
        "create_app" | "make_app" => Some(made_by_factory(text).unwrap_or(Interface::Wsgi)),
        _ => None,
    }
}

/// What a factory in this text makes, by the framework that the text names.
fn made_by_factory(text: &str) -> Option<Interface> {
    let has = |words: [&str; 4]| words.into_iter().any(|word| text.contains(word));
    if has(["FastAPI(", "Starlette(", "Quart(", "Litestar("]) {
        Some(Interface::Asgi)
    } else {
        has(["Flask(", "Bottle(", "falcon.App(", "import create_app"]).then_some(Interface::Wsgi)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::source;
    use super::*;

    fn start(files: &[(&str, &str)], lists: &[&str]) -> String {
        let (_folder, source) = source(files);
        guess(&source, &|name| lists.contains(&name)).expect("is one").start
    }

    const GUNICORN: &str = "gunicorn --bind 0.0.0.0:$PORT --threads 4 --forwarded-allow-ips '*'";
    const UVICORN: &str = "--host 0.0.0.0 --port $PORT --forwarded-allow-ips '*'";

    #[test]
    fn the_start_command_follows_from_the_app_object_and_from_what_is_there_to_serve_it() {
        let flask = ("app.py", "from flask import Flask\n\napp = Flask(__name__)\n");
        let django = [("manage.py", ""), ("shop/wsgi.py", ""), ("shop/asgi.py", "")];
        assert_eq!(start(&[flask], &["flask"]), format!("{GUNICORN} app:app"));
        assert_eq!(start(&[flask], &["waitress"]), "waitress-serve --listen=0.0.0.0:$PORT app:app");
        let fast = ("main.py", "api: FastAPI = FastAPI()\n");
        assert_eq!(start(&[fast], &[]), format!("uvicorn {UVICORN} main:api"));
        assert_eq!(start(&[fast], &["hypercorn"]), "hypercorn --bind 0.0.0.0:$PORT main:api");
        assert_eq!(start(&django, &["django"]), format!("{GUNICORN} shop.wsgi:application"));
        assert_eq!(start(&django, &["channels"]), format!("uvicorn {UVICORN} shop.asgi:application"));
        assert_eq!(start(&django, &["channels", "daphne"]), "daphne --bind 0.0.0.0 --port $PORT shop.asgi:application");
        assert_eq!(start(&[("main.py", "print(1)\n")], &[]), "python main.py");
    }

    #[test]
    fn apps_in_packages_in_src_and_made_by_functions_are_found() {
        let fast = "from fastapi import FastAPI\napp = FastAPI(title=\"x\")\n";
        assert_eq!(start(&[("app/main.py", fast)], &[]), format!("uvicorn {UVICORN} app.main:app"));
        assert_eq!(start(&[("src/main.py", fast)], &[]), format!("uvicorn --app-dir src {UVICORN} main:app"));
        let factory = "from flask import Flask\n\ndef create_app():\n    app = Flask(__name__)\n    return app\n";
        assert_eq!(start(&[("app/__init__.py", factory)], &[]), format!("{GUNICORN} 'app:create_app()'"));
        let made = "from fastapi import FastAPI\n\ndef create_app():\n    return FastAPI()\n";
        assert_eq!(start(&[("main.py", made)], &[]), format!("uvicorn {UVICORN} --factory main:create_app"));
        let called = "from shop import create_app\n\napp = create_app()\n";
        assert_eq!(start(&[("wsgi.py", called)], &[]), format!("{GUNICORN} wsgi:app"));
    }

    #[test]
    fn what_is_not_at_the_top_of_a_module_is_no_app() {
        let (_folder, source) = source(&[("lib.py", "app = Flask()\n"), ("notes.txt", "")]);
        assert_eq!(guess(&source, &|_| false), None);
    }
}
