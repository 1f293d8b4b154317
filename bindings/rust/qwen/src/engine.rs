use std::path::Path;
use std::time::Duration;

use crate::error::{c_string, call, Error, Result};
use crate::handle::{read, text, Handle};
use crate::model::path_text;
use crate::{sys, Answer, Inputs, Model, Options, Prompt, Queue, Request, Tensors};

/// Computes the requests of any number of threads together: share a reference. Dropping it ends what is under way with
/// `ErrorKind::Closed`.
pub struct Engine(Handle<sys::qwen_engine>);

/// The fields of `qwen_engine_stats`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineStats {
    /// Such as "cpu.avx512".
    pub backend: String,
    pub threads: usize,
    pub running: i64,
    pub waiting: i64,
    pub finished: i64,
    pub steps: i64,
    pub prompt_tokens: i64,
    pub cached_tokens: i64,
    pub generated_tokens: i64,
    pub cache_blocks_total: i64,
    pub cache_blocks_used: i64,
    pub cache_block_tokens: i64,
    pub cache_bytes: i64,
}

// SAFETY of this file: handles live as long as their owners, inputs are copied by the library, and an engine may be used by any
// number of threads at once.
impl Engine {
    /// Opens a folder as published, or a .gguf file, and an engine on it.
    pub fn open(path: impl AsRef<Path>, options: &Options) -> Result<Self> {
        let (path, options) = (path_text(path.as_ref())?, options.make()?);
        Handle::make(|out, error| unsafe { sys::qwen_create(path.as_ptr(), options.get(), out, error) }).map(Engine)
    }

    /// An engine on a model that is open already.
    pub fn new(model: &Model, options: &Options) -> Result<Self> {
        let options = options.make()?;
        Handle::make(|out, error| unsafe { sys::qwen_engine_new(model.get(), options.get(), out, error) }).map(Engine)
    }

    /// Generates and blocks until done.
    pub fn generate(&self, prompt: &Prompt, options: &Options) -> Result<Answer> {
        let (prompt, options) = (prompt.get(), options.make()?);
        let result = Handle::make(|out, error| unsafe {
            sys::qwen_generate(self.get(), prompt, options.get(), None, std::ptr::null_mut(), out, error)
        })?;
        Answer::copy(&result)
    }

    /// Starts generating and returns at once; the request is an iterator of events.
    pub fn stream(&self, prompt: &Prompt, options: &Options) -> Result<Request> {
        self.start(prompt, options, std::ptr::null_mut(), 0)
    }

    /// The same, but the events go to the queue, each with the tag. Keep the request: dropping it cancels it.
    pub fn submit(&self, queue: &Queue, tag: u64, prompt: &Prompt, options: &Options) -> Result<Request> {
        self.start(prompt, options, queue.get(), tag)
    }

    /// One question; returns the answer without the thoughts.
    pub fn chat(&self, question: &str, options: &Options) -> Result<String> {
        let answer = self.generate(&Prompt::from_messages([("user", question)])?, options)?;
        Ok(answer.text().to_owned())
    }

    /// One forward pass over token lists; blocks until done. outputs: `QWEN_OUTPUT_…` of [`sys`], or-ed. first_rows: for each list
    /// the first token whose rows are wanted; empty: all.
    pub fn forward(&self, sequences: &[&[i32]], outputs: u32, first_rows: &[usize], options: &Options) -> Result<Tensors> {
        if !first_rows.is_empty() && first_rows.len() != sequences.len() {
            let message = format!("{} first_rows for {} sequences", first_rows.len(), sequences.len());
            return Err(Error::new(sys::QWEN_ERR_INVALID_ARGUMENT, message));
        }
        let (ids, counts): (Vec<i32>, Vec<usize>) = (sequences.concat(), sequences.iter().map(|ids| ids.len()).collect());
        let first = if first_rows.is_empty() { std::ptr::null() } else { first_rows.as_ptr() };
        let options = options.make()?;
        Handle::make(|out, error| unsafe {
            let (ids, counts, count) = (ids.as_ptr(), counts.as_ptr(), counts.len());
            sys::qwen_forward(self.get(), ids, counts, first, count, outputs, options.get(), out, error)
        })
        .map(Tensors)
    }

    /// "embeddings" `[inputs, dimensions]` of sequence 0, rows of length 1; dimensions 0: all there are. Blocks until done.
    pub fn embed(&self, inputs: &Inputs, dimensions: usize, options: &Options) -> Result<Tensors> {
        let (options, nobody) = (options.make()?, std::ptr::null_mut());
        let dimensions = i64::try_from(dimensions).unwrap_or(i64::MAX);
        Handle::make(|out, error| unsafe { sys::qwen_embed(self.get(), inputs.get(), dimensions, options.get(), None, nobody, out, error) })
            .map(Tensors)
    }

    /// "scores" `[documents]` of sequence 0: for each the probability that it answers the query. Blocks until done.
    pub fn rerank(&self, query: &str, documents: &Inputs, options: &Options) -> Result<Tensors> {
        let (options, nobody) = (options.make()?, std::ptr::null_mut());
        let (data, length) = (query.as_ptr().cast(), query.len());
        Handle::make(|out, error| unsafe {
            sys::qwen_rerank(self.get(), data, length, documents.get(), options.get(), None, nobody, out, error)
        })
        .map(Tensors)
    }

    /// LoRA adapters: requests name theirs by the option adapter. path: a folder as PEFT saves it.
    pub fn load_adapter(&self, path: impl AsRef<Path>, name: &str) -> Result<()> {
        let (path, name) = (path_text(path.as_ref())?, c_string("an adapter's name", name)?);
        call(|error| unsafe { sys::qwen_engine_load_adapter(self.get(), path.as_ptr(), name.as_ptr(), error) })
    }

    /// Requests that have it go on with it.
    pub fn unload_adapter(&self, name: &str) -> Result<()> {
        let name = c_string("an adapter's name", name)?;
        call(|error| unsafe { sys::qwen_engine_unload_adapter(self.get(), name.as_ptr(), error) })
    }

    /// For a graceful end: new requests are refused from now on; waits for those in flight, at most so long (None: until they are
    /// done). False: some still run.
    pub fn drain(&self, timeout: Option<Duration>) -> Result<bool> {
        let milliseconds = timeout.map_or(-1, |time| i64::try_from(time.as_millis()).unwrap_or(i64::MAX));
        match call(|error| unsafe { sys::qwen_engine_drain(self.get(), milliseconds, error) }) {
            Err(error) if error.code() == sys::QWEN_ERR_TIMEOUT => Ok(false),
            drained => drained.map(|()| true),
        }
    }

    /// One more reference to the engine's model.
    pub fn model(&self) -> Model {
        unsafe { Model::share(sys::qwen_engine_model(self.get())) }
    }

    pub fn stats(&self) -> Result<EngineStats> {
        let raw: sys::qwen_engine_stats = read(|stats, error| unsafe { sys::qwen_engine_stats_get(self.get(), stats, error) })?;
        Ok(EngineStats {
            backend: unsafe { text(raw.backend) }.to_owned(),
            threads: usize::try_from(raw.threads).unwrap_or(0),
            running: raw.running,
            waiting: raw.waiting,
            finished: raw.finished,
            steps: raw.steps,
            prompt_tokens: raw.prompt_tokens,
            cached_tokens: raw.cached_tokens,
            generated_tokens: raw.generated_tokens,
            cache_blocks_total: raw.cache_blocks_total,
            cache_blocks_used: raw.cache_blocks_used,
            cache_block_tokens: raw.cache_block_tokens,
            cache_bytes: raw.cache_bytes,
        })
    }

    /// For the functions of [`sys`] that have no twin here; lives as long as the engine.
    pub fn as_ptr(&self) -> *mut sys::qwen_engine {
        self.get()
    }

    fn start(&self, prompt: &Prompt, options: &Options, queue: *mut sys::qwen_queue, tag: u64) -> Result<Request> {
        let (prompt, options) = (prompt.get(), options.make()?);
        Handle::make(|out, error| unsafe { sys::qwen_submit(self.get(), prompt, options.get(), queue, tag, out, error) }).map(Request::new)
    }

    fn get(&self) -> *mut sys::qwen_engine {
        self.0.get()
    }
}
