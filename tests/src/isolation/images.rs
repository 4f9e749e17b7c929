//! Hostile images and hosts: links in the place of mount targets, a false null device, leaked folders.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use drowse_launcher::rules::Rule;
use drowse_launcher::{Bind, InjectedFile, LauncherError, SandboxRequest, Step};

use super::bench::{Bench, IDS, Wrapper, process};
use super::inside::in_full;
use super::{Attempt, End};

/// What is tried here.
pub(super) const RULES: &[Rule] = &[
    Rule::OwnFoldersNotLinks,
    Rule::TargetsInRoot,
    Rule::NullVerified,
    Rule::WorkingFolderInside,
    Rule::CapabilitiesReadBack,
    Rule::UserInRange,
];

pub(super) fn run(dropped: Option<Rule>, attempts: &mut Vec<Attempt>) {
    let mut only = |rule: Rule, tries: &dyn Fn(&mut Vec<Attempt>)| {
        if dropped.is_none_or(|dropped| dropped == rule) {
            tries(attempts);
        }
    };
    only(Rule::OwnFoldersNotLinks, &|attempts| own_folders(dropped, attempts));
    only(Rule::TargetsInRoot, &|attempts| targets(dropped, attempts));
    only(Rule::NullVerified, &|attempts| false_null(dropped, attempts));
    only(Rule::WorkingFolderInside, &|attempts| working_folders(dropped, attempts));
    only(Rule::CapabilitiesReadBack, &|attempts| missing_capability(dropped, attempts));
    only(Rule::UserInRange, &|attempts| users(dropped, attempts));
}

/// The image has a link where proc, sysfs and /dev go.
fn own_folders(dropped: Option<Rule>, attempts: &mut Vec<Attempt>) {
    for name in ["proc", "sys", "dev"] {
        for target in ["/app", "/etc", "../../../etc"] {
            let bench = Bench::new(dropped, Wrapper::Nothing);
            symlink(target, bench.layer().join(name)).expect("a link");
            let built = bench.build(&bench.request());
            let name = format!("an image whose /{name} leads to {target}");
            attempts.push(Attempt::new(name, Rule::OwnFoldersNotLinks, refused_in(Step::Resolve, built.map(drop))));
        }
    }
}

/// The image has links to the host where things are mounted, and they may reach nothing of it.
fn targets(dropped: Option<Rule>, attempts: &mut Vec<Attempt>) {
    type Hostile = fn(&Path, &Path, &mut SandboxRequest);
    let hostile: [(&str, Hostile); 7] = [
        ("a folder on the way to an injected file", |layer, canary, _| {
            fs::remove_dir(layer.join("etc")).expect("an empty folder");
            symlink(canary, layer.join("etc")).expect("a link");
        }),
        ("an injected file", |layer, canary, _| symlink(canary.join("file"), layer.join("etc/hosts")).expect("a link")),
        ("a way up to an injected file", |layer, canary, request| {
            symlink("../../../../../../..", layer.join("etc/up")).expect("a link");
            let path = Path::new("/etc/up").join(canary.strip_prefix("/").expect("absolute")).join("made");
            let host_path = request.files[0].host_path.clone();
            request.files.push(InjectedFile { path, host_path });
        }),
        ("a magic link to an injected file", |layer, _, request| {
            symlink("/proc/1/root", layer.join("etc/magic")).expect("a link");
            let host_path = request.files[0].host_path.clone();
            request.files.push(InjectedFile { path: "/etc/magic/etc/hosts".into(), host_path });
        }),
        ("the target of a bind", |layer, canary, request| {
            symlink(canary, layer.join("cache")).expect("a link");
            let source = request.overlay.upper.clone();
            request.binds.push(Bind {
                source,
                target: "/cache/deep".into(),
                read_only: false,
                idmap: None,
                is_disk: false,
            });
        }),
        ("the target of a tmpfs", |layer, canary, request| {
            symlink(canary, layer.join("scratch")).expect("a link");
            let mounts = serde_json::json!([{"destination": "/scratch/deep", "type": "tmpfs"}]);
            request.spec.set_mounts(Some(serde_json::from_value(mounts).expect("mounts")));
        }),
        ("a masked path", |layer, canary, request| {
            symlink(canary, layer.join("masked")).expect("a link");
            if let Some(linux) = request.spec.linux_mut() {
                linux.set_masked_paths(Some(vec!["/masked/file".to_owned(), "/masked".to_owned()]));
                linux.set_readonly_paths(Some(vec!["/masked".to_owned()]));
            }
        }),
    ];
    for (what, plant) in hostile {
        let bench = Bench::new(dropped, Wrapper::Nothing);
        // Not in /tmp, which is covered while a root is put together.
        let canary = tempfile::tempdir_in("/var/tmp").expect("a folder");
        fs::write(canary.path().join("file"), "the host's").expect("a file");
        let before = contents(canary.path());
        let mut request = bench.request();
        plant(&bench.layer(), canary.path(), &mut request);
        let built = bench.build(&request);
        let end = match (contents(canary.path()) == before, &built) {
            (false, _) => End::Escaped("a folder of the host was changed".to_owned()),
            (true, Err(error)) => End::Refused(in_full(error)),
            (true, Ok(_)) => End::Contained("nothing of the host was changed".to_owned()),
        };
        attempts.push(Attempt::new(format!("a link to the host in the place of {what}"), Rule::TargetsInRoot, end));
    }
}

/// Names, owners, rights and contents.
fn contents(folder: &Path) -> BTreeMap<String, (u32, u32, Vec<u8>)> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
    let read = |entry: fs::DirEntry| {
        let found = entry.metadata().expect("it is there");
        let bytes = fs::read(entry.path()).unwrap_or_default();
        (entry.file_name().to_string_lossy().into_owned(), (found.uid(), found.mode(), bytes))
    };
    entries.map(read).collect()
}

/// What is bound over masked files is not the null device: then the mask would show it.
fn false_null(dropped: Option<Rule>, attempts: &mut Vec<Attempt>) {
    let bench = Bench::new(dropped, Wrapper::FalseNull);
    let built = bench.build(&bench.request());
    let name = "a host whose /dev/null is a file";
    attempts.push(Attempt::new(name, Rule::NullVerified, refused_in(Step::Device, built.map(drop))));
}

/// A folder of the host is open in the launcher's child, and is asked for as the working folder.
fn working_folders(dropped: Option<Rule>, attempts: &mut Vec<Attempt>) {
    let bench = Bench::new(dropped, Wrapper::Nothing);
    let host = tempfile::tempdir().expect("a folder");
    fs::set_permissions(host.path(), PermissionsExt::from_mode(0o755)).expect("rights");
    let wanted = fs::metadata(host.path()).expect("it is there");
    let mut running = bench.build(&bench.request()).expect("a sandbox");
    let numbered = (3..24).map(|number| format!("/proc/self/fd/{number}"));
    let others = ["/proc/1/cwd", "/proc/1/root", "/proc/self/fd/0/../../.."].map(str::to_owned);
    for folder in numbered.chain(others) {
        let mut request = process(&["/probe".to_owned(), "wait=yes".to_owned()]);
        request.process.set_cwd(folder.clone().into());
        let stdin = File::open(host.path()).expect("a folder").into();
        let end = match bench.start(&mut running, &request, Some(stdin)) {
            Err(error) => End::Refused(in_full(&error)),
            Ok((started, _)) => match fs::metadata(format!("/proc/{}/cwd/", started.pid)) {
                Ok(found) if (found.dev(), found.ino()) == (wanted.dev(), wanted.ino()) => {
                    End::Escaped("it works in a folder of the host".to_owned())
                }
                _ => End::Contained("it works in a folder of its own".to_owned()),
            },
        };
        attempts.push(Attempt::new(format!("working folder {folder}"), Rule::WorkingFolderInside, end));
    }
}

/// The launcher was started without a capability that a process is to have.
fn missing_capability(dropped: Option<Rule>, attempts: &mut Vec<Attempt>) {
    let bench = Bench::new(dropped, Wrapper::FewerCapabilities);
    let mut running = bench.build(&bench.request()).expect("a sandbox");
    let mut request = process(&["/probe".to_owned(), "nothing".to_owned()]);
    let asked = serde_json::json!({"bounding": ["CAP_NET_RAW"]});
    request.process.set_capabilities(serde_json::from_value(asked).expect("capabilities"));
    let started = bench.start(&mut running, &request, None).map(drop);
    let name = "a process whose capabilities are not as asked for";
    attempts.push(Attempt::new(name, Rule::CapabilitiesReadBack, refused_in(Step::Capabilities, started)));
}

fn users(dropped: Option<Rule>, attempts: &mut Vec<Attempt>) {
    let bench = Bench::new(dropped, Wrapper::Nothing);
    let mut running = bench.build(&bench.request()).expect("a sandbox");
    let (inside, outside) = (IDS.first + 1, IDS.first + IDS.count);
    for (uid, gid, group) in [(0, inside, inside), (inside, 0, inside), (inside, inside, 0), (outside, inside, inside)]
    {
        let mut request = process(&["/probe".to_owned(), "nothing".to_owned()]);
        let user = request.process.user_mut();
        user.set_uid(uid);
        user.set_gid(gid);
        user.set_additional_gids(Some(vec![group]));
        let started = bench.start(&mut running, &request, None).map(drop);
        let name = format!("a process as user {uid}, group {gid} and {group}");
        attempts.push(Attempt::new(name, Rule::UserInRange, refused_in(Step::Spec, started)));
    }
}

/// Refused if it failed in this step; that it failed elsewhere is luck.
pub(super) fn refused_in(step: Step, result: Result<(), LauncherError>) -> End {
    match result {
        Ok(()) => End::Escaped("it was accepted".to_owned()),
        Err(LauncherError::Failed(failure)) if failure.step == step => End::Refused(failure.to_string()),
        Err(error) => End::Escaped(format!("not refused as it should be: {}", in_full(&error))),
    }
}
