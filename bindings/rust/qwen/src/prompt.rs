use crate::error::{c_string, call, Result};
use crate::handle::{collect, Handle};
use crate::{sys, Model, Options};

/// What a model is given: either messages, which its chat template renders, or text or token ids, which go in as they are; the
/// two do not mix. A prompt serves any number of requests and threads.
pub struct Prompt(Handle<sys::qwen_prompt>);

impl Prompt {
    pub fn new() -> Result<Self> {
        // SAFETY: here and below the handle is ours, and what it is given is copied.
        Handle::make(|out, error| unsafe { sys::qwen_prompt_new(out, error) }).map(Prompt)
    }

    /// A text to be continued; special tokens in it are recognised.
    pub fn from_text(text: &str) -> Result<Self> {
        Self::new()?.text(text)
    }

    pub fn from_tokens(ids: &[i32]) -> Result<Self> {
        Self::new()?.tokens(ids)
    }

    /// (role, content) each; the roles are "system", "user", "assistant" and "tool".
    pub fn from_messages<'a>(messages: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self> {
        messages.into_iter().try_fold(Self::new()?, |prompt, (role, content)| prompt.message(role, content))
    }

    pub fn text(self, text: &str) -> Result<Self> {
        self.add(|prompt, error| unsafe { sys::qwen_prompt_add_text(prompt, text.as_ptr().cast(), text.len(), error) })
    }

    pub fn tokens(self, ids: &[i32]) -> Result<Self> {
        self.add(|prompt, error| unsafe { sys::qwen_prompt_add_tokens(prompt, ids.as_ptr(), ids.len(), error) })
    }

    pub fn message(self, role: &str, content: &str) -> Result<Self> {
        let role = c_string("a role", role)?;
        self.add(|prompt, error| unsafe {
            sys::qwen_prompt_add_message(prompt, role.as_ptr(), content.as_ptr().cast(), content.len(), error)
        })
    }

    /// A message as a JSON object or several as an array, in the form of OpenAI's chat interface: tool calls, thoughts, …
    pub fn messages_json(self, json: &str) -> Result<Self> {
        self.add(|prompt, error| unsafe { sys::qwen_prompt_add_message_json(prompt, json.as_ptr().cast(), json.len(), error) })
    }

    /// The tools the model may call, a JSON array. Replaces what was set before.
    pub fn tools(self, json: &str) -> Result<Self> {
        self.add(|prompt, error| unsafe { sys::qwen_prompt_set_tools(prompt, json.as_ptr().cast(), json.len(), error) })
    }

    /// Further variables of the chat template, a JSON object.
    pub fn variables(self, json: &str) -> Result<Self> {
        self.add(|prompt, error| unsafe { sys::qwen_prompt_set_variables(prompt, json.as_ptr().cast(), json.len(), error) })
    }

    /// The text the model would be given. Of the options only reasoning_mode matters.
    pub fn render(&self, model: &Model, options: &Options) -> Result<String> {
        let options = options.make()?;
        let text = collect(1024, |text: *mut u8, capacity, needed, error| unsafe {
            sys::qwen_prompt_render(self.get(), model.get(), options.get(), text.cast(), capacity, needed, error)
        })?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// The token ids the model would be given.
    pub fn encode(&self, model: &Model, options: &Options) -> Result<Vec<i32>> {
        let options = options.make()?;
        collect(1024, |ids, capacity, needed, error| unsafe {
            sys::qwen_prompt_encode(self.get(), model.get(), options.get(), ids, capacity, needed, error)
        })
    }

    fn add(self, part: impl FnOnce(*mut sys::qwen_prompt, *mut *mut sys::qwen_error) -> i32) -> Result<Self> {
        call(|error| part(self.get(), error))?;
        Ok(self)
    }

    pub(crate) fn get(&self) -> *mut sys::qwen_prompt {
        self.0.get()
    }
}
