use std::time::Duration;

use crate::error::Result;
use crate::handle::{owned_text, read, slice, Handle};
use crate::sys;

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FinishReason {
    /// It has not.
    None,
    /// The model ended it, a stop token or text came, or the host stopped it.
    Stop,
    /// max_tokens or the context was reached.
    Length,
    Cancelled,
    Error,
}

impl FinishReason {
    pub(crate) fn from_raw(reason: i32) -> Self {
        match reason {
            sys::QWEN_FINISH_STOP => FinishReason::Stop,
            sys::QWEN_FINISH_LENGTH => FinishReason::Length,
            sys::QWEN_FINISH_CANCELLED => FinishReason::Cancelled,
            sys::QWEN_FINISH_ERROR => FinishReason::Error,
            _ => FinishReason::None,
        }
    }
}

/// The model called a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCall {
    pub name: String,
    /// The text of a JSON object.
    pub arguments: String,
}

/// Natural logarithms of tokens' probabilities, before temperature; empty unless asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Logprobs {
    /// Of each token (option logprobs).
    pub tokens: Vec<f32>,
    /// For each token the likeliest ones at its place, likeliest first (option top_logprobs).
    pub top: Vec<Vec<(i32, f32)>>,
}

/// One answer of a request: it has as many as its option n says.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Choice {
    pub text: String,
    /// What the model thought first, "" if nothing.
    pub reasoning: String,
    /// Every generated token, the end token included.
    pub token_ids: Vec<i32>,
    pub logprobs: Logprobs,
    pub tool_calls: Vec<ToolCall>,
    pub finish_reason: FinishReason,
    /// Which of the texts in the option stop ended the answer.
    pub stop_text: Option<String>,
}

/// Counts and times of a request; the comments of `qwen_stats` say more.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Stats {
    pub prompt_tokens: i64,
    pub cached_tokens: i64,
    pub generated_tokens: i64,
    pub queued: Duration,
    pub prompt: Duration,
    pub generate: Duration,
    pub first_token: Duration,
    pub inter_token_p50: Duration,
    pub inter_token_p99: Duration,
    pub inter_token_max: Duration,
    /// The seed that was used: given, or drawn.
    pub seed: u64,
}

/// What a request generated.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Answer {
    pub choices: Vec<Choice>,
    pub stats: Stats,
    /// Of each token of the prompt, the first one's is 0; empty unless the option prompt_logprobs asks for them.
    pub prompt_logprobs: Vec<f32>,
}

impl Answer {
    /// The text of the first choice.
    pub fn text(&self) -> &str {
        self.choices.first().map_or("", |choice| &choice.text)
    }

    pub(crate) fn copy(result: &Handle<sys::qwen_result>) -> Result<Self> {
        let result = result.get();
        let (mut logprobs, mut count) = (std::ptr::null(), 0);
        // SAFETY: the result lives, and everything is copied out of it.
        unsafe {
            crate::error::call(|error| sys::qwen_result_prompt_logprobs_get(result, &mut logprobs, &mut count, error))?;
            Ok(Answer {
                choices: (0..sys::qwen_result_choice_count(result)).map(|index| copy_choice(result, index)).collect::<Result<_>>()?,
                stats: copy_stats(read(|stats, error| sys::qwen_result_stats_get(result, stats, error))?),
                prompt_logprobs: slice(logprobs, count).to_vec(),
            })
        }
    }
}

unsafe fn copy_choice(result: *const sys::qwen_result, index: usize) -> Result<Choice> {
    let raw: sys::qwen_choice = read(|choice, error| sys::qwen_result_choice_get(result, index, choice, error))?;
    let tool_call = |call| -> Result<ToolCall> {
        let raw: sys::qwen_tool_call = read(|tool, error| sys::qwen_result_tool_call_get(result, index, call, tool, error))?;
        Ok(ToolCall { name: owned_text(raw.name, raw.name_length), arguments: owned_text(raw.arguments, raw.arguments_length) })
    };
    Ok(Choice {
        text: owned_text(raw.text, raw.text_length),
        reasoning: owned_text(raw.reasoning, raw.reasoning_length),
        token_ids: slice(raw.token_ids, raw.token_count).to_vec(),
        logprobs: copy_logprobs(raw.logprobs, raw.token_count, raw.top_token_ids, raw.top_logprobs, raw.top_count),
        tool_calls: (0..raw.tool_call_count).map(tool_call).collect::<Result<_>>()?,
        finish_reason: FinishReason::from_raw(raw.finish_reason),
        stop_text: (!raw.stop_text.is_null()).then(|| owned_text(raw.stop_text, raw.stop_text_length)),
    })
}

pub(crate) unsafe fn copy_logprobs(
    logprobs: *const f32,
    count: usize,
    top_ids: *const i32,
    top_logprobs: *const f32,
    top_count: usize,
) -> Logprobs {
    let pairs = slice(top_ids, count * top_count).iter().copied();
    let pairs: Vec<(i32, f32)> = pairs.zip(slice(top_logprobs, count * top_count).iter().copied()).collect();
    Logprobs { tokens: slice(logprobs, count).to_vec(), top: pairs.chunks(top_count.max(1)).map(<[_]>::to_vec).collect() }
}

pub(crate) fn copy_stats(raw: sys::qwen_stats) -> Stats {
    let time = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or_default();
    Stats {
        prompt_tokens: raw.prompt_tokens,
        cached_tokens: raw.cached_tokens,
        generated_tokens: raw.generated_tokens,
        queued: time(raw.queued_seconds),
        prompt: time(raw.prompt_seconds),
        generate: time(raw.generate_seconds),
        first_token: time(raw.first_token_seconds),
        inter_token_p50: time(raw.inter_token_p50_seconds),
        inter_token_p99: time(raw.inter_token_p99_seconds),
        inter_token_max: time(raw.inter_token_max_seconds),
        seed: raw.seed,
    }
}
