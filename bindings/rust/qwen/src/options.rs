use std::ffi::{c_char, CString};

use crate::error::{c_string, call, Result};
use crate::handle::Handle;
use crate::sys;

/// Engine options or sampling parameters by key. The library's table of options says which there are, of what type and within
/// which bounds; it is asked when the options are used, and the error says what would be right.
///
/// ```
/// use qwen::Options;
///
/// let options = Options::new().set("max_tokens", 200).set("temperature", 0.7).set("stop", ["\n\n", "User:"]);
/// # let _ = options;
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options(Vec<(String, Value)>);

/// What an option may be set to.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    I64(i64),
    F64(f64),
    Text(String),
    Ids(Vec<i32>),
    Texts(Vec<String>),
    /// Pairs of token id and what is added to its logit.
    Bias(Vec<(i32, f32)>),
}

impl Options {
    pub fn new() -> Self {
        Self::default()
    }

    /// Integers, `bool`s, floats, texts, and lists of texts, token ids or pairs of token id and bias. The last value of a key
    /// counts.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.push((key.to_owned(), value.into()));
        self
    }

    pub(crate) fn make(&self) -> Result<Handle<sys::qwen_options>> {
        // SAFETY: the handle is new, and what it is given is copied.
        let made = Handle::make(|out, error| unsafe { sys::qwen_options_new(out, error) })?;
        for (key, value) in &self.0 {
            let key = c_string("an option's key", key)?;
            call(|error| unsafe { apply(made.get(), &key, value, error) })?;
        }
        Ok(made)
    }
}

unsafe fn apply(to: *mut sys::qwen_options, key: &CString, value: &Value, error: *mut *mut sys::qwen_error) -> i32 {
    let key = key.as_ptr();
    match value {
        Value::I64(number) => sys::qwen_options_set_i64(to, key, *number, error),
        Value::F64(number) => sys::qwen_options_set_f64(to, key, *number, error),
        Value::Text(text) => sys::qwen_options_set_str(to, key, text.as_ptr().cast(), text.len(), error),
        Value::Ids(ids) => sys::qwen_options_set_i32_array(to, key, ids.as_ptr(), ids.len(), error),
        Value::Texts(texts) => {
            let pointers: Vec<*const c_char> = texts.iter().map(|text| text.as_ptr().cast()).collect();
            let lengths: Vec<usize> = texts.iter().map(String::len).collect();
            sys::qwen_options_set_str_array(to, key, pointers.as_ptr(), lengths.as_ptr(), texts.len(), error)
        }
        Value::Bias(pairs) => {
            let (ids, biases): (Vec<i32>, Vec<f32>) = pairs.iter().copied().unzip();
            sys::qwen_options_set_bias(to, key, ids.as_ptr(), biases.as_ptr(), ids.len(), error)
        }
    }
}

macro_rules! value_from {
    ($($type:ty: $given:ident => $value:expr,)*) => {$(
        impl From<$type> for Value {
            fn from($given: $type) -> Self {
                $value
            }
        }
    )*};
}
value_from! {
    i32: number => Value::I64(number.into()),
    u32: number => Value::I64(number.into()),
    i64: number => Value::I64(number),
    bool: on => Value::I64(on.into()),
    f32: number => Value::F64(number.into()),
    f64: number => Value::F64(number),
    &str: text => Value::Text(text.to_owned()),
    String: text => Value::Text(text),
    Vec<i32>: ids => Value::Ids(ids),
    &[i32]: ids => Value::Ids(ids.to_vec()),
    Vec<String>: texts => Value::Texts(texts),
    &[&str]: texts => Value::Texts(texts.iter().map(|text| (*text).to_owned()).collect()),
    Vec<(i32, f32)>: pairs => Value::Bias(pairs),
    &[(i32, f32)]: pairs => Value::Bias(pairs.to_vec()),
}

impl<T, const N: usize> From<[T; N]> for Value
where
    Value: for<'a> From<&'a [T]>,
{
    fn from(list: [T; N]) -> Self {
        Value::from(&list[..])
    }
}
