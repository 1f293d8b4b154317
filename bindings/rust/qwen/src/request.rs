use std::sync::Arc;

use crate::error::{call, Error, Result};
use crate::handle::{owned_text, sized, slice, text, Handle};
use crate::result::copy_logprobs;
use crate::{sys, Answer, FinishReason, Logprobs, ToolCall};

/// One step of a request.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// New tokens of a choice and the text they completed: whole characters, so it may be empty.
    #[non_exhaustive]
    Text {
        choice: usize,
        /// The text is a thought, not the answer.
        reasoning: bool,
        text: String,
        token_ids: Vec<i32>,
        logprobs: Logprobs,
    },
    /// The model called a tool; its tags are in no text.
    #[non_exhaustive]
    ToolCall { choice: usize, call: ToolCall },
    /// A choice ended.
    #[non_exhaustive]
    Finished { choice: usize, reason: FinishReason },
    /// The request ended, well or not. Only a [`Queue`](crate::Queue) hands it out; a [`Request`] ends its iteration instead.
    #[non_exhaustive]
    Done { outcome: Result<()> },
}

impl Event {
    /// None: of a kind that this crate does not know.
    ///
    /// # Safety
    /// The memory of the event is still borrowed.
    pub(crate) unsafe fn copy(raw: &sys::qwen_event) -> Option<Self> {
        let choice = usize::try_from(raw.choice).unwrap_or(0);
        match raw.r#type {
            sys::QWEN_EVENT_TEXT => Some(Event::Text {
                choice,
                reasoning: raw.channel == sys::QWEN_CHANNEL_REASONING,
                text: owned_text(raw.text, raw.text_length),
                token_ids: slice(raw.token_ids, raw.token_count).to_vec(),
                logprobs: copy_logprobs(raw.logprobs, raw.token_count, raw.top_token_ids, raw.top_logprobs, raw.top_count),
            }),
            sys::QWEN_EVENT_TOOL_CALL => Some(Event::ToolCall {
                choice,
                call: ToolCall {
                    name: owned_text(raw.tool_name, raw.tool_name_length),
                    arguments: owned_text(raw.tool_arguments, raw.tool_arguments_length),
                },
            }),
            sys::QWEN_EVENT_FINISHED => {
                let reason = FinishReason::from_raw(raw.finish_reason);
                Some(Event::Finished { choice, reason })
            }
            sys::QWEN_EVENT_DONE if raw.status == sys::QWEN_OK => Some(Event::Done { outcome: Ok(()) }),
            sys::QWEN_EVENT_DONE => Some(Event::Done { outcome: Err(Error::new(raw.status, text(raw.message))) }),
            _ => None,
        }
    }
}

/// One generation under way. As an iterator it waits for the next event; it ends after the last one, or with the error of a request
/// that failed or was cancelled. Dropping it cancels it, so a loop that is left early leaves nothing running.
///
/// It outlives its engine: when that goes, the iteration ends with `ErrorKind::Closed`.
pub struct Request {
    handle: Arc<Handle<sys::qwen_request>>,
    done: bool,
}

impl Request {
    pub(crate) fn new(handle: Handle<sys::qwen_request>) -> Self {
        let handle = Arc::new(handle);
        Request { handle, done: false }
    }

    /// Takes effect within one step; the iteration then ends with `ErrorKind::Cancelled`.
    pub fn cancel(&self) {
        // SAFETY: may be called at any time, from any thread.
        unsafe { sys::qwen_request_cancel(self.handle.get()) }
    }

    /// The same, but the request ends well, with what it has.
    pub fn stop(&self) {
        // SAFETY: as cancel().
        unsafe { sys::qwen_request_stop(self.handle.get()) }
    }

    /// Cancels or stops it from another thread, while this one iterates.
    pub fn canceller(&self) -> Canceller {
        Canceller(self.handle.clone())
    }

    /// What there is so far, of a failed or cancelled request too; complete once the iteration has ended.
    pub fn result(&self) -> Result<Answer> {
        // SAFETY: the request is ours.
        let result = Handle::make(|out, error| unsafe { sys::qwen_request_result(self.handle.get(), out, error) })?;
        Answer::copy(&result)
    }

    /// Takes all events that are left, and returns the whole answer.
    pub fn wait(mut self) -> Result<Answer> {
        self.by_ref().try_for_each(|event| event.map(drop))?;
        self.result()
    }
}

impl Iterator for Request {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.done {
            let mut raw: sys::qwen_event = sized();
            // SAFETY: `&mut self`: one thread at a time, and what is borrowed is copied before the next call.
            let taken = call(|error| unsafe { sys::qwen_request_next(self.handle.get(), -1, &mut raw, error) });
            let event = taken.map(|()| unsafe { Event::copy(&raw) });
            match event {
                Ok(None) => continue,
                Ok(Some(Event::Done { outcome })) => {
                    self.done = true;
                    return outcome.err().map(Err);
                }
                Ok(Some(event)) => return Some(Ok(event)),
                Err(error) => {
                    self.done = true; // its events go to a queue, say
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

impl std::iter::FusedIterator for Request {}

impl Drop for Request {
    fn drop(&mut self) {
        self.cancel(); // a canceller may keep the handle
    }
}

/// Ends a [`Request`] from any thread. Any number of times, also after its end.
#[derive(Clone)]
pub struct Canceller(Arc<Handle<sys::qwen_request>>);

impl Canceller {
    pub fn cancel(&self) {
        // SAFETY: may be called at any time, from any thread.
        unsafe { sys::qwen_request_cancel(self.0.get()) }
    }

    pub fn stop(&self) {
        // SAFETY: as cancel().
        unsafe { sys::qwen_request_stop(self.0.get()) }
    }
}
