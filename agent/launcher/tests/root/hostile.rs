//! Images and requests that want out.

use std::fs;
use std::os::unix::fs::symlink;

use drowse_launcher::{InjectedFile, LauncherError, Step};

use crate::support::{Bench, Running, process, whole};

fn failed(result: Result<Running, LauncherError>) -> drowse_launcher::Failure {
    match result {
        Err(LauncherError::Failed(failure)) => failure,
        Err(error) => panic!("{}", whole(&error)),
        Ok(_) => panic!("it was built"),
    }
}

#[test]
fn links_in_the_place_of_our_file_systems_are_refused() {
    for name in ["proc", "sys", "dev"] {
        let Some(bench) = Bench::new() else { return };
        symlink("/etc", bench.layer().join(name)).unwrap();
        let failure = failed(bench.build(&bench.request("one"), "one"));
        assert_eq!(failure.step, Step::Resolve, "{failure}");
        assert_eq!(failure.target, format!("/{name}"));
    }
}

#[test]
fn links_of_the_image_lead_injected_files_nowhere_outside() {
    let Some(bench) = Bench::new() else { return };
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("target"), "the host's").unwrap();
    let etc = bench.layer().join("etc");
    symlink(outside.path().join("target"), etc.join("hosts")).unwrap();
    symlink("../../../../../../..", etc.join("up")).unwrap();
    symlink("/proc/1/root", etc.join("magic")).unwrap();
    let ours = bench.folder.path().join("ours");
    fs::write(&ours, "ours").unwrap();
    let mut request = bench.request("one");
    request.files = vec![InjectedFile { path: "/etc/hosts".into(), host_path: ours.clone() }];
    let path = format!("/etc/up{}/made", outside.path().display());
    request.files.push(InjectedFile { path: path.clone().into(), host_path: ours });
    let sandbox = bench.build(&request, "one").unwrap();
    let (_, text) = bench.run(&sandbox, &format!("cat /etc/hosts {}/made", outside.path().display()));
    assert_eq!(text, "oursours", "the second one is inside, below the root");
    assert_eq!(fs::read_to_string(outside.path().join("target")).unwrap(), "the host's");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1, "nothing was made outside");
    let mut request = bench.request("two");
    request.files =
        vec![InjectedFile { path: "/etc/magic/etc/hosts".into(), host_path: bench.folder.path().join("ours") }];
    let failure = failed(bench.build(&request, "two"));
    assert!(matches!(failure.step, Step::Resolve | Step::MountTarget), "{failure}");
}

#[test]
fn a_working_folder_outside_and_a_missing_program_are_named() {
    let Some(bench) = Bench::new() else { return };
    symlink("/proc/1/cwd", bench.layer().join("out")).unwrap();
    let sandbox = bench.sandbox("one");
    let refusal = |request| match bench.start(&sandbox, &request) {
        Err(LauncherError::Failed(failure)) => failure,
        other => panic!("{other:?}"),
    };
    for folder in ["/nowhere", "/out", "/proc/self/fd/7", "/proc/self/fd/10"] {
        let mut request = process(&["/bin/true"]);
        request.process.set_cwd(folder.into());
        let failure = refusal(request);
        assert_eq!((failure.step, failure.target.as_str()), (Step::WorkingFolder, folder), "{failure}");
    }
    let failure = refusal(process(&["/bin/nothing"]));
    assert_eq!(failure.to_string(), "execute /bin/nothing: No such file or directory (os error 2)");
    let failure = refusal(process(&["nothing"]));
    assert_eq!((failure.step, failure.errno()), (Step::Exec, Some(libc::ENOENT)));
    let failure = refusal(process(&["/etc"]));
    assert_eq!((failure.step, failure.errno()), (Step::Exec, Some(libc::EACCES)));
    let (status, _) = bench.run(&sandbox, "exit 0");
    assert_eq!(status, 0, "the sandbox is as good as before");
}

#[test]
fn the_images_loader_settings_touch_nothing_of_ours() {
    let Some(bench) = Bench::new() else { return };
    fs::write(bench.layer().join("etc/ld.so.preload"), "/etc/evil.so\n").unwrap();
    let sandbox = bench.sandbox("one");
    assert_eq!(bench.run(&sandbox, "echo fine"), (0, "fine\n".to_owned()));
    let maps = fs::read_to_string(format!("/proc/{}/maps", sandbox.sandbox.pid)).unwrap();
    assert!(!maps.contains(".so"), "init has no library: {maps}");
}
