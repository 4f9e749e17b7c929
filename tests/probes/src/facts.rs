//! What the tests tell the probe about the world outside.

use std::collections::HashMap;

/// The facts, from arguments of the form `key=value`.
pub struct Facts {
    /// `first`: the host id of the image's root.
    pub first_id: u32,
    /// `count`: how many ids the sandbox has.
    pub id_count: u32,
    /// `uid`: the host id that the probe should have.
    pub uid: u32,
    /// `root`: whether it is root inside. All ids are then those of its user namespace.
    pub is_root: bool,
    /// `map`: how the map of that namespace begins.
    pub map: String,
    /// `init`: the id that pid 1 is seen with.
    pub init: u32,
    /// `groups`: its supplementary groups as /proc/self/status writes them.
    pub groups: String,
    /// `hostname`: the sandbox's.
    pub host_name: String,
    /// `nofile`: its hard limit of open files.
    pub open_files: u64,
    /// `pid`: a process of the host.
    pub host_pid: i32,
    /// `neighbour`: a process of another instance, which runs as the same user.
    pub neighbour_pid: i32,
    /// `neighbour_file`: a file of that instance that anybody may read, where the host has it.
    pub neighbour_file: String,
    /// `file`: a file of the host that anybody may read.
    pub host_file: String,
    /// `socket`: a Unix socket of the host that anybody may connect to.
    pub host_socket: String,
    /// `abstract`: the same without a file.
    pub host_abstract: String,
    /// `port`: a TCP port of the host's loopback.
    pub host_port: u16,
    /// `shm`: the key of a shared memory segment of the host.
    pub host_shm: i32,
    /// `queue`: a POSIX message queue of the host.
    pub host_queue: String,
    /// `group`: a word of the path of its cgroup.
    pub group: String,
    /// `wait`: whether to stay.
    pub waits: bool,
    /// `builder`: whether to try what builders of images may not.
    pub builds: bool,
    /// `terminal`: whether to look at its terminal instead.
    pub on_terminal: bool,
    /// `race`: whether to lie in wait instead.
    pub races: bool,
}

impl Facts {
    /// Reads the program's arguments; what is missing is empty or 0.
    pub fn from_arguments() -> Self {
        let given: HashMap<String, String> = std::env::args()
            .filter_map(|argument| argument.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned())))
            .collect();
        let text = |key: &str| given.get(key).cloned().unwrap_or_default();
        Self {
            first_id: text("first").parse().unwrap_or_default(),
            id_count: text("count").parse().unwrap_or_default(),
            uid: text("uid").parse().unwrap_or_default(),
            is_root: text("root") == "yes",
            map: text("map"),
            init: text("init").parse().unwrap_or_default(),
            groups: text("groups"),
            host_name: text("hostname"),
            open_files: text("nofile").parse().unwrap_or_default(),
            host_pid: text("pid").parse().unwrap_or(i32::MAX),
            neighbour_pid: text("neighbour").parse().unwrap_or(i32::MAX),
            neighbour_file: text("neighbour_file"),
            host_file: text("file"),
            host_socket: text("socket"),
            host_abstract: text("abstract"),
            host_port: text("port").parse().unwrap_or_default(),
            host_shm: text("shm").parse().unwrap_or_default(),
            host_queue: text("queue"),
            group: text("group"),
            waits: text("wait") == "yes",
            builds: text("builder") == "yes",
            on_terminal: text("terminal") == "yes",
            races: text("race") == "yes",
        }
    }
}
