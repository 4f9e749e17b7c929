//! System tests and benchmarks.
