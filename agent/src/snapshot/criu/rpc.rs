//! The messages of CRIU's `swrk` mode that are used here, by the field numbers of its `rpc.proto` (4.2).

use prost::{Enumeration, Message};

/// What is asked.
#[derive(Clone, PartialEq, Message)]
pub struct Request {
    #[prost(enumeration = "Kind", required, tag = "1")]
    pub kind: i32,
    #[prost(message, optional, tag = "2")]
    pub options: Option<Options>,
}

/// The kinds of requests and answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum Kind {
    Empty = 0,
    Dump = 1,
    Restore = 2,
}

/// `criu_cg_mode`: groups are the agent's own affair.
pub const CGROUPS_IGNORE: i32 = 0;
/// `criu_network_lock_method`: the router's gate is closed, no packet comes.
pub const NETWORK_LOCK_SKIP: i32 = 3;

/// How it is done.
#[derive(Clone, PartialEq, Message)]
pub struct Options {
    /// -1: `images` counts.
    #[prost(int32, required, tag = "1")]
    pub images_descriptor: i32,
    #[prost(int32, optional, tag = "2")]
    pub pid: Option<i32>,
    #[prost(bool, optional, tag = "3")]
    pub leave_running: Option<bool>,
    #[prost(bool, optional, tag = "8")]
    pub file_locks: Option<bool>,
    #[prost(int32, optional, tag = "9")]
    pub log_level: Option<i32>,
    #[prost(string, optional, tag = "10")]
    pub log_file: Option<String>,
    #[prost(message, repeated, tag = "27")]
    pub inherit: Vec<Inherit>,
    #[prost(int32, optional, tag = "34")]
    pub cgroups: Option<i32>,
    #[prost(uint32, optional, tag = "35")]
    pub ghost_limit: Option<u32>,
    #[prost(string, optional, tag = "44")]
    pub freeze_cgroup: Option<String>,
    #[prost(uint32, optional, tag = "45")]
    pub timeout: Option<u32>,
    #[prost(bool, optional, tag = "52")]
    pub tcp_close: Option<bool>,
    #[prost(int32, optional, tag = "64")]
    pub network_lock: Option<i32>,
    #[prost(bool, optional, tag = "67")]
    pub unprivileged: Option<bool>,
    #[prost(string, optional, tag = "68")]
    pub images: Option<String>,
}

/// A descriptor of CRIU's that takes the place of one in the images.
#[derive(Clone, PartialEq, Message)]
pub struct Inherit {
    #[prost(string, required, tag = "1")]
    pub key: String,
    #[prost(int32, required, tag = "2")]
    pub descriptor: i32,
}

/// What it answers.
#[derive(Clone, PartialEq, Message)]
pub struct Response {
    #[prost(enumeration = "Kind", required, tag = "1")]
    pub kind: i32,
    #[prost(bool, required, tag = "2")]
    pub success: bool,
    #[prost(int32, optional, tag = "7")]
    pub errno: Option<i32>,
    #[prost(string, optional, tag = "9")]
    pub message: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_the_bytes_that_its_description_says() {
        let options = Options { images_descriptor: -1, unprivileged: Some(true), ..Options::default() };
        let request = Request { kind: Kind::Dump.into(), options: Some(options) };
        let mut wanted = vec![0x08, 1, 0x12, 14, 0x08];
        wanted.extend([0xff; 9]);
        // Field 67 as a number: 67 << 3 is 536.
        wanted.extend([1, 0x98, 4, 1]);
        assert_eq!(request.encode_to_vec(), wanted);
    }

    #[test]
    fn fields_that_are_not_known_are_passed_over() {
        let bytes = [0x08, 2, 0x10, 1, 0x22, 2, 0x08, 42];
        let response = Response::decode(&bytes[..]).expect("an answer");
        assert!(response.success && response.kind == i32::from(Kind::Restore));
    }
}
