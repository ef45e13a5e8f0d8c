//! Threads that do jobs; the results come in the order of the jobs.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::error::SealError;
use crate::wait::{Outcome, Tick, receive, spawn};

/// Most threads of a pool.
const MAX_THREADS: usize = 64;

/// What the threads of a pool do.
pub(super) trait Work: Clone + Send + 'static {
    /// What is given to a thread.
    type Job: Send + 'static;
    /// What comes back.
    type Result: Send + 'static;
    /// What a thread keeps from job to job.
    type Context;

    /// Does a job; the first one finds no context.
    fn work(&self, context: &mut Option<Self::Context>, job: Self::Job) -> Self::Result;
}

/// A job, and where its result goes.
type Order<W> = (<W as Work>::Job, Sender<<W as Work>::Result>);

/// A few threads, which handle no signals. They are started as they are needed, and end with the pool, after what they do.
pub(super) struct Pool<W: Work> {
    work: W,
    threads: usize,
    started: usize,
    orders: Sender<Order<W>>,
    queue: Arc<Mutex<Receiver<Order<W>>>>,
    results: VecDeque<Receiver<W::Result>>,
}

impl<W: Work> Pool<W> {
    pub(super) fn new(threads: usize, work: W) -> Self {
        let (orders, queue) = channel();
        Self {
            work,
            threads: threads.clamp(1, MAX_THREADS),
            started: 0,
            orders,
            queue: Arc::new(Mutex::new(queue)),
            results: VecDeque::new(),
        }
    }

    /// Whether so many jobs are under way that a result should be taken first: one for each thread, and one that waits.
    pub(super) fn is_full(&self) -> bool {
        self.results.len() > self.threads
    }

    /// How many results have not been taken.
    pub(super) fn waiting(&self) -> usize {
        self.results.len()
    }

    /// Gives a job to the next thread that is free.
    pub(super) fn submit(&mut self, job: W::Job) -> Result<(), SealError> {
        if self.started < self.threads && self.started <= self.results.len() {
            self.start()?;
        }
        let (sender, result) = channel();
        match self.orders.send((job, sender)) {
            Ok(()) => {
                self.results.push_back(result);
                Ok(())
            }
            Err(_) => Err(SealError::system("the threads of the pool are gone")),
        }
    }

    fn start(&mut self) -> Result<(), SealError> {
        let queue = Arc::clone(&self.queue);
        let work = self.work.clone();
        let run = move || {
            let mut context = None;
            loop {
                // The lock is held by the thread that waits, not by those that work.
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok((job, to)) = next else {
                    return;
                };
                // Who wanted the result may be gone.
                let _ = to.send(work.work(&mut context, job));
            }
        };
        match spawn("varve-seal", run) {
            Ok(_) => self.started += 1,
            // Those that there are will do.
            Err(_) if self.started > 0 => self.threads = self.started,
            Err(error) => {
                return Err(SealError::system(format!(
                    "no thread could be started: {error}"
                )));
            }
        }
        Ok(())
    }

    /// The result of the job that was submitted first; none if all were taken.
    pub(super) fn next(&mut self, tick: Tick<'_>) -> Result<Option<W::Result>, SealError> {
        let Some(result) = self.results.pop_front() else {
            return Ok(None);
        };
        match receive(&result, tick)? {
            Outcome::Sent(result) => Ok(Some(result)),
            Outcome::Gone => Err(SealError::system("a thread of the pool ended early")),
        }
    }
}
