//! What a sandbox writes is on a disk of a fixed size, where it is given one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use drowse_launcher::Bind;
use drowse_launcher::disk::Disk;

use crate::support::{APP, Bench, IDS, Running, whole};

/// The image of a disk of 16 MiB with 64 files.
fn image(bench: &Bench, name: &str) -> PathBuf {
    let path = bench.instance(name).join("disk");
    std::fs::create_dir_all(bench.instance(name)).unwrap();
    std::fs::File::create(&path).unwrap().set_len(16 << 20).unwrap();
    let made =
        Command::new("mke2fs").args(["-q", "-t", "ext4", "-b", "4096", "-m", "0", "-N", "64"]).arg(&path).status();
    assert!(made.unwrap().success());
    path
}

fn on_disk(bench: &Bench, name: &str, disk: &Path) -> Running {
    let mut request = bench.request(name);
    request.overlay = request.overlay.on_disk(disk.to_owned());
    bench.build(&request, name).unwrap_or_else(|error| panic!("{}", whole(&error)))
}

/// Loop devices that a file is the content of.
fn devices(image: &Path) -> Vec<String> {
    let listed = Command::new("losetup").arg("-j").arg(image).output().unwrap();
    String::from_utf8(listed.stdout).unwrap().lines().map(ToOwned::to_owned).collect()
}

#[test]
fn what_is_written_ends_at_the_size_of_the_disk_and_is_there_again() {
    let Some(bench) = Bench::new() else { return };
    let disk = image(&bench, "one");
    let first = on_disk(&bench, "one", &disk);
    let (status, text) =
        bench.run(&first, "cd /app && echo mine > kept && dd if=/dev/zero of=big bs=1M count=32; ls kept");
    assert_eq!(status, 0);
    assert!(text.contains("No space left on device") && text.ends_with("kept\n"), "{text}");
    let (_, text) =
        bench.run(&first, "cd /app && rm big; i=0; while [ $i -lt 99 ]; do : > f$i || break; i=$((i+1)); done");
    assert!(text.contains("No space left on device"), "of files, too: {text}");
    bench.run(&first, "cd /app && rm f1 && dd if=/dev/zero of=big bs=4k");
    assert_eq!(devices(&disk).len(), 1);
    assert!(!std::fs::read_to_string("/proc/self/mounts").unwrap().contains(disk.to_str().unwrap()));
    drop(first);
    // The next one waits for the end of the first.
    let second = on_disk(&bench, "one", &disk);
    assert_eq!(bench.run(&second, "cat /app/kept"), (0, "mine\n".to_owned()));
    drop(second);
    let began = Instant::now();
    while !devices(&disk).is_empty() {
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", devices(&disk));
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_is_deleted_is_given_back_to_the_host() {
    let Some(bench) = Bench::new() else { return };
    let disk = image(&bench, "back");
    let sandbox = on_disk(&bench, "back", &disk);
    let used = || std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&disk).unwrap()) * 512;
    bench.run(&sandbox, "cd /app && dd if=/dev/urandom of=big bs=1M count=8 && sync");
    assert!(used() > 8 << 20, "{}", used());
    bench.run(&sandbox, "rm /app/big; sync");
    let began = Instant::now();
    while used() > 8 << 20 {
        assert!(began.elapsed() < Duration::from_secs(20), "{}", used());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_disk_can_be_bound_and_what_is_on_it_stays() {
    let Some(bench) = Bench::new() else { return };
    let disk = image(&bench, "bound");
    for (script, text) in
        [("cd /cache && rmdir lost+found; echo one > kept; ls", "kept\n"), ("cat /cache/kept", "one\n")]
    {
        let owner = Some(IDS.first + APP);
        std::os::unix::fs::chown(Disk::open(&disk).unwrap().path(), owner, owner).unwrap();
        let mut request = bench.request("bound");
        request.binds =
            vec![Bind { source: disk.clone(), target: "/cache".into(), read_only: false, idmap: None, is_disk: true }];
        let sandbox = bench.build(&request, "bound").unwrap_or_else(|error| panic!("{}", whole(&error)));
        assert_eq!(bench.run(&sandbox, script), (0, text.to_owned()));
        sandbox.kill();
        // overlayfs wants its folders for itself.
        std::fs::remove_dir_all(bench.instance("bound").join("work")).unwrap();
    }
}

#[test]
fn one_image_is_never_mounted_twice() {
    let Some(bench) = Bench::new() else { return };
    let disk = image(&bench, "once");
    let held = Disk::open(&disk).unwrap();
    let error = Disk::open_within(Duration::from_millis(50), &disk).unwrap_err();
    assert!(error.to_string().contains("another sandbox still has it"), "{error}");
    drop(held);
    Disk::open(&disk).unwrap();
}

#[test]
fn a_file_that_is_no_disk_is_told() {
    let Some(bench) = Bench::new() else { return };
    std::fs::create_dir_all(bench.instance("none")).unwrap();
    let path = bench.instance("none").join("disk");
    std::fs::write(&path, vec![0; 1 << 20]).unwrap();
    let error = Disk::open(&path).unwrap_err();
    assert!(error.to_string().starts_with(&format!("mount the disk {}", path.display())), "{error}");
    assert_eq!(devices(&path), Vec::<String>::new());
}
