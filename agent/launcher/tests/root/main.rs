//! Sandboxes with the real launcher and the real init. These need root.

mod support;

mod first;
