//! Configurations that ask for the host, past everything that would have refused them earlier.

use drowse_launcher::Step;
use drowse_launcher::rules::Rule;
use serde_json::{Value, json};

use super::bench::{Bench, Wrapper};
use super::images::refused_in;
use super::{Attempt, End};

/// What is tried here.
pub(super) const RULES: &[Rule] = &[
    Rule::NoHooks,
    Rule::NoForeignDevices,
    Rule::NoForeignNamespaces,
    Rule::NoIdMappings,
    Rule::NoHostMounts,
    Rule::PlainMountPaths,
    Rule::OwnParameters,
];

pub(super) fn run(dropped: Option<Rule>, attempts: &mut Vec<Attempt>) {
    let bench = Bench::new(dropped, Wrapper::Nothing);
    for (name, rule, part) in demands() {
        if dropped.is_some_and(|dropped| dropped != rule) {
            continue;
        }
        let mut request = bench.request();
        let mut spec = serde_json::to_value(&request.spec).expect("a configuration");
        merge(&mut spec, part);
        let end = match serde_json::from_value(spec) {
            Ok(spec) => {
                request.spec = spec;
                refused_in(Step::Spec, bench.build(&request).map(drop))
            }
            Err(error) => End::Refused(format!("not a configuration: {error}")),
        };
        attempts.push(Attempt::new(name, rule, end));
    }
}

fn demands() -> Vec<(String, Rule, Value)> {
    let hook = |kind: &str| json!({"hooks": {kind: [{"path": "/bin/true"}]}});
    let linux = |part: Value| json!({"linux": part});
    let mount = |part: Value| json!({"mounts": [part]});
    // The value that the host has: the attempt changes nothing even if it works.
    let panic = std::fs::read_to_string("/proc/sys/kernel/panic").unwrap_or_default().trim().to_owned();
    let mut demands = Vec::new();
    for kind in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"] {
        demands.push((format!("a {kind} hook"), Rule::NoHooks, hook(kind)));
    }
    let more = [
        (
            "a disk",
            Rule::NoForeignDevices,
            linux(json!({"devices": [{"path": "/dev/sda", "type": "b", "major": 8, "minor": 0}]})),
        ),
        (
            "the memory device",
            Rule::NoForeignDevices,
            linux(json!({"devices": [{"path": "/dev/null", "type": "c", "major": 1, "minor": 1}]})),
        ),
        (
            "the host's network",
            Rule::NoForeignNamespaces,
            linux(json!({"namespaces": [{"type": "network", "path": "/proc/1/ns/net"}]})),
        ),
        (
            "the host's processes",
            Rule::NoForeignNamespaces,
            linux(json!({"namespaces": [{"type": "pid", "path": "/proc/1/ns/pid"}]})),
        ),
        (
            "the host's ids",
            Rule::NoIdMappings,
            linux(json!({"uidMappings": [{"containerID": 0, "hostID": 0, "size": 65536}]})),
        ),
        (
            "a folder of the host",
            Rule::NoHostMounts,
            mount(json!({"destination": "/host", "type": "bind", "source": "/", "options": ["rbind"]})),
        ),
        ("the tree of cgroups", Rule::NoHostMounts, mount(json!({"destination": "/groups", "type": "cgroup2"}))),
        ("another proc", Rule::NoHostMounts, mount(json!({"destination": "/other", "type": "proc", "source": "proc"}))),
        ("a mount over /proc/self", Rule::PlainMountPaths, mount(json!({"destination": "/proc/tty", "type": "tmpfs"}))),
        ("a mount below /sys", Rule::PlainMountPaths, mount(json!({"destination": "/sys/kernel", "type": "tmpfs"}))),
        (
            "a mount by way of ..",
            Rule::PlainMountPaths,
            mount(json!({"destination": "/app/../proc/tty", "type": "tmpfs"})),
        ),
        ("a parameter of the host", Rule::OwnParameters, linux(json!({"sysctl": {"kernel.panic": panic}}))),
    ];
    demands.extend(more.into_iter().map(|(name, rule, part)| (name.to_owned(), rule, part)));
    demands
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}
