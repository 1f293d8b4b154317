use std::path::Path;

use crate::error::{c_string, Error, Result};
use crate::handle::{collect, read, text, Handle};
use crate::{sys, Options};

/// Weights, tokenizer and template of one checkpoint: immutable, shared by any number of engines and threads. A clone is one more
/// reference to the same.
pub struct Model(Handle<sys::qwen_model>);

/// What a checkpoint is: the fields of `qwen_model_info`, but for what computing a token takes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModelInfo {
    pub architecture: String,
    /// "" for weights from memory.
    pub path: String,
    /// Width of a logits row.
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    pub has_tokenizer: bool,
    pub has_chat_template: bool,
    /// Longest prompt and answer together, in tokens.
    pub context_length: i64,
    pub parameters: i64,
    /// Of the tensors in use, as stored.
    pub weight_bytes: i64,
}

pub(crate) fn path_text(path: &Path) -> Result<std::ffi::CString> {
    let text = path.to_str();
    c_string("a path", text.ok_or_else(|| Error::new(sys::QWEN_ERR_INVALID_ARGUMENT, format!("{path:?} is not UTF-8")))?)
}

impl Model {
    /// Opens a folder as published, or a .gguf file. Options: device, dtype, load, tokenizer.
    pub fn open(path: impl AsRef<Path>, options: &Options) -> Result<Self> {
        let (path, options) = (path_text(path.as_ref())?, options.make()?);
        // SAFETY: path and options are copied.
        Handle::make(|out, error| unsafe { sys::qwen_model_open(path.as_ptr(), options.get(), out, error) }).map(Model)
    }

    /// # Safety
    /// `model` is a model that lives.
    pub(crate) unsafe fn share(model: *const sys::qwen_model) -> Self {
        sys::qwen_model_retain(model);
        Model(Handle::own(model.cast_mut()))
    }

    pub fn info(&self) -> Result<ModelInfo> {
        let raw: sys::qwen_model_info = read(|info, error| unsafe { sys::qwen_model_info_get(self.get(), info, error) })?;
        let size = |number: i32| usize::try_from(number).unwrap_or(0);
        Ok(ModelInfo {
            // SAFETY: the texts live as long as the model.
            architecture: unsafe { text(raw.architecture) }.to_owned(),
            path: unsafe { text(raw.path) }.to_owned(),
            vocab_size: size(raw.vocab_size),
            hidden_size: size(raw.hidden_size),
            num_hidden_layers: size(raw.num_hidden_layers),
            num_attention_heads: size(raw.num_attention_heads),
            num_key_value_heads: size(raw.num_key_value_heads),
            head_dim: size(raw.head_dim),
            has_tokenizer: raw.has_tokenizer != 0,
            has_chat_template: raw.has_chat_template != 0,
            context_length: raw.context_length,
            parameters: raw.parameters,
            weight_bytes: raw.weight_bytes,
        })
    }

    /// The checkpoint's own; None when it has none.
    pub fn tokenizer(&self) -> Option<Tokenizer> {
        // SAFETY: borrowed from the model, which the tokenizer keeps.
        let borrowed = unsafe { sys::qwen_model_tokenizer(self.get()) };
        (!borrowed.is_null()).then(|| Tokenizer(Source::Model(self.clone())))
    }

    pub(crate) fn get(&self) -> *mut sys::qwen_model {
        self.0.get()
    }
}

impl Clone for Model {
    fn clone(&self) -> Self {
        // SAFETY: this one lives.
        unsafe { Model::share(self.get()) }
    }
}

/// Text to token ids and back.
#[derive(Clone)]
pub struct Tokenizer(Source);

#[derive(Clone)]
enum Source {
    Own(std::sync::Arc<Handle<sys::qwen_tokenizer>>),
    Model(Model),
}

impl Tokenizer {
    /// path: a tokenizer.json, a folder that holds one, or a .gguf file. Weights are not needed.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path_text(path.as_ref())?;
        let own = Handle::make(|out, error| unsafe { sys::qwen_tokenizer_open(path.as_ptr(), out, error) })?;
        Ok(Tokenizer(Source::Own(own.into())))
    }

    /// flags: `QWEN_ENCODE_…` of [`sys`], such as `QWEN_ENCODE_PLAIN` for text that is not to be trusted.
    pub fn encode(&self, text: &str, flags: u32) -> Result<Vec<i32>> {
        collect(text.len(), |ids, capacity, needed, error| unsafe {
            let text = (text.as_ptr().cast(), text.len());
            sys::qwen_tokenizer_encode(self.get(), text.0, text.1, flags, ids, capacity, needed, error)
        })
    }

    /// flags: `QWEN_DECODE_…`. Bytes that form no UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[i32], flags: u32) -> Result<String> {
        let text = collect(8 * ids.len(), |text: *mut u8, capacity, needed, error| unsafe {
            let out = text.cast();
            sys::qwen_tokenizer_decode(self.get(), ids.as_ptr(), ids.len(), flags, out, capacity, needed, error)
        })?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Highest token id + 1.
    pub fn size(&self) -> usize {
        usize::try_from(unsafe { sys::qwen_tokenizer_size(self.get()) }).unwrap_or(0)
    }

    /// The id of a special or added token by its exact text.
    pub fn token_id(&self, text: &str) -> Option<i32> {
        let id = unsafe { sys::qwen_tokenizer_token_id(self.get(), text.as_ptr().cast(), text.len()) };
        (id >= 0).then_some(id)
    }

    fn get(&self) -> *const sys::qwen_tokenizer {
        match &self.0 {
            Source::Own(handle) => handle.get(),
            Source::Model(model) => unsafe { sys::qwen_model_tokenizer(model.get()) },
        }
    }
}
