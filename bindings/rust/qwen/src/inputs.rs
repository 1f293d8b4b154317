use crate::error::{call, Result};
use crate::handle::Handle;
use crate::sys;

/// Texts to embed or to judge: what [`Engine::embed`](crate::Engine::embed) and [`Engine::rerank`](crate::Engine::rerank) take.
pub struct Inputs(Handle<sys::qwen_inputs>);

impl Inputs {
    pub fn new() -> Result<Self> {
        Self::with_flags(0)
    }

    /// flags: `QWEN_INPUTS_…` of [`sys`].
    pub fn with_flags(flags: u32) -> Result<Self> {
        // SAFETY: here and below the handle is ours, and what it is given is copied.
        Handle::make(|out, error| unsafe { sys::qwen_inputs_new(flags, out, error) }).map(Inputs)
    }

    pub fn from_texts<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        texts.into_iter().try_fold(Self::new()?, |inputs, text| inputs.text(text))
    }

    pub fn text(self, text: &str) -> Result<Self> {
        self.add(|inputs, error| unsafe { sys::qwen_inputs_add_text(inputs, text.as_ptr().cast(), text.len(), error) })
    }

    pub fn tokens(self, ids: &[i32]) -> Result<Self> {
        self.add(|inputs, error| unsafe { sys::qwen_inputs_add_tokens(inputs, ids.as_ptr(), ids.len(), error) })
    }

    /// What the search is for: makes queries of what is embedded. None: the library's usual sentence.
    pub fn instruction(self, text: Option<&str>) -> Result<Self> {
        let (data, length) = text.map_or((std::ptr::null(), 0), |text| (text.as_ptr(), text.len()));
        self.add(|inputs, error| unsafe { sys::qwen_inputs_set_instruction(inputs, data.cast(), length, error) })
    }

    fn add(self, part: impl FnOnce(*mut sys::qwen_inputs, *mut *mut sys::qwen_error) -> i32) -> Result<Self> {
        call(|error| part(self.get(), error))?;
        Ok(self)
    }

    pub(crate) fn get(&self) -> *mut sys::qwen_inputs {
        self.0.get()
    }
}
