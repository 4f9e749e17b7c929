//! Results: one table for people, one array of objects for programs.

use std::path::Path;

use anyhow::Context;
use serde::Serialize;

/// One result.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// Of `ours` and `peer_value`.
    pub unit: &'static str,
    /// The median of our rounds.
    pub ours: f64,
    /// Who else was measured.
    pub peer: Option<&'static str>,
    /// The median of the peer's rounds.
    pub peer_value: Option<f64>,
    /// `ours` divided by `peer_value`.
    pub ratio: Option<f64>,
    /// Lowest and highest ratio of the rounds.
    pub spread: Option<[f64; 2]>,
    /// What the ratio must not exceed; where there is no peer, what `ours` must not.
    pub budget: Option<f64>,
}

impl Row {
    /// A row with a peer, from the rounds of both sides in the same order.
    #[must_use]
    pub fn against(
        what: &str,
        unit: &'static str,
        ours: &[f64],
        peer: &'static str,
        theirs: &[f64],
        budget: Option<f64>,
    ) -> Row {
        let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a / b).collect();
        let lowest = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Row {
            what: what.to_owned(),
            unit,
            ours: median(ours),
            peer: Some(peer),
            peer_value: Some(median(theirs)),
            ratio: Some(median(ours) / median(theirs)),
            spread: Some([lowest, highest]),
            budget,
        }
    }

    /// A row without a peer.
    #[must_use]
    pub fn alone(what: &str, unit: &'static str, ours: &[f64], budget: Option<f64>) -> Row {
        Row {
            what: what.to_owned(),
            unit,
            ours: median(ours),
            peer: None,
            peer_value: None,
            ratio: None,
            spread: None,
            budget,
        }
    }

    /// Whether it is within its budget, where it has one.
    #[must_use]
    pub fn is_met(&self) -> Option<bool> {
        self.budget.map(|budget| self.ratio.unwrap_or(self.ours) <= budget)
    }
}

/// The middle value.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Prints the table.
pub fn print(rows: &[Row]) {
    let number = |value: f64| if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") };
    let cells: Vec<[String; 8]> = rows
        .iter()
        .map(|row| {
            [
                row.what.clone(),
                row.unit.to_owned(),
                number(row.ours),
                row.peer.unwrap_or_default().to_owned(),
                row.peer_value.map(number).unwrap_or_default(),
                row.ratio.map(number).unwrap_or_default(),
                row.spread.map(|[low, high]| format!("{low:.2} to {high:.2}")).unwrap_or_default(),
                match (row.budget, row.is_met()) {
                    (Some(budget), Some(true)) => format!("{} met", number(budget)),
                    (Some(budget), _) => format!("{} MISSED", number(budget)),
                    _ => String::new(),
                },
            ]
        })
        .collect();
    let head = ["what", "unit", "ours", "peer", "peer's", "ratio", "spread", "budget"].map(str::to_owned);
    let width = |column: usize| cells.iter().chain([&head]).map(|row| row[column].chars().count()).max().unwrap_or(0);
    for row in [&head].into_iter().chain(&cells) {
        let line: Vec<String> = row.iter().enumerate().map(|(n, cell)| format!("{cell:<0$}", width(n))).collect();
        println!("{}", line.join("  ").trim_end());
    }
}

/// Writes the rows as a JSON array.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, rows: &[Row]) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(rows)? + "\n";
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
