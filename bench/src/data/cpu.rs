//! `cpu`: hosts that report ten metrics every ten seconds, each a random walk in [0, 100], as the `cpu-only` data of
//! the Time Series Benchmark Suite. The mantissas are random to the last bit, so it hardly compresses.

use super::{DAY, FIRST_DAY, SEED, Sink, Source};
use crate::random::Random;

const METRICS: usize = 10;

/// The rows of `cpu`.
pub struct Cpu {
    random: Random,
    hosts: Vec<String>,
    state: Vec<[f64; METRICS]>,
    step: i64,
    instants: i64,
    done: i64,
}

impl Cpu {
    /// `hosts` reporting for `days`, every `step` seconds.
    pub fn new(hosts: u32, days: u32, step: u32) -> Cpu {
        let mut random = Random::new(SEED);
        let state = (0..hosts)
            .map(|_| std::array::from_fn(|_| random.uniform(0.0, 100.0)))
            .collect();
        let step = i64::from(step);
        Cpu {
            random,
            hosts: (0..hosts).map(|i| format!("host_{i}")).collect(),
            state,
            step,
            instants: DAY / step * i64::from(days),
            done: 0,
        }
    }
}

impl Source for Cpu {
    fn rows(&self) -> u64 {
        self.instants as u64 * self.hosts.len() as u64
    }

    fn next(&mut self, sink: &mut impl Sink) -> u64 {
        if self.done == self.instants {
            return 0;
        }
        let time = FIRST_DAY + self.done * self.step;
        for (host, metrics) in self.hosts.iter().zip(&mut self.state) {
            sink.row(METRICS as u16 + 2);
            sink.text(host);
            sink.time(time);
            for metric in metrics {
                *metric = (*metric + self.random.normal(1.0)).clamp(0.0, 100.0);
                sink.float(*metric);
            }
        }
        self.done += 1;
        self.hosts.len() as u64
    }
}
