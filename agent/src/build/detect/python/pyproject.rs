//! pyproject.toml: its list of dependencies is installed on its own, so that it can be kept, and the
//! package that it describes, if it describes one, over it.

use drowse_api::{ErrorCode, Problem};
use toml::{Table, Value};

use super::super::Source;
use super::lists::Lists;

const NAME: &str = "pyproject.toml";

pub(super) fn read(source: &Source) -> Result<Option<Lists>, Problem> {
    let Some(text) = source.text(NAME) else { return Ok(None) };
    let file: Table = toml::from_str(&text)
        .map_err(|error| Problem::new(ErrorCode::BadRequest, format!("{NAME} cannot be read: {error}")))?;
    let project = file.get("project").and_then(Value::as_table);
    let system = file.get("build-system").and_then(Value::as_table);
    let is_dynamic =
        project.is_some_and(|project| strings(project.get("dynamic")).iter().any(|it| it == "dependencies"));
    let Some(project) = project.filter(|_| !is_dynamic) else {
        // Only its own tool knows what it depends on.
        return Ok(Some(Lists {
            shown: "pip install .".to_owned(),
            arguments: Some(".".to_owned()),
            files: vec![(NAME.to_owned(), text.into_bytes())],
            ..Lists::default()
        }));
    };
    let mut lists = Lists::generated(NAME, &strings(project.get("dependencies")));
    // Without a build system it is no package, only an app with its list.
    if let Some(system) = system {
        lists.own = vec![".".to_owned()];
        lists.backend = strings(system.get("requires"));
    }
    Ok(Some(lists))
}

fn strings(value: Option<&Value>) -> Vec<String> {
    let items = value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(Value::as_str).map(ToOwned::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::source;
    use super::*;

    fn lists(text: &str) -> Lists {
        let (_folder, source) = source(&[(NAME, text)]);
        read(&source).expect("reads").expect("is one")
    }

    #[test]
    fn an_app_with_a_list_is_no_package() {
        let lists = lists("[project]\nname = 'shop'\nversion = '1'\ndependencies = ['flask>=3', 'gunicorn']\n");
        assert_eq!(lists.files[0].1, b"flask>=3\ngunicorn\n");
        assert!(lists.is_cacheable && lists.own.is_empty() && lists.names("gunicorn"));
    }

    #[test]
    fn what_only_its_own_tool_knows_is_left_to_it() {
        for text in
            ["[project]\nname = 'shop'\ndynamic = ['version', 'dependencies']\n", "[tool.poetry]\nname = 'shop'\n"]
        {
            let lists = lists(text);
            assert_eq!((lists.arguments.as_deref(), lists.is_cacheable), (Some("."), false), "{text}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let (_folder, source) = source(&[(NAME, "[project\n")]);
        assert!(read(&source).expect_err("broken").detail.contains("pyproject.toml cannot be read"));
    }
}
