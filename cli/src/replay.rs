//! Where a reader stands in a log that begins again from the start when its stream is reopened.

use jiff::Timestamp;

/// Passes each line once: what was seen before the stream broke is skipped when it comes again.
/// Lines of one moment are told apart by their count, since many can be read from a pipe at once.
#[derive(Debug, Default)]
pub struct Replay {
    /// The newest moment seen, and how many lines of it.
    newest: Option<(Timestamp, usize)>,
    /// How many lines of that moment the reopened stream is yet to repeat.
    to_skip: Option<usize>,
}

impl Replay {
    /// The stream was opened again.
    pub fn reopened(&mut self) {
        self.to_skip = self.newest.map(|(_, count)| count);
    }

    /// Whether this line was not seen before.
    pub fn is_new(&mut self, at: Timestamp) -> bool {
        let Some((newest, count)) = &mut self.newest else {
            self.newest = Some((at, 1));
            return true;
        };
        if let Some(left) = &mut self.to_skip {
            if at < *newest {
                return false;
            }
            if at == *newest && *left > 0 {
                *left -= 1;
                return false;
            }
            self.to_skip = None;
        }
        if at == *newest {
            *count += 1;
        } else {
            (*newest, *count) = (at, 1);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_line_is_passed_once_however_often_the_stream_breaks(
            steps in proptest::collection::vec(0_i64..2, 1..30),
            breaks in proptest::collection::vec(0_usize..30, 0..5),
        ) {
            let mut second = 0;
            let lines: Vec<_> = steps.iter().enumerate().map(|(n, step)| {
                second += step;
                (Timestamp::from_second(second).expect("in range"), n)
            }).collect();
            let (mut replay, mut passed) = (Replay::default(), Vec::new());
            let mut read = |replay: &mut Replay, until: usize| {
                for (at, n) in &lines[..until.min(lines.len())] {
                    if replay.is_new(*at) {
                        passed.push(*n);
                    }
                }
            };
            for until in breaks {
                read(&mut replay, until);
                replay.reopened();
            }
            read(&mut replay, lines.len());
            prop_assert_eq!(passed, (0..lines.len()).collect::<Vec<_>>());
        }
    }
}
