//! Run Qwen models in your process: a safe, thin layer over `libqwen`.
//!
//! ```
//! use qwen::{Engine, Event, Options, Prompt};
//!
//! let engine = Engine::open("path/to/Qwen3-0.6B", &Options::new())?;
//! let prompt = Prompt::from_messages([("user", "Why is the sky blue?")])?;
//! for event in engine.stream(&prompt, &Options::new().set("max_tokens", 200))? {
//!     if let Event::Text { text, reasoning: false, .. } = event? {
//!         print!("{text}");
//!     }
//! }
//! # Ok::<(), qwen::Error>(())
//! ```
//!
//! An [`Engine`] may be shared by any number of threads: their requests are computed together. What a function means, its units,
//! and the keys of the options stand in `qwen.h`. [`sys`] is that header in Rust, for what has no twin here: weights in memory,
//! log, option table, counters, callbacks for progress and trace.

mod engine;
mod error;
mod handle;
mod inputs;
mod model;
mod options;
mod prompt;
mod queue;
mod request;
mod result;
mod tensors;

pub use engine::{Engine, EngineStats};
pub use error::{Error, ErrorKind, Result};
pub use inputs::Inputs;
pub use model::{Model, ModelInfo, Tokenizer};
pub use options::{Options, Value};
pub use prompt::Prompt;
pub use queue::Queue;
pub use qwen_sys as sys;
pub use request::{Canceller, Event, Request};
pub use result::{Answer, Choice, FinishReason, Logprobs, Stats, ToolCall};
pub use tensors::{Tensor, Tensors};

/// The version of the library that was loaded, such as `"0.1.0"`.
pub fn version() -> &'static str {
    // SAFETY: static, NUL-terminated memory.
    unsafe { handle::text(sys::qwen_version()) }
}
