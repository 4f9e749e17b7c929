//! System calls that the libraries lack.
