//! The agent's side of [`drowse_launcher::rules`]: whether a rule is in force here. In all builds but
//! the unit tests' that is what the list says; a test can leave one out on its own thread, and show
//! that something gets through.

use drowse_launcher::rules::Rule;

/// Whether the rule is to be enforced.
pub(crate) fn in_force(rule: Rule) -> bool {
    #[cfg(test)]
    if left_out::is(rule) {
        return false;
    }
    rule.in_force()
}

#[cfg(test)]
pub(crate) mod left_out {
    use std::cell::Cell;

    use super::Rule;

    thread_local! {
        static RULE: Cell<Option<Rule>> = const { Cell::new(None) };
    }

    pub(super) fn is(rule: Rule) -> bool {
        RULE.get() == Some(rule)
    }

    /// Leaves `rule` out on this thread from now on.
    pub(crate) fn set(rule: Option<Rule>) {
        RULE.set(rule);
    }
}
