//! Gathers the requests of a node. While a transaction is under way, what arrives waits, and then shares the next one: the more arrive,
//! the more share. No timer is in the path, and a request that comes alone is not delayed.
//!
//! ```text
//!  Queue::assign ──┐
//!  Queue::assign ──┼──► mpsc ──► task: all that is there ──► Ipam::release_handles, Ipam::assign_many ──► answers
//!  Queue::release ─┘
//! ```
//! The task ends with the last [`Queue`].

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;

use tokio::sync::{mpsc, oneshot};

use crate::allocator::{Error, Ipam};
use crate::assign::{AssignRequest, Assignment};

/// Jobs that may wait; more wait in their callers.
const QUEUE: usize = 1024;
/// Most jobs of one round: what a few transactions hold.
const MAX_ROUND: usize = 256;

enum Job {
    Assign(Box<AssignRequest>, oneshot::Sender<Result<Assignment, Error>>),
    Release(String, oneshot::Sender<Result<Vec<IpAddr>, Error>>),
}

impl Job {
    fn handle(&self) -> &str {
        match self {
            Self::Assign(request, _) => crate::handle::sanitized(&request.handle),
            Self::Release(handle, _) => crate::handle::sanitized(handle),
        }
    }

    /// Whether nobody waits for it any more.
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Assign(_, answer) => answer.is_closed(),
            Self::Release(_, answer) => answer.is_closed(),
        }
    }
}

/// The way in. Cheap to clone.
#[derive(Clone)]
pub struct Queue {
    jobs: mpsc::Sender<Job>,
}

impl Queue {
    /// Starts the task. Must be called in a tokio runtime.
    pub fn start(ipam: Ipam) -> Self {
        let (jobs, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(work(ipam, waiting));
        Self { jobs }
    }

    /// As [`Ipam::assign_many`] for one of many requests. A caller that gives up before the request is begun takes it back.
    ///
    /// # Errors
    /// The request's own; [`Error::Store`] when the task is gone.
    pub async fn assign(&self, request: AssignRequest) -> Result<Assignment, Error> {
        let (answer, wait) = oneshot::channel();
        self.jobs.send(Job::Assign(Box::new(request), answer)).await.map_err(|_| gone())?;
        wait.await.map_err(|_| gone())?
    }

    /// As [`Ipam::release_by_handle`].
    ///
    /// # Errors
    /// As [`Self::assign`].
    pub async fn release(&self, handle: String) -> Result<Vec<IpAddr>, Error> {
        let (answer, wait) = oneshot::channel();
        self.jobs.send(Job::Release(handle, answer)).await.map_err(|_| gone())?;
        wait.await.map_err(|_| gone())?
    }
}

fn gone() -> Error {
    datastore::Error::Unavailable("the allocator of this process is stopping".into()).into()
}

async fn work(ipam: Ipam, mut waiting: mpsc::Receiver<Job>) {
    let mut jobs = VecDeque::new();
    loop {
        if jobs.is_empty() {
            match waiting.recv().await {
                Some(job) => jobs.push_back(job),
                None => return,
            }
        }
        while jobs.len() < MAX_ROUND
            && let Ok(job) = waiting.try_recv()
        {
            jobs.push_back(job);
        }
        round(&ipam, &mut jobs).await;
    }
}

/// Does the jobs from the front, up to the second for a handle: what is asked of one handle is done in the order it came.
async fn round(ipam: &Ipam, jobs: &mut VecDeque<Job>) {
    let mut handles = BTreeSet::new();
    let (mut assigns, mut releases) = (Vec::new(), Vec::new());
    while let Some(job) = jobs.pop_front() {
        if job.is_abandoned() {
            continue;
        }
        if !handles.insert(job.handle().to_string()) {
            jobs.push_front(job);
            break;
        }
        match job {
            Job::Assign(request, answer) => assigns.push((*request, answer)),
            Job::Release(handle, answer) => releases.push((handle, answer)),
        }
    }
    if !releases.is_empty() {
        let (handles, answers): (Vec<String>, Vec<_>) = releases.into_iter().unzip();
        let names: Vec<&str> = handles.iter().map(String::as_str).collect();
        for (answer, outcome) in answers.into_iter().zip(ipam.release_handles(&names).await) {
            // Who gave up meanwhile asks again.
            let _ = answer.send(outcome);
        }
    }
    if !assigns.is_empty() {
        let (requests, answers): (Vec<AssignRequest>, Vec<_>) = assigns.into_iter().unzip();
        for (answer, outcome) in answers.into_iter().zip(ipam.assign_many(&requests).await) {
            let _ = answer.send(outcome);
        }
    }
}
