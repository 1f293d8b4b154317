use std::ffi::CString;
use std::fmt;

use crate::{handle, sys};

pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed. Its text is the library's own message: it names the file, key or value and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    code: i32,
    message: String,
}

/// The codes of `qwen.h`, whose comments say more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    InvalidArgument,
    NotFound,
    Io,
    InvalidFile,
    Unsupported,
    OutOfMemory,
    Cancelled,
    Closed,
    Timeout,
    Callback,
    Forked,
    Busy,
    Internal,
    /// A code that this crate does not know.
    Other,
}

impl Error {
    pub(crate) fn new(code: i32, message: impl Into<String>) -> Self {
        let message = message.into();
        Error { code, message }
    }

    /// The number from `qwen.h`, `QWEN_ERR_…`.
    pub fn code(&self) -> i32 {
        self.code
    }

    pub fn kind(&self) -> ErrorKind {
        match self.code {
            sys::QWEN_ERR_INVALID_ARGUMENT => ErrorKind::InvalidArgument,
            sys::QWEN_ERR_NOT_FOUND => ErrorKind::NotFound,
            sys::QWEN_ERR_IO => ErrorKind::Io,
            sys::QWEN_ERR_INVALID_FILE => ErrorKind::InvalidFile,
            sys::QWEN_ERR_UNSUPPORTED => ErrorKind::Unsupported,
            sys::QWEN_ERR_OUT_OF_MEMORY => ErrorKind::OutOfMemory,
            sys::QWEN_ERR_CANCELLED => ErrorKind::Cancelled,
            sys::QWEN_ERR_CLOSED => ErrorKind::Closed,
            sys::QWEN_ERR_TIMEOUT => ErrorKind::Timeout,
            sys::QWEN_ERR_CALLBACK => ErrorKind::Callback,
            sys::QWEN_ERR_FORKED => ErrorKind::Forked,
            sys::QWEN_ERR_BUSY => ErrorKind::Busy,
            sys::QWEN_ERR_INTERNAL => ErrorKind::Internal,
            _ => ErrorKind::Other,
        }
    }

    /// `"QWEN_ERR_NOT_FOUND"`.
    pub fn status_name(&self) -> &'static str {
        // SAFETY: static, NUL-terminated memory.
        unsafe { handle::text(sys::qwen_status_name(self.code)) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// Calls a function of the library, which takes the place for its error last.
pub(crate) fn call(function: impl FnOnce(*mut *mut sys::qwen_error) -> i32) -> Result<()> {
    let mut error = std::ptr::null_mut();
    let status = function(&mut error);
    // SAFETY: `error` is NULL or an error that is ours; its message lives until it is freed.
    unsafe {
        let message = handle::text(sys::qwen_error_message(error)).to_owned();
        sys::qwen_error_free(error);
        if status == sys::QWEN_OK {
            return Ok(());
        }
        Err(Error::new(status, message))
    }
}

/// What goes over as a NUL-terminated text.
pub(crate) fn c_string(what: &str, text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::new(sys::QWEN_ERR_INVALID_ARGUMENT, format!("{what} must not contain NUL: {text:?}")))
}
