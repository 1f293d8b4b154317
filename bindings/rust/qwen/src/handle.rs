//! What every handle and every borrowed piece of memory has in common.

use std::ffi::{c_char, CStr};
use std::ptr::NonNull;

use crate::error::{call, Result};
use crate::sys;

/// Owns a handle and frees it.
pub(crate) struct Handle<T: Free>(NonNull<T>);

pub(crate) trait Free {
    /// # Safety
    /// The handle is owned, and not used afterwards.
    unsafe fn free(handle: *mut Self);
}

impl<T: Free> Handle<T> {
    /// From a function that fills in a new handle.
    pub(crate) fn make(function: impl FnOnce(*mut *mut T, *mut *mut sys::qwen_error) -> i32) -> Result<Self> {
        let mut made = std::ptr::null_mut();
        call(|error| function(&mut made, error))?;
        // SAFETY: new, so that nobody else has it.
        Ok(unsafe { Self::own(made) })
    }

    /// # Safety
    /// The caller hands over a handle, or one reference to it.
    pub(crate) unsafe fn own(handle: *mut T) -> Self {
        Handle(NonNull::new(handle).expect("QWEN_OK brings a handle"))
    }

    pub(crate) fn get(&self) -> *mut T {
        self.0.as_ptr()
    }
}

impl<T: Free> Drop for Handle<T> {
    fn drop(&mut self) {
        // SAFETY: owned, and gone with this.
        unsafe { T::free(self.get()) }
    }
}

// SAFETY: any thread may own a handle. What may be done with a shared one, qwen.h allows for const handles and for engines; of
// the others the types that hold them let only one thread at a time (`&mut self`) do more than cancel.
unsafe impl<T: Free> Send for Handle<T> {}
unsafe impl<T: Free> Sync for Handle<T> {}

macro_rules! freed_by {
    ($($handle:ident: $function:ident,)*) => {$(
        impl Free for sys::$handle {
            unsafe fn free(handle: *mut Self) {
                sys::$function(handle)
            }
        }
    )*};
}
freed_by! {
    qwen_engine: qwen_destroy,
    qwen_inputs: qwen_inputs_free,
    qwen_model: qwen_model_free,
    qwen_options: qwen_options_free,
    qwen_prompt: qwen_prompt_free,
    qwen_queue: qwen_queue_free,
    qwen_request: qwen_request_free,
    qwen_result: qwen_result_free,
    qwen_tensors: qwen_tensors_free,
    qwen_tokenizer: qwen_tokenizer_free,
}

/// The structs that the library fills.
///
/// # Safety
/// Numbers and pointers only, for which zeros are values; the first field is a `u32`, the struct's size.
pub(crate) unsafe trait Filled: Copy {}
unsafe impl Filled for sys::qwen_choice {}
unsafe impl Filled for sys::qwen_engine_stats {}
unsafe impl Filled for sys::qwen_event {}
unsafe impl Filled for sys::qwen_model_info {}
unsafe impl Filled for sys::qwen_stats {}
unsafe impl Filled for sys::qwen_tensor {}
unsafe impl Filled for sys::qwen_tool_call {}

/// A struct that is empty but for its size.
pub(crate) fn sized<T: Filled>() -> T {
    let mut empty = std::mem::MaybeUninit::<T>::zeroed();
    // SAFETY: what Filled promises.
    unsafe {
        empty.as_mut_ptr().cast::<u32>().write(std::mem::size_of::<T>() as u32);
        empty.assume_init()
    }
}

/// A struct, from the function that fills it.
pub(crate) fn read<T: Filled>(function: impl FnOnce(*mut T, *mut *mut sys::qwen_error) -> i32) -> Result<T> {
    let mut filled = sized();
    call(|error| function(&mut filled, error))?;
    Ok(filled)
}

/// From a function that fills a list whose length is known only afterwards.
pub(crate) fn collect<T: Copy + Default>(
    guess: usize,
    mut function: impl FnMut(*mut T, usize, *mut usize, *mut *mut sys::qwen_error) -> i32,
) -> Result<Vec<T>> {
    let mut out = vec![T::default(); guess];
    loop {
        let mut needed = 0;
        call(|error| function(out.as_mut_ptr(), out.len(), &mut needed, error))?;
        let whole = needed <= out.len();
        out.resize(needed, T::default());
        if whole {
            return Ok(out);
        }
    }
}

/// A borrowed array; NULL is an empty one.
///
/// # Safety
/// `data` is NULL or has `count` values that live for `'a`.
pub(crate) unsafe fn slice<'a, T>(data: *const T, count: usize) -> &'a [T] {
    if data.is_null() {
        return &[];
    }
    std::slice::from_raw_parts(data, count)
}

/// A copy of a text of the library, which is UTF-8; NULL is "".
///
/// # Safety
/// `data` is NULL or has `length` bytes.
pub(crate) unsafe fn owned_text(data: *const c_char, length: usize) -> String {
    String::from_utf8_lossy(slice(data.cast(), length)).into_owned()
}

/// A NUL-terminated text of the library; NULL is "".
///
/// # Safety
/// `data` is NULL or lives for `'a`.
pub(crate) unsafe fn text<'a>(data: *const c_char) -> &'a str {
    if data.is_null() {
        return "";
    }
    CStr::from_ptr(data).to_str().unwrap_or("")
}
