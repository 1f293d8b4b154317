use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use crate::error::{call, Result};
use crate::handle::{read, Handle};
use crate::{sys, Event};

/// Where the events of many requests meet, told apart by their tags: one thread serves any number of them. Its descriptor polls
/// readable while events wait, for `poll`, or an event loop such as tokio's (`AsyncFd`), which then calls [`Queue::next`] with no
/// timeout left; neither read from it nor close it.
pub struct Queue(Handle<sys::qwen_queue>);

impl Queue {
    pub fn new() -> Result<Self> {
        // SAFETY: here and below the handle is ours, and `&mut self` makes it one thread at a time.
        Handle::make(|out, error| unsafe { sys::qwen_queue_new(out, error) }).map(Queue)
    }

    /// Takes what has come, waiting for the first event at most so long (None: until one comes), as (tag, event). Empty: nothing
    /// came in time.
    pub fn next(&mut self, timeout: Option<Duration>) -> Result<Vec<(u64, Event)>> {
        let milliseconds = timeout.map_or(-1, |time| i64::try_from(time.as_millis()).unwrap_or(i64::MAX));
        loop {
            let mut count = 0;
            match call(|error| unsafe { sys::qwen_queue_next(self.get(), milliseconds, &mut count, error) }) {
                // It times out early where all that came was of requests that have been dropped.
                Err(error) if error.code() == sys::QWEN_ERR_TIMEOUT && timeout.is_none() => continue,
                Err(error) if error.code() == sys::QWEN_ERR_TIMEOUT => return Ok(Vec::new()),
                taken => taken?,
            }
            let mut events = Vec::with_capacity(count);
            for index in 0..count {
                let raw: sys::qwen_event = read(|event, error| unsafe { sys::qwen_queue_event(self.get(), index, event, error) })?;
                events.extend(unsafe { Event::copy(&raw) }.map(|event| (raw.tag, event)));
            }
            return Ok(events);
        }
    }

    pub(crate) fn get(&self) -> *mut sys::qwen_queue {
        self.0.get()
    }
}

impl AsRawFd for Queue {
    /// -1: the system has none left.
    fn as_raw_fd(&self) -> RawFd {
        unsafe { sys::qwen_queue_fd(self.get()) }
    }
}
