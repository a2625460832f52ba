//! What a process holds, sample by sample: memory and file descriptors.

use std::time::Duration;

use anyhow::Result;

use crate::proc;

/// The first half of the time is warm-up, but never more than this.
const WARM_UP: Duration = Duration::from_secs(600);
/// Descriptors that a process may hold above what it held at most while it warmed up: connections that are being replaced.
const MORE_DESCRIPTORS: f64 = 16.0;
/// MiB of memory that it may hold above that: a good part of its byte budget may not have been touched yet.
const MORE_MEMORY: f64 = 32.0;
/// MiB that it may grow by in an hour. What leaks slowly stays below the other bound for long.
const MORE_MEMORY_AN_HOUR: f64 = 6.0;
/// After the warm-up a slope over less than this tells of single samples.
const LONG: Duration = Duration::from_secs(3600);

/// One look at a process.
#[derive(Debug, Clone, Copy)]
struct Sample {
    hours: f64,
    /// MiB.
    memory: f64,
    descriptors: f64,
}

/// All looks at a process.
#[derive(Debug, Default)]
pub(super) struct Usage {
    samples: Vec<Sample>,
    /// What became of its records, in words.
    pub(super) outcomes: String,
}

/// How a figure moved.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Course {
    start: f64,
    /// The most while the process warmed up.
    warm: f64,
    end: f64,
    /// The most after that.
    most: f64,
    /// By the straight line that fits best, after the warm-up.
    growth_per_hour: f64,
}

impl Usage {
    /// Looks at a process.
    ///
    /// # Errors
    /// There is no such process.
    pub(super) fn sample(&mut self, pid: u32, elapsed: Duration) -> Result<()> {
        let hours = elapsed.as_secs_f64() / 3600.0;
        let memory = proc::memory(pid)? as f64 / f64::from(1 << 20);
        self.samples.push(Sample { hours, memory, descriptors: proc::descriptors(pid)? as f64 });
        Ok(())
    }

    /// The last sample, in words.
    pub(super) fn now(&self) -> String {
        let sample = self.samples.last();
        sample.map_or(String::new(), |sample| format!("{:.1} MiB {} fd", sample.memory, sample.descriptors))
    }

    /// What grew beyond its bound, in words.
    pub(super) fn grown(&self) -> Option<String> {
        let (memory, descriptors) = (self.course(|sample| sample.memory), self.course(|sample| sample.descriptors));
        if descriptors.most > descriptors.warm + MORE_DESCRIPTORS {
            return Some(format!("grew from {} to {} file descriptors", descriptors.warm, descriptors.most));
        }
        let rate = memory.growth_per_hour;
        if self.length() > (WARM_UP + LONG).as_secs_f64() / 3600.0 && rate > MORE_MEMORY_AN_HOUR {
            return Some(format!("grew by {rate:.1} MiB an hour"));
        }
        (memory.most > memory.warm + MORE_MEMORY)
            .then(|| format!("grew from {:.1} to {:.1} MiB", memory.warm, memory.most))
    }

    pub(super) fn print(&self, name: &str) {
        print_row(name, "RSS, MiB", self.course(|sample| sample.memory));
        print_row(name, "descriptors", self.course(|sample| sample.descriptors));
        println!("{name:<19} {}", self.outcomes);
    }

    /// Hours.
    fn length(&self) -> f64 {
        self.samples.last().map_or(0.0, |sample| sample.hours)
    }

    fn course(&self, figure: impl Fn(&Sample) -> f64) -> Course {
        let warm_until = (self.length() / 2.0).min(WARM_UP.as_secs_f64() / 3600.0);
        let (warming, warm): (Vec<Sample>, Vec<Sample>) =
            self.samples.iter().partition(|sample| sample.hours < warm_until);
        let most = |samples: &[Sample]| samples.iter().map(&figure).fold(0.0, f64::max);
        Course {
            start: self.samples.first().map_or(0.0, &figure),
            warm: most(&warming),
            end: self.samples.last().map_or(0.0, &figure),
            most: most(&warm),
            growth_per_hour: slope(warm.iter().map(|sample| (sample.hours, figure(sample)))),
        }
    }
}

pub(super) fn print_heading() {
    println!("{:<19} {:<12} {:>8} {:>8} {:>8} {:>8} {:>8}", "", "", "start", "warm", "end", "most", "+/hour");
}

fn print_row(name: &str, figure: &str, course: Course) {
    let Course { start, warm, end, most, growth_per_hour } = course;
    println!("{name:<19} {figure:<12} {start:>8.1} {warm:>8.1} {end:>8.1} {most:>8.1} {growth_per_hour:>8.2}");
}

/// The slope of the line with the least squares; 0 where there is none.
fn slope(points: impl Iterator<Item = (f64, f64)> + Clone) -> f64 {
    let count = points.clone().count() as f64;
    let (x, y) = points.clone().fold((0.0, 0.0), |(x, y), point| (x + point.0 / count, y + point.1 / count));
    let rise: f64 = points.clone().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let run: f64 = points.map(|point| (point.0 - x).powi(2)).sum();
    if run > 0.0 { rise / run } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many hours, with a look every tenth of it.
    fn usage(length: f64, memory: impl Fn(f64) -> f64, descriptors: impl Fn(f64) -> f64) -> Usage {
        let hours = (0..=10).map(|tenth| length * f64::from(tenth) / 10.0);
        let samples = hours.map(|hours| Sample { hours, memory: memory(hours), descriptors: descriptors(hours) });
        Usage { samples: samples.collect(), outcomes: String::new() }
    }

    fn steady(_: f64) -> f64 {
        20.0
    }

    #[test]
    fn what_grows_after_the_warm_up_is_named_with_its_slope() {
        let busy = usage(10.0, steady, |hours| if hours == 5.0 { 30.0 } else { 20.0 });
        assert_eq!(busy.grown(), None);
        assert_eq!(busy.course(|sample| sample.memory).growth_per_hour, 0.0);
        let leaking = usage(10.0, steady, |hours| 20.0 + 3.0 * hours);
        assert!((leaking.course(|sample| sample.descriptors).growth_per_hour - 3.0).abs() < 1e-9);
        assert_eq!(leaking.grown().as_deref(), Some("grew from 20 to 50 file descriptors"));
    }

    #[test]
    fn memory_may_fill_its_budget_and_not_go_on() {
        // About two minutes: half of them are warm-up, and a slope says nothing.
        let minutes = 1.0 / 32.0;
        assert_eq!(usage(minutes, |hours| 20.0 + 900.0 * hours, steady).grown(), None);
        let grown = usage(minutes, |hours| if hours > 0.0 { 60.0 * hours * 60.0 } else { 20.0 }, steady).grown();
        assert_eq!(grown.as_deref(), Some("grew from 45.0 to 112.5 MiB"));
        // Two hours: a leak of 16 MiB comes to less than the budget.
        assert_eq!(usage(2.0, |hours| if hours < 1.0 { 20.0 } else { 24.0 }, steady).grown(), None);
        let grown = usage(2.0, |hours| 20.0 + 8.0 * hours, steady).grown();
        assert_eq!(grown.as_deref(), Some("grew by 8.0 MiB an hour"));
    }
}
