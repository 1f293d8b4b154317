//! The declarations of `qwen.h`, one by one; what they mean stands there. The crate `qwen` is the safe way to use them.
#![allow(non_camel_case_types)]

use std::marker::{PhantomData, PhantomPinned};

#[rustfmt::skip]
mod declarations; // written by make_declarations.py

pub use declarations::*;

/// Makes a handle neither Send nor Sync nor Unpin, unless somebody says so.
type Marker = PhantomData<(*mut u8, PhantomPinned)>;
