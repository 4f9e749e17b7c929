//! What benchmarks share: programs that end with them, what the kernel counts about a process, and
//! tables of results in the one form that all benchmarks print.

pub mod density;
pub mod floods;
pub mod footprint;
pub mod process;
pub mod program;
pub mod report;
pub mod router;
pub mod start;
pub mod wake;
