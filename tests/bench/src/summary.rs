//! From rounds to a row: the ratio is made within each round, whose two windows are neighbours in time; only then the
//! middle is taken.

use serde::Serialize;

use crate::window::Window;
use crate::works::Work;

/// Where the values of all rounds lie.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Smallest.
    pub min: f64,
    /// Middle; between the two middle ones if their number is even.
    pub median: f64,
    /// Largest.
    pub max: f64,
}

/// One round: a window on each side, one right after the other.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// Without the mesh.
    pub direct: Window,
    /// Through the mesh.
    pub weft: Window,
    /// Through the yardstick, where that is measured.
    pub yardstick: Option<Window>,
}

/// What a path and work came to.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// In [`Work::figure_unit`].
    pub direct: Spread,
    /// The same.
    pub weft: Spread,
    /// Weft to direct of each round.
    pub ratio: Spread,
    /// Agents' CPU, in the kind's cost unit.
    pub cpu_per_unit: Spread,
    /// The same figures of the yardstick, if it was measured in every round.
    pub yardstick: Option<Yardstick>,
    /// Median over the rounds of each side's median time, where the work has times.
    pub p50_us: Sides,
    /// The same of the 99th percentile.
    pub p99_us: Sides,
    /// Busy CPU of the whole machine without what others used, in the kind's cost unit; medians.
    pub machine_per_unit: Sides,
    /// Share of the machine that others used, over all windows.
    pub others_share: f64,
    /// Share of the machine that the hypervisor gave to others.
    pub steal_share: f64,
}

/// What the yardstick came to, in the same rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Yardstick {
    /// In [`Work::figure_unit`]; for the table.
    #[serde(skip)]
    pub figure: Spread,
    /// Yardstick to direct of each round.
    pub ratio: Spread,
    /// CPU of both its processes, in the kind's cost unit.
    pub cpu_per_unit: Spread,
}

/// A value of each side.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sides {
    /// Without the mesh.
    pub direct: Option<f64>,
    /// Through the mesh.
    pub weft: Option<f64>,
}

impl Spread {
    /// Of at least one value.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (sorted.first(), sorted.last()) else {
            return Self { min: f64::NAN, median: f64::NAN, max: f64::NAN };
        };
        let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Self { min, median: f64::midpoint(low, high), max }
    }
}

/// Where the middle of many rounds like these lies, in 19 of 20 runs: between two of the values, whatever their distribution.
pub fn sure(values: impl IntoIterator<Item = f64>) -> (f64, f64) {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len() as f64;
    // How many of them are below the middle is binomial.
    let below = ((count - 1.96 * count.sqrt()) / 2.0).floor().max(0.0) as usize;
    let of = |place: Option<usize>| place.and_then(|place| sorted.get(place)).copied().unwrap_or(f64::NAN);
    (of(Some(below)), of(sorted.len().checked_sub(1 + below)))
}

impl Figures {
    /// Of at least one round.
    pub fn of(work: Work, rounds: &[Round]) -> Self {
        let spread = |value: &dyn Fn(&Round) -> f64| Spread::of(rounds.iter().map(value));
        let sides = |value: &dyn Fn(&Window) -> Option<f64>| Sides {
            direct: median(rounds.iter().filter_map(|round| value(&round.direct))),
            weft: median(rounds.iter().filter_map(|round| value(&round.weft))),
        };
        let windows = || {
            rounds.iter().flat_map(|round| [&round.direct, &round.weft].into_iter().chain(&round.yardstick))
        };
        let cost = |window: &Window| work.kind.cost(window.relays_cpu.as_secs_f64(), window.measure.units);
        let total: f64 = windows().map(|window| window.machine.total).sum::<f64>().max(f64::MIN_POSITIVE);
        Self {
            direct: spread(&|round| round.direct.figure(work)),
            weft: spread(&|round| round.weft.figure(work)),
            ratio: spread(&|round| round.weft.figure(work) / round.direct.figure(work)),
            cpu_per_unit: spread(&|round| cost(&round.weft)),
            yardstick: Yardstick::of(work, rounds, cost),
            p50_us: sides(&|window| window.measure.p50_us),
            p99_us: sides(&|window| window.measure.p99_us),
            machine_per_unit: sides(&|window| {
                Some(work.kind.cost((window.machine.busy - window.others).max(0.0), window.measure.units))
            }),
            others_share: windows().map(|window| window.others).sum::<f64>() / total,
            steal_share: windows().map(|window| window.machine.steal).sum::<f64>() / total,
        }
    }
}

impl Yardstick {
    fn of(work: Work, rounds: &[Round], cost: impl Fn(&Window) -> f64) -> Option<Self> {
        let pairs: Vec<(&Window, &Window)> = rounds
            .iter()
            .map(|round| Some((round.yardstick.as_ref()?, &round.direct)))
            .collect::<Option<_>>()?;
        let spread = |value: &dyn Fn(&Window, &Window) -> f64| {
            Spread::of(pairs.iter().map(|(own, direct)| value(own, direct)))
        };
        Some(Self {
            figure: spread(&|own, _| own.figure(work)),
            ratio: spread(&|own, direct| own.figure(work) / direct.figure(work)),
            cpu_per_unit: spread(&|own, _| cost(own)),
        })
    }
}

fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let spread = Spread::of(values);
    spread.median.is_finite().then_some(spread.median)
}

#[cfg(test)]
mod tests;
